"""Tables in the pages and in napari's manifest, written from the tables in the code.

`python docs/_scripts/write_tables.py` after a format or a tool has changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from napari_emseg.io.formats import OUTPUT_KINDS, output_suffixes
from napari_emseg.widgets.tools import TOOLS

ROOT = Path(__file__).resolve().parents[2]


def formats_page(text: str) -> str:
    """Return the page of formats with the table of what is written."""
    rows = (
        (
            f"`{kind.name}`",
            " ".join(f"`{suffix}`" for suffix in kind.suffixes),
            kind.opens_in,
            kind.membranes or "–",
            kind.cells,
            kind.voxel_size,
        )
        for kind in OUTPUT_KINDS
    )
    head = ("`--format`", "name", "for", "membranes", "cells", "voxel size")
    return _with_table(text, head, rows)


def tools_page(text: str) -> str:
    """Return the page of correcting with the table of tools."""
    rows = ((tool.name, tool.key, tool.hint, tool.when) for tool in TOOLS)
    return _with_table(text, ("tool", "key", "what to do", "when"), rows)


def manifest(text: str) -> str:
    """Return napari's manifest with the endings that its writers take."""
    for command, cells in (("write_image", False), ("write_labels", True)):
        endings = "".join(f'\n        - "{s}"' for s in output_suffixes(cells=cells))
        text = re.sub(
            rf"(command: napari-emseg\.{command}\n(?:      .*\n)*?"
            r"      filename_extensions:)(?:\n        .*)+",
            rf"\1{endings}",
            text,
        )
    return text


PAGES = {
    ROOT / "docs" / "formats.md": formats_page,
    ROOT / "docs" / "correct.md": tools_page,
    ROOT / "src" / "napari_emseg" / "napari.yaml": manifest,
}


def _with_table(
    text: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]
) -> str:
    """Return a page whose table with this head has these rows."""
    first = f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    before, found, after = text.partition(first)
    if not found:
        msg = f"no table begins with {first!r}"
        raise ValueError(msg)
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return before + first + lines + re.sub(r"\A(?:\|.*\n)*", "", after)


if __name__ == "__main__":
    for path, written in PAGES.items():
        path.write_text(written(path.read_text("utf-8")), "utf-8")
