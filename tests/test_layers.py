"""What an import must not bring along, looked at in a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[1]


SHOW = "import sys; print('\\nloaded', *{n.partition('.')[0] for n in sys.modules})"


def loaded_after(*steps: str, cwd: Path | None = None) -> list[set[str]]:
    """Run steps in one new interpreter; return the top-level modules after each.

    What a step loads is there after all later ones, so their sets only grow.
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(f"{step}\n{SHOW}" for step in steps)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    lines = (line.split() for line in done.stdout.splitlines())
    return [set(words[1:]) for words in lines if words[:1] == ["loaded"]]


QT = {"qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "napari", "magicgui", "superqt"}


# Imported one after another: a later one may bring what an earlier one must not.
FORBIDDEN = {
    "napari_emseg": QT | {"torch", "numpy", "pydantic"},
    "napari_emseg.core.settings": QT | {"torch", "dask", "zarr"},
    "napari_emseg.metrics": QT | {"torch", "numba"},
    "napari_emseg.batch": QT | {"torch", "numba", "distributed"},
    "napari_emseg.io": QT | {"torch"},
    "napari_emseg.sample": QT | {"torch"},
    "napari_emseg.segmentation": QT | {"torch"},
    "napari_emseg.check": QT | {"torch"},
    "napari_emseg.models.weights": QT | {"torch"},
    "napari_emseg.inference": QT | {"torch", "openvino"},
    "napari_emseg.project": QT | {"torch"},
    "napari_emseg.session": QT | {"torch"},
    "napari_emseg.api": QT | {"torch"},
    "napari_emseg.cli": QT | {"torch"},
    "napari_emseg._napari": {"torch", "openvino"},
    "napari_emseg.widgets": {"torch", "openvino"},
}


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """The top-level modules that are there after each import."""
    found = loaded_after(*(f"import {module}" for module in FORBIDDEN))
    return dict(zip(FORBIDDEN, found, strict=True))


@pytest.mark.parametrize("module", FORBIDDEN)
def test_an_import_stays_light(module, loaded):
    assert "napari_emseg" in loaded[module]
    assert not loaded[module] & FORBIDDEN[module]


COMMANDS = (
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
)


@pytest.fixture(scope="module")
def loaded_by_commands(tmp_path_factory: pytest.TempPathFactory) -> list[set[str]]:
    from napari_emseg.io import save_stack
    from napari_emseg.sample import vnc, vnc_membranes

    folder = tmp_path_factory.mktemp("commands")
    save_stack(folder / "em.tif", vnc())
    save_stack(folder / "truth.tif", vnc_membranes())
    begin = "from napari_emseg.cli import main"
    steps = (f"{begin}\nassert main({words!r}) == 0" for words in COMMANDS)
    return loaded_after(*steps, cwd=folder)


@pytest.mark.parametrize("index", range(len(COMMANDS)), ids=lambda i: COMMANDS[i][0])
def test_commands_without_a_network_load_neither_torch_nor_qt(
    index, loaded_by_commands
):
    assert "napari_emseg" in loaded_by_commands[index]
    assert not loaded_by_commands[index] & (QT | {"torch", "openvino"})


def test_help_is_there_before_anything_for_files_is_loaded(loaded_by_commands):
    assert "cyclopts" in loaded_by_commands[0]
    assert not loaded_by_commands[0] & {"numpy", "zarr", "tifffile", "yaozarrs"}


def test_discovery_of_the_plugin_does_not_load_torch():
    code = (
        "from npe2 import PluginManager\n"
        "manager = PluginManager.instance()\n"
        "manager.discover()\n"
        "assert 'napari-emseg' in manager"
    )
    (found,) = loaded_after(code)
    assert not found & {"torch", "openvino"}


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


@cache
def modules() -> dict[str, ast.Module]:
    """Code of the package by the names of its modules."""
    found = {}
    for path in sorted((ROOT / "src" / "napari_emseg").rglob("*.py")):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


def test_a_public_class_name_exists_once() -> None:
    places: dict[str, list[str]] = {}
    for module, code in modules().items():
        for node in code.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def statements(code: ast.AST) -> Iterator[ast.AST]:
    """All statements; expressions, of which there are many more, import nothing."""
    for child in ast.iter_child_nodes(code):
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield child
            yield from statements(child)


def needed(code: ast.AST, known: Mapping[str, object]) -> set[str]:
    """Modules of the package that code imports: lazily and for types, too."""
    names: set[str] = set()
    for node in statements(code):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute, so that this sees them"
            below = (f"{node.module}.{alias.name}" for alias in node.names)
            names |= {name if name in known else str(node.module) for name in below}
    return names.intersection(known)


def circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, directly or through others."""
    names = list(imports)
    graph = np.array([[b in imports[a] for b in names] for a in names])
    n, group = connected_components(graph, connection="strong")
    members = [[names[i] for i in np.flatnonzero(group == k)] for k in range(n)]
    return [sorted(found) for found in members if len(found) > 1]


def test_circles_of_imports_are_found() -> None:
    code = "def f():\n    from a.b import C\nif TYPE_CHECKING:\n    from a import c"
    known = dict.fromkeys(("a", "a.b", "a.c", "a.d"))
    assert needed(ast.parse(code), known) == {"a.b", "a.c"}
    chain = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}
    assert circles(chain) == [["a", "b", "c"]]


def test_no_circles_of_imports() -> None:
    """Not even with imports inside functions and for types: one can be read alone."""
    code = modules()
    found = circles({name: needed(tree, code) - {name} for name, tree in code.items()})
    in_session = [c for c in found if any(".session" in name for name in c)]
    assert in_session + [c for c in found if len(c) > 2] == []
