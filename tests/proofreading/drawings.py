"""Sections drawn by hand, and how to draw and read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emseg.proofreading import Edit, History, LinkedLabels

# One character is a pixel: # is membrane, a digit or letter the cell, a dot nothing
SIGNS = "#123456789abcdefghijklmnopqrstuvwxyz"


def cells_from(picture: str) -> NDArray[np.uint32]:
    """Return ids `(y, x)`; 0 where membrane or nothing is drawn."""
    rows = picture.split()
    signs = SIGNS.replace("#", ".")
    return np.array([[max(0, signs.find(c)) for c in row] for row in rows], np.uint32)


def membranes_from(picture: str) -> NDArray[np.uint8]:
    """Return 1 where membrane is drawn, or a gap in it (`?`)."""
    return np.array([[c == "#" for c in row] for row in picture.split()], np.uint8)


def picture_of(cells: NDArray[np.uint32], membranes: NDArray[np.uint8]) -> str:
    """Draw a section."""
    rows = []
    for ids, walls in zip(cells, membranes, strict=True):
        signs = [
            "#" if wall else SIGNS[i] if i else "."
            for i, wall in zip(ids, walls, strict=True)
        ]
        rows.append("".join(signs))
    return "\n".join(rows)


@dataclass
class Drawn:
    """A stack drawn by hand, and its history."""

    linked: LinkedLabels
    history: History

    def do(self, edit: Edit) -> Edit:
        self.history.do(edit)
        return edit

    def picture(self, z: int = 0) -> str:
        self.linked.settle(z)
        arrays = self.linked.arrays
        return picture_of(arrays["cells"][z], arrays["membranes"][z])

    def array(self, name: str, z: int = 0) -> NDArray[np.generic]:
        return np.array(self.linked.arrays[name][z])

    def state(self) -> dict[str, NDArray[np.generic]]:
        return {name: np.array(a[:]) for name, a in self.linked.arrays.items()}


def drawn(*pictures: str, probabilities: bool = True) -> Drawn:
    """Link sections drawn by hand; membranes are likely where they are drawn."""
    cells = np.stack([cells_from(p) for p in pictures])
    membranes = np.stack([membranes_from(p) for p in pictures])
    likely = np.where(membranes > 0, np.float32(0.95), np.float32(0.05))
    linked = LinkedLabels(
        membranes,
        cells,
        np.zeros_like(membranes),
        probabilities=likely if probabilities else None,
    )
    return Drawn(linked, History(linked))
