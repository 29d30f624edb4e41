"""Corrections, reviewed regions or existing annotations → what training may use.

Unlabelled is unknown and counts for nothing. Inside a reviewed region everything
counts: what nobody corrected there is right as it was shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.intensity import polarity
from napari_emseg.core.labels import (
    Labelled,
    Meaning,
    as_labels,
    doubt_share,
    format_sections,
    inside_mask,
    only_class,
    unlabelled,
)
from napari_emseg.core.regions import Region, check_inside
from napari_emseg.core.settings import Invert
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.training.measures import true_cells
from napari_emseg.training.sparse_labels import (
    INSIDE,
    MEMBRANE,
    NO_OPINION,
    SparseIds,
    SparseLabels,
)


class SeenAs(TypedDict):
    """How weights see a stack; arguments of `RegionPredictor`'s calls."""

    invert: bool
    excluded: frozenset[int]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """One stack and what is known of its pixels.

    Parameters
    ----------
    opinions
        0 unlabelled, 1 membrane, 2 inside, k + 1 = class k of the weights.
    reviewed
        Regions in which everything counts, in the order in which they were reviewed.
    excluded
        Sections that nothing is learnt from, whatever is known of them, and that a
        network with context isn't shown beside others.
    invert
        Swap dark and bright, as the predictions were made.
    partly
        Reviewed regions in which some pixels have no label, or lie beside a gap in a
        wall: those stay unknown, where else nobody corrected anything because it was
        right.
    notes
        What was left out of labels, in words.
    ids
        Of cells through the stack, where they are known; None where nowhere.
    through
        Squares of `SparseIds` in which they teach how cells go on, whatever else is
        known there.
    """

    stack: Stack
    opinions: SparseLabels
    reviewed: tuple[Region, ...] = ()
    excluded: frozenset[int] = frozenset()
    invert: bool = False
    partly: frozenset[Region] = frozenset()
    notes: tuple[str, ...] = ()
    ids: SparseIds | None = None
    through: tuple[Region, ...] = ()

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
            `(z, y, x)` of the stack's shape: 0 unlabelled, 1 membrane, 2 inside, k + 1
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
            SparseLabels.read(corrections),
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
        """Take existing annotations.

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
        notes: tuple[str, ...] = ()
        if regions is None:
            regions, notes = drawn_regions(labels, labels_are)
        if not regions:
            raise ValueError(_no_labels(stack, labels_are))
        check_inside(regions, stack.shape)
        empty = cls(
            stack,
            SparseLabels(stack.shape),
            tuple(regions),
            frozenset(excluded),
            invert,
        )
        # drawn by somebody, so taken as it is
        found = empty._completed(labels, labels_are, as_drawn=True)
        partly = frozenset(found.incomplete)
        if partly:
            known = sum(np.count_nonzero(found.opinions.window(r)) for r in partly)
            n = sum(r.pixels for r in partly) - known
            notes += (f"{n:,} px without a label left out: they are unknown",)
        counts = found.opinions.counts
        share = counts[MEMBRANE] / max(1, counts[MEMBRANE] + counts[INSIDE])
        if doubt := doubt_share(share, "the labels", labels_are):
            notes += (doubt,)
        return replace(found, partly=partly, notes=notes)

    @classmethod
    def from_sparse_labels(
        cls,
        stack: Stack,
        labels: LazyArray,
        labels_are: Meaning,
        *,
        invert: bool = False,
    ) -> TrainingSet:
        """Take existing strokes: what has no label is unknown.

        Cells that touch have a membrane of two pixels between them, as elsewhere.

        Raises
        ------
        ValueError
            If shapes differ, or there is no label at all.
        """
        _check_shape(stack, labels, "labels")
        opinions = SparseLabels(stack.shape)
        for z in range(stack.shape[0]):
            codes = _sparse_codes(np.asarray(labels[z]), labels_are)
            if codes.any():
                opinions.put(Region.whole(z, stack.shape[1:]), codes)
        if not opinions.pixels:
            raise ValueError(_no_labels(stack, labels_are))
        return cls(stack, opinions, (), frozenset(), invert)

    def complete(self, result: LazyArray, result_is: Meaning) -> TrainingSet:
        """Return it with what nobody corrected in reviewed regions taken as shown.

        Beside gaps in walls it stays unknown, see `taken_as_shown`.

        Raises
        ------
        ValueError
            If the result has another shape than the stack.
        """
        _check_shape(self.stack, result, "the result")
        # ids say themselves where one cell ends
        return self._completed(result, result_is, as_drawn=result_is == "cells")

    def _completed(
        self, result: LazyArray, result_is: Meaning, *, as_drawn: bool
    ) -> TrainingSet:
        opinions, partly = self.opinions.copy(), set(self.partly)
        for region in self.incomplete:
            rows, columns = region.area
            values = np.asarray(result[region.z, rows, columns])
            shown = inside_mask(values, result_is)
            codes = np.where(shown, INSIDE, MEMBRANE).astype(np.uint8)
            unknown = unlabelled(values, result_is)
            if unknown is not None:
                codes[unknown] = NO_OPINION
            by_hand = self.opinions.window(region)
            if as_drawn:
                opinions.put(region, np.where(by_hand > 0, by_hand, codes))
                continue
            codes, gaps = taken_as_shown(by_hand, codes)
            opinions.put(region, codes)
            partly |= {region} if gaps else set()
        return replace(self, opinions=opinions, partly=frozenset(partly))

    @property
    def incomplete(self) -> tuple[Region, ...]:
        """Reviewed regions in which not all is known yet that can be."""
        return tuple(
            r
            for r in self.reviewed
            if r not in self.partly and not self.opinions.window(r).all()
        )

    @property
    def usable(self) -> SparseLabels:
        """What may be learnt: nothing of excluded sections."""
        if not self.excluded:
            return self.opinions
        y, x = self.stack.shape[1:]
        return self.opinions.without(Region.whole(z, (y, x)) for z in self.excluded)

    @property
    def is_something(self) -> bool:
        """True if anything may be learnt of it, by some weights at least."""
        return bool(self.reviewed or self.through or self.usable.pixels)

    @property
    def seen(self) -> SeenAs:
        """How weights see its sections, as in runs."""
        return SeenAs(invert=self.invert, excluded=self.excluded)

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


BESIDE_GAP = 4
"""So near to where two cells part without a wall, px, nothing is inside for sure."""


def taken_as_shown(
    by_hand: NDArray[np.uint8], shown: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], bool]:
    """Return codes `(y, x)` of a reviewed region; tell if some stay unknown.

    What nobody corrected is right as it is shown, but not at gaps in walls. There cells
    are parted whether the wall is whole or not, so nobody need mend it, and whoever
    learnt that gaps are inside would learn to leave more of them. It isn't membrane
    for sure either, since narrow necks of one cell are parted, too: around the line
    between two cells what is shown as inside is unknown.

    Parameters
    ----------
    by_hand
        Codes of corrections, which are right in any case; `NO_OPINION` elsewhere.
    shown
        Codes of membrane and inside that were shown, `NO_OPINION` where nothing was.
    """
    free = by_hand == NO_OPINION
    codes = np.where(free, shown, by_hand)
    # class numbers: code 0, no opinion, wraps to 255, which is `IGNORE`
    parted = true_cells(codes - np.uint8(1)) == 0
    inside = (codes == INSIDE) & free
    line = inside & parted
    if not line.any():
        return codes, False
    near = ndi.maximum_filter(line, 2 * BESIDE_GAP + 1, mode="constant")
    codes[inside & near] = NO_OPINION
    return codes, True


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _no_labels(stack: Stack, labels_are: Meaning) -> str:
    return (
        f"{stack.name}: the labels are empty, with no value above 0 when read "
        f"as {labels_are!r}; there is nothing to learn from"
    )


def _sparse_codes(labels: NDArray[Any], labels_are: Meaning) -> NDArray[np.uint8]:
    """Return labels `(y, x)` as corrections."""
    known = as_labels(labels, labels_are) > 0
    inside = known & inside_mask(labels, labels_are)
    codes = np.where(inside, INSIDE, np.where(known, MEMBRANE, NO_OPINION))
    return codes.astype(np.uint8)


def drawn_regions(
    labels: LazyArray, labels_are: Meaning
) -> tuple[list[Region], tuple[str, ...]]:
    """Return all of each section that is labelled, and words for the others.

    One class from edge to edge is no label: programs fill sections that nobody drew
    with one value, which isn't 0 in all of them.

    Raises
    ------
    ValueError
        If there is nothing but sections of one class.
    """
    n, y, x = labels.shape
    classes = [only_class(np.asarray(labels[z]), labels_are) for z in range(n)]
    why = {
        "nothing is labelled there, so all of it is unknown": None,
        "all of it is membrane, as where nobody drew": "membrane",
        "all of it is inside, as where nobody drew": "inside",
    }
    notes = []
    for words, only in why.items():
        if out := [z for z in range(n) if classes[z] == only]:
            notes.append(f"{format_sections(out)} left out: {words}")
    regions = [Region.whole(z, (y, x)) for z in range(n) if classes[z] == ""]
    full = sorted({only for only in classes if only})
    if full and not regions:
        msg = (
            f"nothing but {' or '.join(full)} in {format_sections(range(n))}: no "
            f"boundary between classes when they are read as {labels_are!r}; say what "
            "they are"
        )
        raise ValueError(msg)
    return regions, tuple(notes)


def _check_shape(stack: Stack, array: LazyArray, what: str) -> None:
    if tuple(array.shape) != stack.shape:
        msg = (
            f"{what} must have the shape of {stack.name}, {stack.shape} (z, y, x), "
            f"got {tuple(array.shape)}"
        )
        raise ValueError(msg)


LabelMeaning = Literal["corrections", "membrane", "inside", "cells"]

Extent = Literal["complete", "sparse"]
"""Of labels: all of each section with any label counts, or only what is labelled."""


def training_set(
    stack: Stack,
    labels: LazyArray,
    labels_are: LabelMeaning,
    *,
    reviewed: Sequence[Region] = (),
    invert: Invert = "auto",
    extent: Extent | None = None,
) -> TrainingSet:
    """Take corrections, or existing annotations, by what they are said to be.

    Parameters
    ----------
    extent
        Of other labels than corrections without reviewed regions; None: complete, if
        that can't be doubted.

    Raises
    ------
    ValueError
        As `TrainingSet.from_corrections` and `from_labels`; or if labels may be a few
        strokes, of which the rest of their sections must not be learnt.
    """
    if extent is not None and labels_are == "corrections":
        msg = (
            f"{extent} is said of labels, not of corrections: what isn't corrected is "
            "unknown but in reviewed regions; name those, or leave the extent out"
        )
        raise ValueError(msg)
    bright = should_invert(stack, invert)
    if labels_are == "corrections":
        return TrainingSet.from_corrections(
            stack, labels, reviewed=reviewed, invert=bright
        )
    if extent is None and not reviewed:
        _refuse_strokes(labels, labels_are)
    if extent == "sparse" and reviewed:
        msg = (
            "reviewed regions are complete, so labels can't be sparse there: leave "
            "either the regions or the extent out"
        )
        raise ValueError(msg)
    if extent == "sparse":
        return TrainingSet.from_sparse_labels(stack, labels, labels_are, invert=bright)
    regions = reviewed or None
    return TrainingSet.from_labels(
        stack, labels, labels_are, regions=regions, invert=bright
    )


class ExtentNeededError(ValueError):
    """Nobody said if the rest of what is labelled counts, and it may not."""


def _refuse_strokes(labels: LazyArray, labels_are: Meaning) -> None:
    found = Labelled.of(labels, labels_are)
    if found.doubtful:
        rest = "inside" if labels_are == "membrane" else "membrane"
        msg = (
            f"only {found.words}: say whether the labels are sparse (the rest is "
            f"unknown) or complete (the rest is {rest})"
        )
        raise ExtentNeededError(msg)


def should_invert(stack: Stack, invert: Invert) -> bool:
    """Tell if dark and bright are to be swapped: as asked, or as the stack looks."""
    if invert == "auto":
        return polarity(stack).inverted is True
    return invert == "yes"
