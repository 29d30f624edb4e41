"""What runs through a run: tiles of sections, before and after the network."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.tiles import Tile, TilePlan, read_tile
from napari_emseg.inference.sections import Section


@dataclass(frozen=True, slots=True, eq=False)
class TileTask:
    """A tile of a section; `parent` is the one that it was cut from, if it was."""

    section: Section
    plan: TilePlan
    tile: Tile
    parent: TileTask | None = None

    @property
    def whole(self) -> TileTask:
        """The tile of the run's own plan that this is, or is a part of."""
        return self if self.parent is None else self.parent.whole

    @property
    def share(self) -> Fraction:
        """Part of the section; all that are computed add up to 1."""
        above = Fraction(1) if self.parent is None else self.parent.share
        return above / len(self.plan)

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """Weight `(y, x)` of each pixel of the core; None if it has no overlap.

        Parts of a tile that overlap its neighbours share its weight.
        """
        own = self.tile.weights
        if self.parent is None or (above := self.parent.weights) is None:
            return own
        y, x = (
            slice(a.start - b.start, a.stop - b.start)
            for a, b in zip(self.tile.core, self.parent.tile.core, strict=True)
        )
        return above[y, x] if own is None else own * above[y, x]

    def read(self) -> NDArray[np.float32]:
        """Return the window `(y, x)` as the network sees it."""
        return read_tile(self.section.window, self.plan, self.tile)


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A task and its window, read ahead."""

    task: TileTask
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A task and the network's output `(n_classes, y, x)` for it."""

    task: TileTask
    output: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A section without result: damaged (it can't be read) or blank."""

    z: int
    reason: str
    damaged: bool
    tiles: int
    """Tiles that will not come."""
