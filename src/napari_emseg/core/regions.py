"""Rectangles of sections: where somebody looked, what is held out, where to look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """Rows `top` to `bottom - 1` and columns `left` to `right - 1` of section `z`.

    Raises
    ------
    ValueError
        If it is empty, or begins before 0.
    """

    z: int
    top: int
    left: int
    bottom: int
    right: int

    def __post_init__(self) -> None:
        if self.z < 0 or not (
            0 <= self.top < self.bottom and 0 <= self.left < self.right
        ):
            msg = f"a region must have pixels, and none before 0; got {self.as_tuple()}"
            raise ValueError(msg)

    @classmethod
    def of(cls, z: int, area: tuple[slice, slice]) -> Region:
        """Return the region of two slices with both their ends."""
        rows, columns = area
        return cls(z, rows.start, columns.start, rows.stop, columns.stop)

    @classmethod
    def whole(cls, z: int, shape: tuple[int, int]) -> Region:
        """Return all of a section of `(y, x)` px."""
        return cls(z, 0, 0, *shape)

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """`(y, x)` in px."""
        return self.bottom - self.top, self.right - self.left

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.shape[0] * self.shape[1]

    @property
    def words(self) -> str:
        """For people: `z 4, y 0:64, x 32:96`."""
        return f"z {self.z}, y {self.top}:{self.bottom}, x {self.left}:{self.right}"

    def as_tuple(self) -> tuple[int, int, int, int, int]:
        """`(z, top, left, bottom, right)`, for files."""
        return self.z, self.top, self.left, self.bottom, self.right

    def gap(self, other: Region) -> int:
        """Pixels between them in the plane, along the axis that parts them more.

        0 if they touch or overlap there, whatever their sections.
        """
        # the larger of both axes (Chebyshev): halos are squares
        rows = max(other.top - self.bottom, self.top - other.bottom, 0)
        columns = max(other.left - self.right, self.left - other.right, 0)
        return max(rows, columns)

    def overlap(self, other: Region) -> Region | None:
        """Return what lies in both; None if nothing does."""
        if self.z != other.z:
            return None
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        if top >= bottom or left >= right:
            return None
        return Region(self.z, top, left, bottom, right)

    def grown(self, margin: int, shape: tuple[int, int]) -> Region:
        """Return it with so many pixels more on each side, inside `(y, x)`."""
        return Region(
            self.z,
            max(0, self.top - margin),
            max(0, self.left - margin),
            min(shape[0], self.bottom + margin),
            min(shape[1], self.right + margin),
        )


def check_inside(regions: Iterable[Region], shape: tuple[int, int, int]) -> None:
    """Check that regions lie in a stack of `(z, y, x)`.

    Raises
    ------
    ValueError
        With the first that doesn't.
    """
    for region in regions:
        if region.z >= shape[0] or region.bottom > shape[1] or region.right > shape[2]:
            msg = f"region {region.words} is outside of a stack of {shape} (z, y, x)"
            raise ValueError(msg)
