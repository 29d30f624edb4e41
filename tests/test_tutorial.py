"""Pages of steps, and the scripts that take them, say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCRIPTS = {
    "tutorial": DOCS / "_scripts" / "make_tutorial.py",
    "neurites": DOCS / "_scripts" / "make_neurites.py",
}


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def steps_of_the_script(page: str) -> dict[str, list[str]]:
    """Return titles and pictures of the functions that are steps, in their order."""
    tree = ast.parse(SCRIPTS[page].read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        for mark in getattr(node, "decorator_list", ()):
            if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "step":
                title, *pictures = (ast.literal_eval(arg) for arg in mark.args)
                found[title] = pictures
    return found


def steps_of_the_page(page: str) -> dict[str, list[str]]:
    """Return numbered headings and the pictures below each."""
    parts = re.split(r"^## ", text_of(page), flags=re.MULTILINE)[1:]
    found = {}
    for number, part in enumerate(parts, start=1):
        heading, _, body = part.partition("\n")
        if heading.startswith(f"{number}. "):
            found[heading.partition(" ")[2]] = re.findall(r"\(images/(.+?)\)", body)
    return found


@pytest.mark.parametrize("page", SCRIPTS)
def test_steps_and_pictures_are_those_of_the_script(page: str) -> None:
    steps = steps_of_the_page(page)
    assert len(steps) > 5
    assert steps == steps_of_the_script(page)
    assert list(steps) == list(steps_of_the_script(page))


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for page in SCRIPTS
        for names in steps_of_the_page(page).values()
        for name in names
    ),
)
def test_every_picture_is_there_and_small(name: str) -> None:
    path = DOCS / "images" / name
    assert path.stat().st_size < 700_000
    with Image.open(path) as picture:
        assert max(picture.size) > 300


@pytest.mark.parametrize("page", SCRIPTS)
def test_what_a_run_found_stands_in_the_page(page: str) -> None:
    text = text_of(page)
    script = SCRIPTS[page].read_text(encoding="utf-8")
    names = re.findall(r"<!-- begin (\w+) -->", text)
    assert {"tutorial": "judgement", "neurites": "cells"}[page] in names
    for name in names:
        _, begin, rest = text.partition(f"<!-- begin {name} -->")
        body, end, _ = rest.partition(f"<!-- end {name} -->")
        assert begin
        assert end
        assert body.strip(), f"{name} is empty: run {SCRIPTS[page]}"
        assert f'"{name}"' in script or f"{name}:" in script


def test_the_judgement_is_a_gain_of_cells_on_what_was_held_out() -> None:
    text = text_of("tutorial")
    judgement = text.partition("<!-- begin judgement -->")[2].partition("<!--")[0]
    assert "better" in judgement
    assert "held-out px" in judgement
    found = re.search(r"VI ([\d.]+) against ([\d.]+) bits", judgement)
    assert found is not None
    assert float(found[1]) < float(found[2])
    scores = text.partition("<!-- begin scores -->")[2].partition("<!--")[0]
    bits, fewer, rand, more = map(float, re.findall(r"\d\.\d+", scores))
    assert fewer < bits
    assert more > rand


NAPARIS = {"Open Sample", "Save Selected Layers", "Convert data type", "brush size"}
"""Menu entries and controls of napari's own."""


def words_of_the_window() -> str:
    """Return all that the window may show, in small letters."""
    source = DOCS.parent / "src" / "napari_emseg"
    folders = ("", "widgets", "core", "session", "proofreading", "io", "_napari")
    texts = [p.read_text("utf-8") for f in folders for p in (source / f).glob("*.py")]
    texts.append((source / "napari.yaml").read_text("utf-8"))
    # strings go on in the next line
    return re.sub(r'"\s*\n\s*f?"', "", "".join(texts)).lower()


PAGES = ("tutorial", "neurites", "retrain", "panels", "correct", "live", "../README")


@pytest.mark.parametrize("page", PAGES)
def test_buttons_panels_and_layers_that_a_page_names_exist(page: str) -> None:
    """What is bold or in italics stands somewhere in the window."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    bold = re.findall(r"\*\*([^*]+)\*\*", text)
    slanted = re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", text)
    names = {
        re.sub(r"^\d ", "", " ".join(name.split()).strip(" .:,…"))
        for words in (*bold, *slanted)
        for name in words.split("›")
    }
    # sentences are stressed, too; reasons of regions and the sample's have numbers
    names = {n for n in names if len(n.split()) < 4 and not re.search(r"[(\d]", n)}
    names -= NAPARIS
    assert len(names) > 3
    window = words_of_the_window()
    assert not sorted(name for name in names if name.lower() not in window)
