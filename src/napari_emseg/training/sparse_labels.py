"""What is known of a stack's pixels, kept only where something is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.labels import as_labels
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import LazyArray

BLOCK = 64
"""Pixels are kept in squares of this side."""

NO_OPINION, MEMBRANE, INSIDE = 0, 1, 2
"""Codes of corrections; k + 1 is class k of the weights."""

Block = tuple[int, int, int]
"""Section, row and column of a square, counted in squares."""


class SparseLabels:
    """Codes `(z, y, x)` uint8, 0 where nobody has an opinion.

    Memory follows what is known: squares without an opinion are not kept.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        # (section, row, column) of a square → its codes `(BLOCK, BLOCK)`; squares at
        # the far border are whole, too, with 0 beyond it
        self._blocks: dict[Block, NDArray[np.uint8]] = {}

    @classmethod
    def read(
        cls, codes: LazyArray, sections: Iterable[int] | None = None
    ) -> SparseLabels:
        """Read an array of corrections, one section at a time.

        Raises
        ------
        ValueError
            If it isn't a `(z, y, x)` array of whole numbers from 0 to 255.
        """
        if len(codes.shape) != 3:
            msg = f"corrections must be (z, y, x), got shape {tuple(codes.shape)}"
            raise ValueError(msg)
        z, y, x = (int(n) for n in codes.shape)
        found = cls((z, y, x))
        for k in range(z) if sections is None else sections:
            section = np.asarray(codes[k])
            if section.any():
                found.put(Region.whole(k, (y, x)), as_codes(section))
        return found

    def put(self, region: Region, codes: NDArray[np.uint8]) -> None:
        """Write the opinions of a region; 0 leaves what is there."""
        for block, here, there in _squares(region):
            part = codes[here]
            if not part.any():
                continue
            stored = self._blocks.setdefault(block, np.zeros((BLOCK, BLOCK), np.uint8))
            # unlabelled takes no label away
            np.copyto(stored[there], part, where=part != NO_OPINION)

    def window(self, region: Region) -> NDArray[np.uint8]:
        """Return the codes of a region `(y, x)`."""
        out = np.zeros(region.shape, np.uint8)
        for block, here, there in _squares(region):
            if block in self._blocks:
                out[here] = self._blocks[block][there]
        return out

    def without(self, regions: Iterable[Region]) -> SparseLabels:
        """Return a copy that knows nothing of some regions."""
        copy = self.copy()
        for region in regions:
            for block, _, there in _squares(region):
                if block in copy._blocks:
                    copy._blocks[block][there] = NO_OPINION
                    if not copy._blocks[block].any():
                        del copy._blocks[block]
        return copy

    def copy(self) -> SparseLabels:
        """Return one that can be changed by itself."""
        other = SparseLabels(self.shape)
        other._blocks = {block: codes.copy() for block, codes in self._blocks.items()}
        return other

    @property
    def blocks(self) -> tuple[Region, ...]:
        """The squares in which something is known, in order."""
        _, height, width = self.shape
        return tuple(
            Region(
                z,
                BLOCK * row,
                BLOCK * column,
                min(height, BLOCK * (row + 1)),
                min(width, BLOCK * (column + 1)),
            )
            for z, row, column in sorted(self._blocks)
        )

    @property
    def pixels(self) -> int:
        """How many have an opinion."""
        return sum(int(np.count_nonzero(codes)) for codes in self._blocks.values())

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many pixels have each code, `(256,)`; none is counted as code 0."""
        total = np.zeros(256, np.int64)
        for codes in self._blocks.values():
            total += np.bincount(codes.ravel(), minlength=256)
        total[NO_OPINION] = 0
        return total

    @property
    def largest(self) -> int:
        """The highest code; 0 without any."""
        return max((int(codes.max()) for codes in self._blocks.values()), default=0)

    def first_above(self, code: int) -> tuple[int, tuple[int, int, int]] | None:
        """Return the first higher code, and its `(z, y, x)`; None if there is none."""
        for block in sorted(self._blocks):
            z, row, column = block
            found = np.argwhere(self._blocks[block] > code)
            if len(found):
                y, x = (int(n) for n in found[0])
                value = int(self._blocks[block][y, x])
                return value, (z, row * BLOCK + y, column * BLOCK + x)
        return None

    @property
    def nbytes(self) -> int:
        """Memory that the opinions take."""
        return BLOCK * BLOCK * len(self._blocks)

    @property
    def fingerprint(self) -> str:
        """Checksum: the same for the same opinions."""
        digest = sha256(repr(self.shape).encode())
        for block in sorted(self._blocks):
            digest.update(repr(block).encode() + self._blocks[block].tobytes())
        return digest.hexdigest()


RUN = 2**32
"""An id is less; ids of run `n` may be given as `id + n * RUN`. Of different runs, one
id is one cell, but two ids aren't known to be two."""


