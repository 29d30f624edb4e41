"""What `pyproject.toml` asks for, held against what the source imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from test_layers import imported

from napari_emseg._installed import (
    MODULES,
    TESTED,
    RequirementError,
    incompatible,
    naming_versions,
)

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "napari_emseg"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

NOT_IMPORTED = {"cryptography": "distributed makes its temporary certificates with it"}
"""Requirements that the source never imports, and who does."""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[\w.-]+", line) for line in requirements)
    return {normalised(match[0]) for match in found if match}


@cache
def imports() -> dict[str, set[str]]:
    """Return the top-level modules that each file of the source imports."""
    return {
        path.relative_to(SOURCE).as_posix(): {
            name.partition(".")[0] for name in imported(ast.parse(path.read_bytes()))
        }
        for path in SOURCE.rglob("*.py")
    }


@pytest.fixture(scope="module")
def modules() -> set[str]:
    """Top-level modules, not of Python itself, that the source imports."""
    return set().union(*imports().values()) - sys.stdlib_module_names - {"napari_emseg"}


@cache
def sources() -> dict[str, list[str]]:
    """Return the distributions that each installed module comes from."""
    return dict(packages_distributions())


def distributions(modules: set[str]) -> set[str]:
    known = sources()
    return {normalised(name) for module in modules for name in known.get(module, ())}


REQUIRED = names(PROJECT["dependencies"])
EXTRAS = PROJECT["optional-dependencies"]
OPTIONAL = names([line for extra in EXTRAS.values() for line in extra])


def test_nothing_is_required_that_nothing_imports(modules):
    assert REQUIRED - distributions(modules) - NOT_IMPORTED.keys() == set()


@pytest.mark.parametrize("extra", ["openvino", "nncf", "neuroglancer", "meshes", "tls"])
def test_no_extra_brings_what_nothing_imports(modules, extra):
    found = {normalised(module) for module in modules} | distributions(modules)
    assert names(EXTRAS[extra]) - found - NOT_IMPORTED.keys() == set()


def test_everything_imported_is_asked_for(modules):
    allowed = {module: sources().get(module, [module]) for module in modules}
    missing = {
        module
        for module, found in allowed.items()
        if not {normalised(name) for name in found} & (REQUIRED | OPTIONAL)
    }
    assert missing == set()


def test_every_requirement_is_argued_for():
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    table = page.partition("\n## ")[0]
    rows = re.findall(r"^\| ([\w-]+) \|", table, re.MULTILINE)
    assert {normalised(row) for row in rows} - {"package"} == REQUIRED


def test_every_requirement_has_a_lower_bound_only():
    for line in PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", line), line


@pytest.mark.parametrize(
    ("package", "home"),
    [
        ("bioimage_cpp", "core/requirements.py"),
        ("yaozarrs", "io/zarr_sink.py"),
        ("openvino", "inference/openvino_runtime.py"),
        ("nncf", "inference/openvino_runtime.py"),
    ],
)
def test_packages_that_may_change_are_imported_in_one_place(package, home):
    assert {file for file, names in imports().items() if package in names} == {home}


@pytest.mark.parametrize(
    ("gone", "module", "package"),
    [
        ("bioimage_cpp.graph.UndirectedGraph", "segmentation", "bioimage-cpp"),
        (
            "bioimage_cpp.distance.dijkstra_distance_field",
            "proofreading.gap",
            "bioimage-cpp",
        ),
        ("yaozarrs.write.v05.prepare_image", "io.zarr_sink", "yaozarrs"),
        ("yaozarrs.v05.Image", "io.writing", "yaozarrs"),
    ],
)
def test_an_interface_that_is_gone_is_named_at_import(gone, module, package):
    home, _, name = gone.rpartition(".")
    code = f"import {home} as home; del home.{name}; import napari_emseg.{module}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"\S+RequirementError: {package} [\d.]+ can't be used here \(.*{name}.*\); "
        rf"pip install {package}==[\d.]+ works",
        last,
    )


@pytest.mark.parametrize("package", TESTED)
def test_an_import_that_fails_names_the_version_that_was_tested(package) -> None:
    other_names = {named: module for module, named in MODULES.items()}
    module = other_names.get(package, package.replace("-", "_"))
    assert distributions({module}) == {package}
    gone = ImportError("cannot import name 'x'", name=f"{module}.part")
    words = rf"{package} {version(package)} can't be used here \(cannot import name 'x'"
    with (
        pytest.raises(RequirementError, match=words) as caught,
        naming_versions(),
    ):
        raise gone
    assert str(caught.value).endswith(f"pip install {package}=={TESTED[package]} works")


def test_other_imports_fail_as_they_are() -> None:
    gone = ImportError("no module", name="elsewhere")
    with pytest.raises(ImportError, match=r"^no module$") as caught, naming_versions():
        raise gone
    assert caught.value is gone


def test_the_command_line_says_it_in_one_line() -> None:
    code = (
        "import sys, safetensors; del safetensors.safe_open\n"
        "from napari_emseg.cli import main; sys.exit(main(['weights', 'list']))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: safetensors {version('safetensors')} can't be used")
    assert line.endswith(f"pip install safetensors=={TESTED['safetensors']} works")


@pytest.mark.parametrize(
    ("system", "machine", "compiler"),
    [
        ("Linux", "aarch64", True),
        ("Linux", "x86_64", False),
        ("Windows", "AMD64", False),
        ("Windows", "ARM64", True),
        ("Darwin", "arm64", False),
        ("Darwin", "x86_64", True),
    ],
)
def test_a_package_without_a_wheel_says_what_builds_it(
    monkeypatch, system, machine, compiler
):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    gone = ImportError("no module")
    said = str(incompatible("no-such-package", "1.0", gone, compiled=True))
    assert said.startswith("no-such-package isn't installed; pip install")
    assert ("C++ compiler" in said) == compiler
    plain = str(incompatible("no-such-package", "1.0", gone))
    assert "C++ compiler" not in plain
