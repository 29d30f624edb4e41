"""A picture of one section beside its result, as PNG."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from napari_emseg.core.atomic import atomic_write

CAPTION_HEIGHT = 26
GAP = 6
CELL_OPACITY = 0.35
TURN = 0.618034
"""Golden section: neighbouring ids get hues that are far apart."""


def save_picture(
    path: Path,
    *,
    grey: NDArray[np.uint8],
    membrane: NDArray[np.float32],
    cells: NDArray[np.uint32],
    credit: str,
) -> None:
    """Write EM, probability of membrane and outlined cells side by side.

    Parameters
    ----------
    grey, membrane, cells
        `(y, x)` of one section.
    credit
        Whose EM it is, and its licence; written under the picture.
    """
    panels = {
        "EM": _as_rgb(grey),
        "probability of membrane": _as_rgb(np.rint(membrane * 255)),
        "cells": _outlined(grey, cells),
    }
    height, width = grey.shape
    size = (
        3 * width + 2 * GAP,
        height + 2 * CAPTION_HEIGHT,
    )
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=16)
    for n, (title, panel) in enumerate(panels.items()):
        x = n * (width + GAP)
        draw.text((x + 2, 3), title, "black", font)
        picture.paste(Image.fromarray(panel), (x, CAPTION_HEIGHT))
    small = ImageFont.load_default(size=13)
    draw.text((2, height + CAPTION_HEIGHT + 5), credit, "black", small)
    with atomic_write(path) as file:
        picture.save(file, format="PNG")


def outlines(cells: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return the pixels of cells `(y, x)` that have a 4-neighbour outside."""
    padded = np.pad(cells, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    found = np.zeros(cells.shape, bool)
    for neighbour in (
        padded[:-2, 1:-1],
        padded[2:, 1:-1],
        padded[1:-1, :-2],
        padded[1:-1, 2:],
    ):
        found |= neighbour != inner
    return found & (cells > 0)


def _as_rgb(grey: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(grey.astype(np.uint8)[..., np.newaxis], 3, axis=-1)


def _outlined(grey: NDArray[np.uint8], cells: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Lay each cell's colour over the EM, its outline in full."""
    ids, index = np.unique(cells, return_inverse=True)
    colours = np.array([hsv_to_rgb(i * TURN % 1, 0.75, 1.0) for i in ids.tolist()])
    over = (255 * colours)[index.reshape(cells.shape)]
    opacity = np.where(cells > 0, CELL_OPACITY, 0.0)
    opacity[outlines(cells)] = 1.0
    mixed = _as_rgb(grey) * (1 - opacity[..., np.newaxis])
    mixed += over * opacity[..., np.newaxis]
    result: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return result