class SparseIds:
    """Ids of cells through the stack `(z, y, x)`, where anything is known of them.

    0 is membrane, `UNKNOWN` what nobody has said anything of. See `RUN`.
    """

    UNKNOWN = -1

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        # one more than ids, so that 0 is what isn't known
        self._blocks: dict[Block, NDArray[np.uint64]] = {}

    def put(self, region: Region, ids: NDArray[np.int64]) -> None:
        """Write the ids of a region; what is unknown leaves what is there."""
        for block, here, there in _squares(region):
            part = (ids[here] + 1).astype(np.uint64)
            if part.any():
                nothing = np.zeros((BLOCK, BLOCK), np.uint64)
                stored = self._blocks.setdefault(block, nothing)
                np.copyto(stored[there], part, where=part > 0)

    def window(self, region: Region) -> NDArray[np.int64]:
        """Return the ids of a region `(y, x)`."""
        out = np.full(region.shape, self.UNKNOWN, np.int64)
        for block, here, there in _squares(region):
            if block in self._blocks:
                out[here] += self._blocks[block][there].astype(np.int64)
        return out

    def are_together(self, first: int, second: int) -> bool:
        """Tell if one run gave all ids of two sections, and some cell is in both."""
        one, other = (self._at(z) for z in (first, second))
        runs = np.union1d(one // RUN, other // RUN)
        return len(runs) == 1 and bool(np.isin(one, other).any())

    def _at(self, z: int) -> NDArray[np.int64]:
        """Return the ids of a section, each once."""
        found = [np.unique(ids) for block, ids in self._blocks.items() if block[0] == z]
        # one less, as they are kept
        ids = (
            np.unique(np.concatenate([np.zeros(0, np.uint64), *found])).astype(int) - 1
        )
        return ids[ids > 0]

    @property
    def sections(self) -> frozenset[int]:
        """In which something is known."""
        return frozenset(block[0] for block in self._blocks)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Section, row and column of the squares in which something is known."""
        return tuple(sorted(self._blocks))

    def as_array(self) -> NDArray[np.uint32 | np.uint64]:
        """Return the squares in the order of `blocks`, `(n, BLOCK, BLOCK)`."""
        nothing = np.zeros((0, BLOCK, BLOCK), np.uint64)
        found = np.concatenate([nothing, *(self._blocks[b][None] for b in self.blocks)])
        # ids of one run are written as they were before there were others
        return found if found.max(initial=0) > RUN - 1 else found.astype(np.uint32)

    @classmethod
    def of(
        cls,
        shape: tuple[int, int, int],
        blocks: Iterable[Block],
        squares: NDArray[np.uint32 | np.uint64],
    ) -> SparseIds:
        """Return what `blocks` and `as_array` were of.

        Raises
        ------
        ValueError
            If they don't belong together.
        """
        found, blocks = cls(shape), tuple(blocks)
        wrong = squares.dtype not in (np.uint32, np.uint64)
        if squares.shape != (len(blocks), BLOCK, BLOCK) or wrong:
            msg = f"{len(blocks)} squares of ids, but {squares.dtype} {squares.shape}"
            raise ValueError(msg)
        found._blocks = dict(zip(blocks, squares.astype(np.uint64), strict=True))
        return found

    @property
    def fingerprint(self) -> str:
        """Checksum: the same for the same ids."""
        digest = sha256(repr((self.shape, self.blocks)).encode())
        digest.update(self.as_array().tobytes())
        return digest.hexdigest()


def squares_around(
    z: int, y: int, x: int, reach: int, shape: tuple[int, int, int]
) -> Iterator[Region]:
    """Yield the squares of a section that are so near to a pixel."""
    _, height, width = shape
    near = Region(z, y, x, y + 1, x + 1).grown(reach, (height, width))
    for (_, row, column), _, _ in _squares(near):
        top, left = BLOCK * row, BLOCK * column
        stop = min(height, top + BLOCK), min(width, left + BLOCK)
        yield Region(z, top, left, *stop)


def _squares(
    region: Region,
) -> Iterator[tuple[Block, tuple[slice, slice], tuple[slice, slice]]]:
    """Yield squares with where each lies in a region, and in itself."""
    rows, columns = (
        range(part.start // BLOCK, -(-part.stop // BLOCK)) for part in region.area
    )
    for row, column in product(rows, columns):
        parts = [
            _shared(part, BLOCK * k)
            for part, k in zip(region.area, (row, column), strict=True)
        ]
        (here_y, there_y), (here_x, there_x) = parts
        yield (region.z, row, column), (here_y, here_x), (there_y, there_x)


def as_codes(section: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return codes as uint8; 0, unlabelled, where there is no label.

    Raises
    ------
    ValueError
        If they are not whole numbers from 0 to 255.
    """
    if section.dtype.kind not in "biuf":
        msg = f"corrections are whole numbers, not {section.dtype}"
        raise ValueError(msg)
    try:
        section = as_labels(section, "cells")
    except ValueError as e:
        msg = f"corrections are whole numbers, not {section.dtype} with fractions"
        raise ValueError(msg) from e
    low, high = int(section.min()), int(section.max())
    if low < 0 or high > 255:
        msg = f"corrections are 0 to 255 (k + 1 is class k), got {low} to {high}"
        raise ValueError(msg)
    return section.astype(np.uint8)


def _shared(part: slice, start: int) -> tuple[slice, slice]:
    """Return what a span shares with a square from `start`: in the span, in itself."""
    low, high = max(part.start, start), min(part.stop, start + BLOCK)
    return slice(low - part.start, high - part.start), slice(low - start, high - start)
