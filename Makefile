# Two commands set everything up on a fresh machine, and work again when run twice:
#
#   make demo          the main job on the bundled EM stack, results in demo-output/
#   make demo GUI=1    the same, and then napari on the result
#   make test          every test
#
# PYTHON=/path/to/python3 chooses the interpreter (3.11 or newer).
# TORCH_INDEX=URL adds a package index for torch, e.g. PyTorch's own one of CPU builds.

export PYTHON TORCH_INDEX

VENV := .venv/bin
# Panels are tested in a screen of their own where there is a virtual one (Linux).
SCREEN := $(if $(filter Linux,$(shell uname -s)),xvfb-run -a -s "-screen 0 1600x1000x24")
# Tests run side by side; those that show a window share the screen and stay together.
PYTEST_ARGS ?= -n logical --maxprocesses 4 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help demo test lint typecheck check docs clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

demo:
ifdef GUI
	@scripts/system_packages.sh gui
	@scripts/environment.sh all
	@$(VENV)/emseg demo --out demo-output --overwrite --gui
else
	@scripts/environment.sh core
	@$(VENV)/emseg demo --out demo-output --overwrite
endif

# Tests start many programs: they find every module compiled by the first of them.
test: export PYTHONDONTWRITEBYTECODE =
test:
	@scripts/system_packages.sh test
	@scripts/environment.sh dev
	@$(SCREEN) $(VENV)/python -m pytest $(PYTEST_ARGS)

lint:
	@scripts/environment.sh dev
	@$(VENV)/ruff check
	@$(VENV)/ruff format --check
	@$(VENV)/lint-imports

typecheck:
	@scripts/environment.sh dev
	@$(VENV)/mypy

check: lint typecheck
	@$(VENV)/validate-pyproject pyproject.toml
	@$(VENV)/npe2 validate --imports napari-emseg

docs:
	@scripts/environment.sh dev
	@$(VENV)/mkdocs build --quiet --strict

clean:
	rm -rf .venv demo-output dist build site
