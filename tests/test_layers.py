"""What an import must not bring along, looked at in a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def loaded_after(code: str, cwd: Path | None = None) -> set[str]:
    """Run code in a new interpreter and return the top-level modules it has then."""
    show = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code + show],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


QT = {"qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "napari", "magicgui", "superqt"}


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("napari_emseg", QT | {"torch", "numpy", "pydantic"}),
        ("napari_emseg.core.settings", QT | {"torch", "dask", "zarr"}),
        ("napari_emseg.io", QT | {"torch"}),
        ("napari_emseg.metrics", QT | {"torch", "numba"}),
        ("napari_emseg.sample", QT | {"torch"}),
        ("napari_emseg.segmentation", QT | {"torch"}),
        ("napari_emseg.check", QT | {"torch"}),
        ("napari_emseg.models.weights", QT | {"torch"}),
        ("napari_emseg.inference", QT | {"torch", "openvino"}),
        ("napari_emseg.project", QT | {"torch"}),
        ("napari_emseg.session", QT | {"torch"}),
        ("napari_emseg.batch", QT | {"torch", "numba", "distributed"}),
        ("napari_emseg.api", QT | {"torch"}),
        ("napari_emseg.cli", QT | {"torch"}),
        ("napari_emseg._napari", {"torch", "openvino"}),
        ("napari_emseg.widgets", {"torch", "openvino"}),
    ],
)
def test_an_import_stays_light(module, forbidden):
    assert not loaded_after(f"import {module}") & forbidden


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["predict", "--help"],
        ["train", "--help"],
        ["demo", "--help"],
        ["weights", "list"],
        ["check", "em.tif"],
        [
            *("evaluate", "truth.tif", "truth.tif"),
            *("--prediction-is", "membrane", "--truth-is", "membrane"),
        ],
    ],
)
def test_commands_without_a_network_load_neither_torch_nor_qt(words, tmp_path):
    from napari_emseg.io import save_stack
    from napari_emseg.sample import vnc, vnc_membranes

    save_stack(tmp_path / "em.tif", vnc())
    save_stack(tmp_path / "truth.tif", vnc_membranes())
    code = f"from napari_emseg.cli import main\nassert main({words!r}) == 0"
    assert not loaded_after(code, tmp_path) & (QT | {"torch", "openvino"})


def test_discovery_of_the_plugin_does_not_load_torch():
    code = (
        "from npe2 import PluginManager\n"
        "manager = PluginManager.instance()\n"
        "manager.discover()\n"
        "assert 'napari-emseg' in manager"
    )
    assert not loaded_after(code) & {"torch", "openvino"}


def test_imports_go_downwards_only():
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout


def imported(code: ast.AST) -> Iterator[str]:
    """Names of modules that code imports, also by pytest or importlib."""
    for node in ast.walk(code):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(name), level=0):
                yield name
            case ast.Call(
                func=ast.Name(name) | ast.Attribute(attr=name),
                args=[ast.Constant(str(module)), *_],
            ) if name in ("__import__", "import_module", "importorskip"):
                yield module


def test_openvino_is_imported_in_one_place():
    """It reports its use unless the one function that knows how imports it first."""
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("src", "tests", "scripts", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*.py")
        for name in imported(ast.parse(path.read_text("utf-8")))
        if name.partition(".")[0] in ("openvino", "openvino_telemetry")
    }
    assert found == {"src/napari_emseg/inference/openvino_runtime.py"}


@pytest.mark.parametrize(
    "code",
    [
        "import openvino as ov",
        "from openvino.tools import ovc",
        "def f():\n    return pytest.importorskip('openvino')",
        "import_module('openvino')",
    ],
)
def test_every_kind_of_import_is_seen(code):
    assert next(imported(ast.parse(code))).startswith("openvino")


def test_a_public_class_name_exists_once() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path.name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
