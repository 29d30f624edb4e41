# Two commands set everything up on a fresh machine, and work again when run twice:
#
#   make demo          the main job on the bundled EM stack, results in demo-output/
#   make demo GUI=1    the same, and then napari on the result
#   make test          every test
#   make wheels        both distributions as wheels, in dist/
#   make test-lowest   a part of them with the lowest versions that pyproject.toml allows
#
# PYTHON=/path/to/python3 chooses the interpreter (3.11 or newer), VENV=.venv-3.13 where
# its environment lies, TESTS="tests/io tests/segmentation" a part of the tests.
# TORCH_INDEX=URL adds a package index for torch, e.g. PyTorch's own one of CPU builds.

VENV ?= .venv
export PYTHON TORCH_INDEX VENV

BIN := $(VENV)/bin
# Tests run side by side, each process on a virtual screen of its own (Linux); one that
# has nothing left takes half of what another still has to do.
PYTEST_ARGS ?= -n logical --maxprocesses 4 --dist worksteal

# What touches each of the required packages, and a panel that is opened and closed.
TESTS_LOWEST ?= tests/io tests/segmentation tests/models tests/project tests/test_dependencies.py \
	tests/test_api.py tests/widgets/test_dock.py tests/widgets/test_cells_panel.py \
	tests/test_napari.py tests/widgets/test_whole_way.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest wheels lint typecheck check docs clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

demo:
ifdef GUI
	@scripts/system_packages.sh gui
	@scripts/environment.sh all
	@$(BIN)/emseg demo --out demo-output --overwrite --gui
else
	@scripts/environment.sh core
	@$(BIN)/emseg demo --out demo-output --overwrite
endif

# Tests start many programs: they find every module compiled by the first of them.
test: export PYTHONDONTWRITEBYTECODE =
test:
	@scripts/system_packages.sh test
	@scripts/environment.sh dev
	@$(BIN)/python -m pytest $(PYTEST_ARGS) $(TESTS)

test-lowest:
	@scripts/system_packages.sh test
	@scripts/lowest_versions.sh
	@.venv-lowest/bin/python -m pytest $(PYTEST_ARGS) $(TESTS_LOWEST)

wheels:
	@scripts/environment.sh dev
	@PYTHON="$(abspath $(BIN))/python" scripts/build_wheels.sh dist

lint:
	@scripts/environment.sh dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports

typecheck:
	@scripts/environment.sh dev
	@$(BIN)/mypy

check: lint typecheck
	@PATH="$(abspath $(BIN)):$$PATH" scripts/check_public_files.sh

docs:
	@scripts/environment.sh dev
	@$(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf .venv .venv-* demo-output dist build site
