"""Chains of profiles → cells: chains that are branches of others, and short bits.

Links are one to one, so that what they give are chains, known by a number each, in the
order of their first profiles. All that is kept of a chain are a few numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg.segmentation.rag import components

SHORT = 3
"""A cell of so few profiles that begins or ends within a longer one is a bit of it."""


@dataclass(frozen=True, slots=True, eq=False)
class ContainedEnds:
    """First or last profiles of chains that lie within a profile of another section.

    Parameters
    ----------
    profiles
        `(k,)` their numbers among all of the stack.
    chains, hosts
        `(k,)` the chains that they and what they lie within belong to.
    shared
        `(k,)` pixels in both.
    """

    profiles: NDArray[np.int64]
    chains: NDArray[np.uint32]
    hosts: NDArray[np.uint32]
    shared: NDArray[np.uint32]

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """Return all of some."""
        return cls(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            )
        )

    def only(self, which: NDArray[np.bool_]) -> Self:
        """Return some of them."""
        return type(self)(*(getattr(self, f.name)[which] for f in fields(self)))

    @property
    def edges(self) -> NDArray[np.int64]:
        """`(k, 2)` chains and what they lie within."""
        return np.stack([self.chains, self.hosts], axis=1).astype(np.int64)


def cells_of(
    lengths: NDArray[np.int64],
    starts: ContainedEnds,
    ends: ContainedEnds,
    branches: Literal["returning", "all", "none"],
) -> NDArray[np.int64]:
    """Return the cell 0, 1, … of each chain `(n,)`, by the first chain of each.

    Parameters
    ----------
    lengths
        `(n,)` profiles of each chain.
    starts, ends
        What begins, and what ends, within something else; a chain at most once.
    branches
        As in `CellSettings`.
    """
    n = len(lengths)
    if branches == "none":
        return np.arange(n)
    if branches == "all":
        return _together(np.concatenate([starts.edges, ends.edges]), n)
    into = np.full(n, -1)
    into[ends.chains] = ends.hosts
    back = starts.only(into[starts.chains] == starts.hosts).edges
    cell = _together(back, n)
    bits = _bits(cell, lengths, ContainedEnds.together([starts, ends]))
    return _together(np.concatenate([back, bits.edges]), n)


def _together(edges: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return what each of n chains is a part of, numbered by first chain.

    Most have no edge, and a graph takes many times the memory of what it is made of.
    """
    chains, ends = np.unique(edges, return_inverse=True)
    part = components(ends.reshape(-1, 2), len(chains))
    _, first = np.unique(part, return_index=True)
    leader = np.arange(n)
    leader[chains] = chains[first[part]]
    number = np.cumsum(leader == np.arange(n)) - 1
    return number[leader]


def _bits(
    cell: NDArray[np.int64], lengths: NDArray[np.int64], hosted: ContainedEnds
) -> ContainedEnds:
    """For each short cell the longer one that it shares most with."""
    profiles = np.bincount(cell, lengths).astype(np.int64)
    bit, host = cell[hosted.chains], cell[hosted.hosts]
    able = (profiles[bit] <= SHORT) & (profiles[bit] < profiles[host])
    hosted, bit = hosted.only(able), bit[able]
    # of two of one profile that share as much, what it ends in: that came later
    later = np.arange(len(bit))
    order = np.lexsort((later, hosted.profiles, hosted.shared, bit))
    last = np.append(bit[order][1:] != bit[order][:-1], True)[: len(bit)]
    chosen = np.zeros(len(bit), bool)
    chosen[order[last]] = True
    return hosted.only(chosen)
