"""The summary of a batch: a table as CSV, and a page that needs nothing beside it."""

import csv
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_emseg.batch.output_folder import (
    FinishedInput,
    merge_finished,
    read_finished,
    write_finished,
)
from napari_emseg.batch.records import Row, Summary
from napari_emseg.core.atomic import write_whole
from napari_emseg.io import open_stack

CSV, HTML = "summary.csv", "summary.html"
THUMBNAIL = 192
"""Longest side, px."""

HEAD = (
    "name",
    "state",
    "sections",
    "height_px",
    "width_px",
    "cells",
    "seconds",
    "megabytes",
    "source",
    "results",
    "warnings",
    "version",
    "recipe",
)
"""Of the table; new columns come last, since scripts count them."""

STYLE = (
    "body{font:15px system-ui,sans-serif;margin:2em;color:#222}"
    "table{border-collapse:collapse}th,td{border:1px solid #bbb;padding:.4em .7em;"
    "text-align:left;vertical-align:top}td.n{text-align:right}img{margin-right:4px}"
    ".failed,.incomplete{background:#fdd}.done{background:#efe}"
)


def pages_of(out: Path) -> tuple[Path, ...]:
    """Return where the summary of a folder of results is."""
    return out / CSV, out / HTML


def write_report(
    summary: Summary, out: Path, known: Sequence[FinishedInput]
) -> tuple[Path, ...]:
    """Write both into the folder of results; return their paths.

    Rows of batches before stay, as long as their results do.

    Parameters
    ----------
    known
        What later batches know of the rows.

    Raises
    ------
    OSError
        If they can't be written.
    """
    together = merge_finished(read_finished(out), known, out)
    rows = {row.name: row for row in summary.rows}
    merged = tuple(rows.get(each.name) or each.row(out) for each in together)
    summary = replace(summary, rows=merged)
    write_finished(out, together)
    pages = pages_of(out)
    lines = [_cells(*each) for each in zip(merged, together, strict=True)]
    write_whole(pages[0], _csv(lines).encode())
    write_whole(pages[1], _html(summary, lines).encode())
    return pages


def _csv(lines: list[list[str]]) -> str:
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(HEAD)
    writer.writerows(lines)
    return text.getvalue()


def _cells(row: Row, known: FinishedInput) -> list[str]:
    height, width = row.shape or ("", "")
    return [
        row.name,
        row.state,
        "" if row.sections is None else str(row.sections),
        str(height),
        str(width),
        "" if row.cells is None else str(row.cells),
        f"{row.seconds:.1f}",
        f"{sum(map(_bytes, row.outputs)) / 1e6:.1f}",
        row.path,
        "; ".join(path.name for path in row.outputs),
        "; ".join(row.warnings),
        ", ".join(known.versions),
        known.recipe or "",
    ]


def _html(summary: Summary, lines: list[list[str]]) -> str:
    bad = sum(row.state != "done" for row in summary.rows)
    words = (
        f"{len(summary.rows)} inputs, {bad} with trouble, {summary.seconds:.0f} s; "
        f"{summary.tasks} parts done, {summary.reused} were done before"
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", *HEAD))
    rows = "".join(map(_html_row, summary.rows, lines))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>Batch summary</title><style>{STYLE}</style>"
        f"<h1>Batch summary</h1><p>{escape(words)}</p>"
        f"<table><tr>{head}</tr>{rows}</table></html>\n"
    )


def _html_row(row: Row, line: list[str]) -> str:
    pictures = "".join(_image(path) for path in row.outputs if path.suffix == ".zarr")
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in line)
    return f'<tr class="{row.state}"><td>{pictures}</td>{cells}</tr>'


def _image(path: Path) -> str:
    """Return the middle section of a result as a picture in the page itself."""
    try:
        values = _middle(path)
    except (OSError, ValueError):
        return ""
    content = BytesIO()
    Image.fromarray(values).save(content, "PNG")
    data = b64encode(content.getvalue()).decode()
    return f'<img alt="{escape(path.name)}" src="data:image/png;base64,{data}">'


def _middle(path: Path) -> NDArray[np.uint8]:
    from napari_emseg.io import describe

    levels = len(describe(path).items[0].shapes)
    stack = open_stack(path, level=levels - 1)
    z, y, x = stack.shape
    step = max(1, -(-max(y, x) // THUMBNAIL))
    values = np.asarray(stack.data[z // 2, ::step, ::step])
    return (
        _colours(values)
        if values.dtype.itemsize > 1 and (values.dtype.kind == "u")
        else _grey(values)
    )


def _grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    scale = 255 if values.dtype.kind == "f" else 1
    grey: NDArray[np.uint8] = np.clip(values * scale, 0, 255).astype(np.uint8)
    return grey


def _colours(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a colour for each id, black for none."""
    mixed = (ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    channels = [(mixed >> np.uint64(8 * k)) & np.uint64(127) for k in range(3)]
    colours = np.stack(channels, axis=-1).astype(np.uint8) + np.uint8(100)
    colours[ids == 0] = 0
    return colours


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size if path.exists() else 0
