"""Corrections, reviewed regions or labels drawn elsewhere → what training may use.

Unlabelled is unknown and counts for nothing. Inside a reviewed region everything
counts: what nobody corrected there is right as it was shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from napari_emseg.core.labels import Meaning, inside_mask
from napari_emseg.core.polarity import polarity
from napari_emseg.core.regions import Region, check_inside
from napari_emseg.core.settings import Invert
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.train.opinions import INSIDE, MEMBRANE, Opinions


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """One stack and what is known of its pixels.

    Parameters
    ----------
    opinions
        0 no opinion, 1 membrane, 2 inside, k + 1 = class k of the weights.
    reviewed
        Regions in which everything counts, in the order in which they were reviewed.
    excluded
        Sections that nothing is learnt from, whatever is known of them.
    invert
        Swap dark and bright, as the predictions were made.
    """

    stack: Stack
    opinions: Opinions
    reviewed: tuple[Region, ...] = ()
    excluded: frozenset[int] = frozenset()
    invert: bool = False

    @classmethod
    def from_corrections(
        cls,
        stack: Stack,
        corrections: LazyArray,
        *,
        reviewed: Sequence[Region] = (),
        result: LazyArray | None = None,
        result_is: Meaning = "cells",
        excluded: Iterable[int] = (),
        invert: bool = False,
    ) -> TrainingSet:
        """Take what was corrected by hand.

        Parameters
        ----------
        corrections
            `(z, y, x)` of the stack's shape: 0 no opinion, 1 membrane, 2 inside, k + 1
            is class k.
        reviewed
            Regions in which everything counts.
        result
            What was shown in them; `complete` takes it later if it isn't at hand.
        result_is
            What that is.

        Raises
        ------
        ValueError
            If shapes differ, a region is outside, or codes are out of range.
        """
        _check_shape(stack, corrections, "corrections")
        check_inside(reviewed, stack.shape)
        found = cls(
            stack,
            Opinions.read(corrections),
            tuple(reviewed),
            frozenset(excluded),
            invert,
        )
        return found if result is None else found.complete(result, result_is)

    @classmethod
    def from_labels(
        cls,
        stack: Stack,
        labels: LazyArray,
        labels_are: Meaning,
        *,
        regions: Sequence[Region] | None = None,
        excluded: Iterable[int] = (),
        invert: bool = False,
    ) -> TrainingSet:
        """Take labels that were drawn elsewhere.

        Parameters
        ----------
        labels
            `(z, y, x)` of the stack's shape.
        labels_are
            `membrane` and `inside` are masks (> 0); `cells` are ids.
        regions
            Where they are drawn to the end, so that everything counts; by default all
            of each section with any label.

        Raises
        ------
        ValueError
            If shapes differ, a region is outside, or there is no label at all.
        """
        _check_shape(stack, labels, "labels")
        if regions is None:
            regions = _drawn(labels)
        if not regions:
            msg = f"{stack.name}: the labels are empty; there is nothing to learn from"
            raise ValueError(msg)
        check_inside(regions, stack.shape)
        empty = cls(
            stack, Opinions(stack.shape), tuple(regions), frozenset(excluded), invert
        )
        return empty.complete(labels, labels_are)

    def complete(self, result: LazyArray, result_is: Meaning) -> TrainingSet:
        """Return it with what nobody corrected in reviewed regions taken as shown.

        Raises
        ------
        ValueError
            If the result has another shape than the stack.
        """
        _check_shape(self.stack, result, "the result")
        opinions = self.opinions.copy()
        for region in self.incomplete:
            rows, columns = region.area
            shown = inside_mask(np.asarray(result[region.z, rows, columns]), result_is)
            codes = np.where(shown, INSIDE, MEMBRANE).astype(np.uint8)
            by_hand = self.opinions.window(region)
            opinions.put(region, np.where(by_hand > 0, by_hand, codes))
        return replace(self, opinions=opinions)

    @property
    def incomplete(self) -> tuple[Region, ...]:
        """Reviewed regions in which not all is known yet."""
        return tuple(r for r in self.reviewed if not self.opinions.window(r).all())

    @property
    def usable(self) -> Opinions:
        """What may be learnt: nothing of excluded sections."""
        if not self.excluded:
            return self.opinions
        y, x = self.stack.shape[1:]
        return self.opinions.without(Region.whole(z, (y, x)) for z in self.excluded)

    @property
    def words(self) -> str:
        """For people: `4,210 px in 3 sections, 2 reviewed regions`."""
        usable = self.usable
        sections = len({block.z for block in usable.blocks})
        regions = sum(r.z not in self.excluded for r in self.reviewed)
        return (
            f"{usable.pixels:,} px in {_counted(sections, 'section')}, "
            f"{_counted(regions, 'reviewed region')}"
        )


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _drawn(labels: LazyArray) -> list[Region]:
    """Return all of each section with any label."""
    n, y, x = labels.shape
    return [Region.whole(z, (y, x)) for z in range(n) if np.asarray(labels[z]).any()]


def _check_shape(stack: Stack, array: LazyArray, what: str) -> None:
    if tuple(array.shape) != stack.shape:
        msg = (
            f"{what} must have the shape of {stack.name}, {stack.shape} (z, y, x), "
            f"got {tuple(array.shape)}"
        )
        raise ValueError(msg)


LabelMeaning = Literal["corrections", "membrane", "inside", "cells"]


def training_set(
    stack: Stack,
    labels: LazyArray,
    labels_are: LabelMeaning,
    *,
    reviewed: Sequence[Region] = (),
    invert: Invert = "auto",
) -> TrainingSet:
    """Take corrections, or labels drawn elsewhere, by what they are said to be.

    Raises
    ------
    ValueError
        As `TrainingSet.from_corrections` and `from_labels`.
    """
    bright = should_invert(stack, invert)
    if labels_are == "corrections":
        return TrainingSet.from_corrections(
            stack, labels, reviewed=reviewed, invert=bright
        )
    regions = reviewed or None
    return TrainingSet.from_labels(
        stack, labels, labels_are, regions=regions, invert=bright
    )


def should_invert(stack: Stack, invert: Invert) -> bool:
    """Tell if dark and bright are to be swapped: as asked, or as the stack looks."""
    if invert == "auto":
        return polarity(stack).inverted is True
    return invert == "yes"
