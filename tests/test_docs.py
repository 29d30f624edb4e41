"""The pages name what is there: folders, files that are linked to, and every page."""

from __future__ import annotations

import builtins
import re
from importlib import import_module
from pathlib import Path

import pytest
from written_tables import written

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "napari_emseg"
PAGES = sorted(DOCS.rglob("*.md"))


def layout() -> str:
    """Return the drawing of the tree in the page on architecture."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    return text.split("src/napari_emseg/\n")[1].split("\nImports go downwards")[0]


def test_the_drawing_of_the_tree_has_every_folder_and_file_at_the_top() -> None:
    drawn = set(re.findall(r"^ {6}([\w.]+/?) ", layout(), flags=re.MULTILINE))
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in PACKAGE.iterdir()
        if path.name not in ("__pycache__", "py.typed")
        and (path.is_file() or any(path.glob("*.py")))
    }
    assert drawn == there


def test_files_below_a_folder_of_the_drawing_exist() -> None:
    folder = ""
    for line in layout().splitlines():
        if found := re.match(r" {6}(\w+)/ ", line):
            folder = found[1]
        if found := re.match(r" {8}(\w+\.py) ", line):
            assert (PACKAGE / folder / found[1]).is_file(), f"{folder}/{found[1]}"


def test_errors_that_docstrings_name_exist() -> None:
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    known, named = set(dir(builtins)), set()
    for code in sources:
        known |= set(re.findall(r"^class (\w+)", code, re.MULTILINE))
        for section in re.findall(r"\n *Raises\n *-+\n(.*?)\"\"\"", code, re.DOTALL):
            listed = re.findall(r"^ *([A-Z]\w+(?:, [A-Z]\w+)*)$", section, re.MULTILINE)
            named |= {name for line in listed for name in line.split(", ")}
    assert "UnreadableError" in named
    assert named <= known


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == [str(page.relative_to(DOCS)) for page in PAGES]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_files_that_a_page_links_to_exist(page: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    files = [link.partition("#")[0] for link in links if "://" not in link]
    assert files
    missing = [name for name in files if not (ROOT / name).exists()]
    assert missing == []


def test_functions_that_the_page_for_python_lists_are_all_that_are_public() -> None:
    import napari_emseg

    text = (DOCS / "api.md").read_text(encoding="utf-8")
    listed = {name.rsplit(".", 1)[1] for name in re.findall(r"^::: (\S+)", text, re.M)}
    assert set(napari_emseg.__all__) - {"__version__"} <= listed


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.name)
def test_what_a_page_imports_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module, names in re.findall(
        r"^from (napari_emseg\S*) import (.+)$", text, re.M
    ):
        for name in names.split(", "):
            found = hasattr(import_module(module), name)
            assert found or import_module(f"{module}.{name}"), f"{module}.{name}"


@pytest.mark.parametrize(
    "page", ["docs/formats.md", "docs/correct.md", "src/napari_emseg/napari.yaml"]
)
def test_tables_are_those_in_the_code(page: str) -> None:
    told = "run docs/_scripts/write_tables.py"
    assert written(page) == (ROOT / page).read_text("utf-8"), told
