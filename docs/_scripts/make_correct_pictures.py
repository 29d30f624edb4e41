"""Make the pictures of `correct.md`: each tool before and after, on the bundled EM.

`python docs/_scripts/make_correct_pictures.py`
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import napari_emseg as emseg
from napari_emseg.core.regions import Area
from napari_emseg.core.stack import Stack
from napari_emseg.proofreading import (
    Edit,
    History,
    LinkedLabels,
    SectionView,
    cut,
    delete_membrane,
    draw_wire,
    fill,
    find_gap,
    merge,
    paint,
    wire_field,
)
from napari_emseg.sample import vnc

IMAGES = Path(__file__).parents[1] / "images"
HALF, ZOOM, GAP = 64, 3, 8
ORANGE, BLUE, YELLOW = (230, 159, 0), (0, 114, 178), (240, 228, 66)
SHARE = 0.35
"""Of a cell's colour over the grey."""

Points = list[tuple[int, int]]


class Page:
    """One section to try tools on, always from its first state."""

    def __init__(self) -> None:
        stack = vnc()
        self.grey = np.asarray(stack.section(0))
        weights = emseg.load_weights("isbi2012-unet")
        one = Stack(self.grey[None], voxel_size_nm=stack.voxel_size_nm)
        self.likely = emseg.predict(one, weights)
        self.cells = emseg.segment(self.likely)
        self.threshold = weights.card.threshold

    def open(self) -> History:
        """Return a fresh history."""
        membranes = (self.likely > self.threshold).astype(np.uint8)
        return History(
            LinkedLabels(
                membranes,
                self.cells.copy(),
                np.zeros_like(membranes),
                probabilities=self.likely,
            )
        )

    def picture(self, history: History, centre: tuple[int, int]) -> Image.Image:
        """Draw cells over grey values, and corrections on top."""
        y, x = self._middle(centre)
        area = slice(y - HALF, y + HALF), slice(x - HALF, x + HALF)
        cells = np.asarray(history.linked.arrays["cells"][0])[area]
        corrections = np.asarray(history.linked.arrays["corrections"][0])[area]
        rgb = np.repeat(self.grey[area][..., None].astype(float), 3, axis=2)
        inside = cells > 0
        rgb[inside] = (1 - SHARE) * rgb[inside] + SHARE * colours(cells[inside])
        for value, colour in ((1, ORANGE), (2, BLUE)):
            here = corrections == value
            rgb[here] = 0.25 * rgb[here] + 0.75 * np.array(colour)
        image = Image.fromarray(rgb.astype(np.uint8))
        return image.resize((2 * HALF * ZOOM,) * 2, Image.Resampling.NEAREST)

    def mark(self, image: Image.Image, centre: tuple[int, int], points: Points) -> None:
        """Draw where the pointer clicked, or its stroke."""
        y, x = self._middle(centre)
        spots = [((b - x + HALF) * ZOOM, (a - y + HALF) * ZOOM) for a, b in points]
        pen = ImageDraw.Draw(image)
        if len(spots) > 1:
            pen.line(spots, fill=YELLOW, width=3)
        for a, b in (spots[0], spots[-1]):
            pen.ellipse((a - 5, b - 5, a + 5, b + 5), outline=YELLOW, width=3)

    def _middle(self, centre: tuple[int, int]) -> list[int]:
        """Return the middle of the part that is shown, within the section."""
        sides = zip(centre, self.grey.shape, strict=True)
        return [int(np.clip(c, HALF, n - HALF)) for c, n in sides]


def colours(ids: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return a colour for each id, the same in every picture."""
    golden = (ids.astype(np.float64)[:, None] * [0.618, 0.414, 0.732]) % 1
    return 60 + 195 * golden


def show(
    page: Page,
    name: str,
    points: Points,
    tool: Callable[[SectionView], Edit],
    before: Callable[[SectionView], Edit] | None = None,
) -> None:
    """Save a picture of a tool: before with the pointer's way, and after."""
    history = page.open()
    if before is not None:
        history.do(before(history.linked.sheet(0)))
        history.linked.arrays["corrections"][0] = 0
    centre = tuple(int(v) for v in np.mean(points, axis=0))
    first = page.picture(history, centre)
    page.mark(first, centre, points)
    edit = tool(history.linked.sheet(0))
    history.do(edit)
    second = page.picture(history, centre)
    side = first.width
    both = Image.new("RGB", (2 * side + GAP, side), "white")
    both.paste(first, (0, 0))
    both.paste(second, (side + GAP, 0))
    both.save(IMAGES / f"correct-{name}.png", optimize=True)


def disc(point: tuple[int, int], radius: int) -> tuple[NDArray[np.bool_], Area]:
    """Return a round mask, and its area."""
    y, x = point
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    area = slice(y - radius, y + radius + 1), slice(x - radius, x + radius + 1)
    return np.hypot(rows, columns) <= radius, area


def wire_along(sheet: SectionView, points: Points) -> NDArray[np.int64]:
    """Return the path that live-wire draws through clicks."""
    steps = pairwise(points)
    return np.concatenate([wire_field(sheet, a).path_to(b) for a, b in steps])


def main() -> None:
    """Make all pictures."""
    IMAGES.mkdir(exist_ok=True)
    page = Page()
    clicks = [(199, 294), (238, 339), (275, 337)]
    show(
        page,
        "wire",
        clicks,
        lambda sheet: draw_wire(sheet, wire_along(sheet, clicks)),
        before=lambda sheet: merge(sheet, np.array([(230, 270), (240, 380)])),
    )
    gap = (357, 229)
    show(
        page,
        "gap",
        [(358, 233)],
        lambda sheet: find_gap(sheet, (358, 233))[1],
        before=lambda sheet: paint(sheet, "membranes", *disc(gap, 6), 0),
    )
    stroke = [(45, 190), (45, 256)]
    show(page, "cut", stroke, lambda sheet: cut(sheet, np.array(stroke)))
    through = [(30, 222), (60, 222)]
    show(
        page,
        "merge",
        through,
        lambda sheet: merge(sheet, np.array(through)),
        before=lambda sheet: cut(sheet, np.array(stroke)),
    )
    wall = (175, 281)
    show(page, "delete", [wall], lambda sheet: delete_membrane(sheet, wall))
    show(
        page,
        "fill",
        [(455, 225)],
        lambda sheet: fill(sheet, (455, 225)),
        before=lambda sheet: paint(sheet, "cells", *disc((455, 245), 12), 0),
    )


if __name__ == "__main__":
    main()
