"""Sections and blocks that are worked on in one go, the same for every run."""

from __future__ import annotations

from dataclasses import dataclass

from napari_emseg.batch.settings import BatchSettings
from napari_emseg.core.regions import Region

Area = tuple[slice, slice]

LUMP_PIXELS = 2048 * 2048
"""Small sections are worked on together, so that a task takes a second at least."""

DEEPEST = 64
"""Sections in one go, however small."""


@dataclass(frozen=True, slots=True)
class Part:
    """Sections `first` … `stop` - 1 of the result; or a block of one of them.

    `corners` are `(top, left, bottom, right)` of a block; None for whole sections.
    """

    first: int
    stop: int
    corners: tuple[int, int, int, int] | None = None

    @property
    def area(self) -> Area | None:
        """Rows and columns of a block."""
        if self.corners is None:
            return None
        top, left, bottom, right = self.corners
        return slice(top, bottom), slice(left, right)

    @property
    def places(self) -> range:
        """Its sections of the result."""
        return range(self.first, self.stop)

    @property
    def words(self) -> str:
        """For people."""
        if self.corners is not None:
            return Region(self.first, *self.corners).words
        last = self.stop - 1
        return f"z {self.first}" if last == self.first else f"z {self.first}…{last}"


def fits(shape: tuple[int, int], settings: BatchSettings) -> bool:
    """Tell if sections of `(y, x)` px are worked on whole."""
    return shape[0] * shape[1] <= settings.whole**2


def section_runs(n: int, shape: tuple[int, int]) -> list[Part]:
    """Cut `n` sections of `(y, x)` px into runs."""
    deep = max(1, min(DEEPEST, LUMP_PIXELS // (shape[0] * shape[1])))
    return [Part(z, min(z + deep, n)) for z in range(0, n, deep)]


def blocks(shape: tuple[int, int], side: int) -> list[Area]:
    """Cut a section into blocks, row by row."""
    return [
        (slice(y, min(y + side, shape[0])), slice(x, min(x + side, shape[1])))
        for y in range(0, shape[0], side)
        for x in range(0, shape[1], side)
    ]


def parts(n: int, shape: tuple[int, int], settings: BatchSettings) -> list[Part]:
    """Cut a stack of `n` sections of `(y, x)` px."""
    if fits(shape, settings):
        return section_runs(n, shape)
    return [
        Part(z, z + 1, (y.start, x.start, y.stop, x.stop))
        for z in range(n)
        for y, x in blocks(shape, settings.block)
    ]
