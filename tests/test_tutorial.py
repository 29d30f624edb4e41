"""The tutorial's page and the script that takes its steps say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCRIPT = DOCS / "_scripts" / "make_tutorial.py"


def steps_of_the_script() -> dict[str, list[str]]:
    """Return titles and pictures of the functions that are steps, in their order."""
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        for mark in getattr(node, "decorator_list", ()):
            if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "step":
                title, *pictures = (ast.literal_eval(arg) for arg in mark.args)
                found[title] = pictures
    return found


def steps_of_the_page() -> dict[str, list[str]]:
    """Return numbered headings and the pictures below each."""
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    found = {}
    for number, part in enumerate(parts, start=1):
        heading, _, body = part.partition("\n")
        if heading.startswith(f"{number}. "):
            found[heading.partition(" ")[2]] = re.findall(r"\(images/(.+?)\)", body)
    return found


def test_steps_and_pictures_are_those_of_the_script() -> None:
    page = steps_of_the_page()
    assert len(page) > 8
    assert page == steps_of_the_script()
    assert list(page) == list(steps_of_the_script())


@pytest.mark.parametrize(
    "name", sorted(name for names in steps_of_the_page().values() for name in names)
)
def test_every_picture_is_there_and_small(name: str) -> None:
    path = DOCS / "images" / name
    assert path.stat().st_size < 700_000
    with Image.open(path) as picture:
        assert max(picture.size) > 300


def test_what_a_run_found_stands_in_the_page() -> None:
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    script = SCRIPT.read_text(encoding="utf-8")
    names = re.findall(r"<!-- begin (\w+) -->", text)
    assert "judgement" in names
    for name in names:
        _, begin, rest = text.partition(f"<!-- begin {name} -->")
        body, end, _ = rest.partition(f"<!-- end {name} -->")
        assert begin
        assert end
        assert body.strip(), f"{name} is empty: run docs/_scripts/make_tutorial.py"
        assert f'"{name}"' in script or f"{name}:" in script


def test_the_judgement_is_a_gain_of_cells_on_what_was_held_out() -> None:
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    judgement = text.partition("<!-- begin judgement -->")[2].partition("<!--")[0]
    assert "better" in judgement
    assert "held-out px" in judgement
    found = re.search(r"VI ([\d.]+) against ([\d.]+) bits", judgement)
    assert found is not None
    assert float(found[1]) < float(found[2])
    scores = text.partition("<!-- begin scores -->")[2].partition("<!--")[0]
    before, after = map(float, re.findall(r"0?\.\d+", scores))
    assert after > before


def test_buttons_and_panels_that_the_page_names_exist() -> None:
    """What is bold or in italics in a step stands somewhere in the window."""
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    source = DOCS.parent / "src" / "napari_emseg"
    window = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("widgets", "core", "session", "_napari")
        for path in (source / folder).glob("*.py")
    ) + (source / "napari.yaml").read_text(encoding="utf-8")
    buttons = (
        *(
            "Find regions",
            "Save project…",
            "Accept",
            "Reject",
            "Show where they differ",
        ),
        *(
            "Minimum size",
            "Live-wire",
            "Close gap",
            "Merge",
            "Split cell",
            "Suggested regions",
        ),
        *("Evaluate", "Start", "all sections", "No validation regions", "Brush"),
        "FIB-SEM of a fly's optic lobe",
    )
    for words in buttons:
        assert words in text, f"the page doesn't name {words!r}"
        assert words in window, f"the window has no {words!r} any more"
