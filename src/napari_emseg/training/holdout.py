"""Which reviewed regions stay apart from training, so that they can judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any
from zlib import crc32

from napari_emseg.core.card import Card
from napari_emseg.core.intensity import zoom_of
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry

SHARE = 0.25
"""Of the reviewed pixels, about so many are held out."""

SAME_TISSUE_NM = 100.0
"""Sections closer than this show the same membranes."""


PLACE = 128
"""Side of a place, px: what is known in one stays together."""

VALIDATION_SHARE = 6
"""One of so many places tells when to stop, and which threshold is right."""


def same_tissue(stack: Stack) -> int:
    """Return how many neighbours of a section, on each side, show the same membranes.

    At least one.
    """
    depth = None if stack.voxel_size_nm is None else stack.voxel_size_nm[0]
    return max(1, 1 if not depth else ceil(SAME_TISSUE_NM / depth) - 1)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A square of the grid of places; sections that show the same tissue are one.

    A stack is parted by these numbers alone, so that a place doesn't change sides when
    others are corrected: what tells when to stop in one round is not learnt in the
    next.
    """

    depth: int
    row: int
    column: int

    @classmethod
    def at(cls, z: int, y: int, x: int, sections: int) -> Place:
        """Return the one that a pixel lies in, see `same_tissue`."""
        return cls(z // (sections + 1), y // PLACE, x // PLACE)

    @property
    def validates(self) -> bool:
        """Tell if what is known here is held out to stop by."""
        # a checksum mixes numbers well, and is the same on every machine
        said = f"{self.depth} {self.row} {self.column}".encode()
        return crc32(said) % VALIDATION_SHARE == 0


@dataclass(frozen=True, slots=True)
class Spacing:
    """How far apart what is learnt and what is judged by must be.

    Parameters
    ----------
    halo
        Pixels in the plane that a network looks beyond a pixel.
    sections
        Neighbours on each side that show the same tissue, at least one.
    """

    halo: int
    sections: int

    @classmethod
    def of(cls, stack: Stack, geometry: Geometry, zoom: tuple[float, float]) -> Spacing:
        """Return the spacing that a network and a stack ask for."""
        halo = ceil(geometry.margin / min(zoom))
        return cls(halo, same_tissue(stack))

    def near(self, a: Region, b: Region) -> bool:
        """Tell if one says something of the other: at hand in the plane and along z."""
        return abs(a.z - b.z) <= self.sections and a.gap(b) < self.halo

    def zone(self, region: Region, shape: tuple[int, int, int]) -> list[Region]:
        """Return all that is near a region, in a stack of `(z, y, x)`."""
        wide = region.grown(self.halo, (shape[1], shape[2]))
        first = max(0, region.z - self.sections)
        last = min(shape[0] - 1, region.z + self.sections)
        return [Region.of(z, wide.area) for z in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class HoldoutSplit:
    """Reviewed regions to learn from, and those that judge, apart by `spacing`."""

    training: tuple[Region, ...]
    held_out: tuple[Region, ...]
    spacing: Spacing

    def zones(self, shape: tuple[int, int, int]) -> list[Region]:
        """Return all that is near what judges, in a stack of `(z, y, x)`."""
        return [
            near
            for region in self.held_out
            for near in self.spacing.zone(region, shape)
        ]


def split_regions(
    reviewed: Sequence[Region],
    spacing: Spacing,
    *,
    seen: Sequence[Region] = (),
    held_out: Sequence[Region] = (),
    share: float = SHARE,
) -> HoldoutSplit:
    """Hold out about a quarter of the reviewed pixels, whole regions only.

    Regions are dealt out in the order in which they were reviewed, and those that are
    near each other go together. So a region stays where it is when others follow:
    what judged one round is not learnt in the next.

    Parameters
    ----------
    seen
        What earlier rounds learnt from; nothing near it can judge.
    held_out
        What judged earlier rounds, and does so again.
    """
    training: list[Region] = []
    # `reviewed` is in the order of review, and a choice depends on earlier ones only:
    # regions that are added later never move those before
    apart: list[Region] = [region for region in reviewed if region in set(held_out)]
    total = sum(region.pixels for region in apart)
    for region in reviewed:
        if region in apart:
            continue
        total += region.pixels
        held = sum(other.pixels for other in apart)
        if any(spacing.near(region, other) for other in (*seen, *training)):
            training.append(region)
        elif (
            any(spacing.near(region, other) for other in apart)
            # half of it, so that the share is met on the average, whatever the sizes
            or held + region.pixels / 2 <= share * total
        ):
            apart.append(region)
        else:
            training.append(region)
    return HoldoutSplit(tuple(training), tuple(apart), spacing)


def split_round(
    stack: Stack, reviewed: Sequence[Region], card: Card, geometry: Geometry
) -> HoldoutSplit:
    """Split regions as a round does that begins with these weights.

    Parameters
    ----------
    card
        Of the weights; it says what earlier rounds learnt and judged by.
    geometry
        Of their network.
    """
    spacing = Spacing.of(stack, geometry, zoom_of(stack, card)[0])
    seen, held_out = rounds_of(card, stack.name)
    return split_regions(reviewed, spacing, seen=seen, held_out=held_out)


def rounds_of(card: Card, stack: str) -> tuple[list[Region], list[Region]]:
    """Return what earlier rounds learnt of a stack, and what judged them."""
    rounds: dict[str, Any] = card.training.settings.get("corrections", {})
    found = rounds.get(stack, {})
    learnt, held_out = (
        [Region(*numbers) for numbers in found.get(key, ())]
        for key in ("learnt", "held_out")
    )
    return learnt, held_out
