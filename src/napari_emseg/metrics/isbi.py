"""The ISBI 2012 scores: probability of inside and a truth mask in, scores out.

>>> from napari_emseg import metrics
>>> scores = metrics.isbi_scores(inside, truth)    # everything
>>> scores.v_rand, scores.v_info, scores.warping_error
>>> found = metrics.v_rand_v_info(inside, truth)   # the fast part, for validation
>>> found.v_rand, found.v_rand_threshold, found.v_info, found.v_rand_sections
>>> metrics.v_rand_at(inside, truth, 0.5)          # sections at a fixed threshold

`inside` is `(z, y, x)` or `(y, x)`, floating point in [0, 1], 1 = inside a cell, that
is 1 - membrane. `truth` has the same shape; 0 = membrane, anything else = inside. The
order is always (prediction, truth); swapped, split and merge change places in silence.

After Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation
algorithms for connectomics", Front. Neuroanat. 9:142 (2015), with every detail of the
challenge's own evaluation: its running sum of thresholds, its thinning of the borders,
its order of pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emseg.core.records import Progress, drain
from napari_emseg.metrics.agreement import Floats, PixelCounts, TableSums, pooled_f
from napari_emseg.metrics.inputs import THRESHOLDS, as_pair, at_thresholds, in_threads
from napari_emseg.metrics.rand_info import RandInfoScores

WARPING_THRESHOLDS = THRESHOLDS[:-1]
"""0.0 … 0.9: one less than the other scores have."""


@dataclass(frozen=True, slots=True)
class WarpingCounts:
    """Pixels at which a warped truth still differs from the prediction, by kind.

    A merger joins objects, a split parts one; holes and objects that appear or vanish
    are free of charge.
    """

    mergers: int = 0
    splits: int = 0
    hole_additions: int = 0
    hole_deletions: int = 0
    object_additions: int = 0
    object_deletions: int = 0

    @property
    def mismatches(self) -> int:
        """All kinds together."""
        return sum(getattr(self, name) for name in KINDS)

    def __add__(self, other: WarpingCounts) -> WarpingCounts:
        return WarpingCounts(*(getattr(self, n) + getattr(other, n) for n in KINDS))


KINDS: tuple[str, ...] = tuple(field.name for field in fields(WarpingCounts))
"""Kinds of mistakes, mergers first, in the order that the kernels number them."""


@dataclass(frozen=True, slots=True, eq=False)
class Warping:
    """What is left after warping at each of the `WARPING_THRESHOLDS`."""

    sections: tuple[tuple[WarpingCounts, ...], ...]
    """One tuple for each section, in it one record for each threshold."""
    pixels: int
    """Pixels in all sections."""

    @property
    def counts(self) -> tuple[WarpingCounts, ...]:
        """Sums over the sections at each threshold."""
        at_each = zip(*self.sections, strict=True)
        return tuple(sum(found, WarpingCounts()) for found in at_each)

    @property
    def curve(self) -> NDArray[np.float64]:
        """Mergers and splits per pixel at each threshold, `(thresholds,)`."""
        counts = [found.mergers + found.splits for found in self.counts]
        return np.array(counts) / self.pixels

    @property
    def best(self) -> int:
        """Index of the threshold with the least error, the lowest of equals."""
        return int(np.argmin(self.curve))


def simple_points() -> NDArray[np.bool_]:
    """Which of the 256 surroundings make a pixel simple: its flip joins, parts nothing.

    Inside is 4-connected and membrane 8-connected. Going round, each edge neighbour
    that is inside and not joined to the next edge by an inside corner ends one group of
    inside pixels; exactly one such end means one group of inside and one of membrane.
    """
    # Simple points of digital topology (Kong and Rosenfeld 1989) for the pair of 4- and
    # 8-connectivity. A table, since there are only 256 surroundings; bits go round as
    # `RING`: edges are even, the corner after each edge follows it.
    bits = np.arange(256)[:, np.newaxis] >> np.arange(8) & 1 == 1
    edges, corners = bits[:, ::2], bits[:, 1::2]
    ends = edges & ~(corners & np.roll(edges, -1, axis=1))
    # no end: all round is inside, or no edge is: a flip would make a hole or an object
    simple: NDArray[np.bool_] = ends.sum(axis=1) == 1
    return simple


def warped_counts(
    inside: NDArray[np.float32],
    truth: NDArray[np.bool_],
    thresholds: Sequence[float] = WARPING_THRESHOLDS,
) -> tuple[WarpingCounts, ...]:
    """Warp the truth of one section `(y, x)` to its prediction at each threshold."""
    from napari_emseg.metrics.kernels.section import Warper

    warper = Warper(inside, truth, simple_points())
    return tuple(WarpingCounts(*warper.counts(threshold)) for threshold in thresholds)


# the running sum of 0.1 goes exactly through 0.5
HALF = THRESHOLDS.index(0.5)


@dataclass(frozen=True, slots=True, eq=False)
class IsbiScores(RandInfoScores):
    """The challenge's scores: V_Rand and V_Info, 1 = perfect; errors, 0 = perfect.

    Each is the best over the thresholds. V_Rand, V_Info and the warping error are means
    over sections; Rand error and pixel error pool the pixels of all sections. The
    warping error alone means nothing: a map that is all membrane has none.
    """

    v_rand_pooled: float
    """V_Rand of the pixels of all sections together, at its own best threshold."""
    rand_error: float
    rand_error_threshold: float
    pixel_error: float
    """1 - F of the inside pixels, not the share of wrong pixels."""
    pixel_error_threshold: float
    pixel_hamming_at_half: float
    """Share of wrong pixels at threshold 0.5."""
    warping_error: float
    """Pixels of mergers and splits, over all pixels."""
    warping_error_threshold: float
    warping_mergers: int
    """Pixels of mergers at `warping_error_threshold`."""
    warping_splits: int
    """Pixels of splits at `warping_error_threshold`."""
    warping_classic_at_half: float
    """All pixels that could not be warped, over all pixels, at threshold 0.5."""
    rand_f: Floats
    """F of the Rand index without thinning at each threshold, `(thresholds,)`."""
    pixel_f: Floats
    """F of the inside pixels at each threshold, `(thresholds,)`."""
    warping: Warping

    @property
    def warping_threshold(self) -> float:
        """The threshold of the warping error, a short name."""
        return self.warping_error_threshold

    def as_dict(self) -> dict[str, float | int | None]:
        """All single numbers by name; None for those that are not defined."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        numbers = {k: v for k, v in values.items() if isinstance(v, float | int)}
        return {k: None if np.isnan(v) else v for k, v in numbers.items()}


@dataclass(frozen=True, slots=True)
class SectionScores:
    """What one section contributes, at each threshold."""

    thinned: list[TableSums]
    plain: list[TableSums]
    pixels: list[PixelCounts]
    warped: tuple[WarpingCounts, ...]

    @classmethod
    def of(cls, inside: NDArray[np.float32], truth: NDArray[np.bool_]) -> SectionScores:
        """Compare one section `(y, x)` with its truth at the `THRESHOLDS`."""
        from napari_emseg.metrics.kernels.section import Labels

        cells = Labels(truth)

        def measure(
            mask: NDArray[np.bool_],
        ) -> tuple[TableSums, TableSums, PixelCounts]:
            labels = Labels(mask)
            # only the prediction is thinned, see docs/scores.md;
            # both come from the same labels
            thinned, plain = labels.thinned().against(cells), labels.against(cells)
            return thinned, plain, PixelCounts.of(mask, truth)

        found = at_thresholds(inside, THRESHOLDS, measure)
        thinned, plain, pixels = (list(column) for column in zip(*found, strict=True))
        return cls(thinned, plain, pixels, warped_counts(inside, truth))


def isbi_scores(
    inside: ArrayLike, truth: ArrayLike, *, threads: int | None = None
) -> IsbiScores:
    """Score a prediction as the ISBI 2012 challenge does.

    Parameters
    ----------
    inside
        Probability of inside, `(z, y, x)` or `(y, x)`, floating point in [0, 1].
    truth
        Same shape; 0 = membrane, anything else = inside.
    threads
        Threads to use; none takes all cores.

    Raises
    ------
    ValueError
        Shapes that differ, an empty stack, values outside [0, 1], NaN, a truth without
        membrane, a section of it without inside.
    """
    return drain(isbi_scores_steps(inside, truth, threads=threads))


def isbi_scores_steps(
    inside: ArrayLike,
    truth: ArrayLike,
    *,
    threads: int | None = None,
    known: NDArray[np.bool_] | None = None,
) -> Generator[Progress, None, IsbiScores]:
    """Score as `isbi_scores` does, with a record after each section.

    `known` is where the truth has a label, everywhere by default. Elsewhere both must
    be membrane; what is a share of all pixels is one of those.
    """
    probabilities, mask = as_pair(inside, truth)
    pairs = zip(probabilities, mask, strict=True)
    calls = (partial(SectionScores.of, *pair) for pair in pairs)
    sections: list[SectionScores] = []
    for found in in_threads(calls, threads=threads):
        sections.append(found)
        yield Progress("ISBI 2012 scores", len(sections), len(mask))
    return _together(sections, mask.size if known is None else int(known.sum()))


def _together(sections: Sequence[SectionScores], size: int) -> IsbiScores:
    """Join sections of `size` pixels in all."""
    rand_f = pooled_f([section.plain for section in sections])
    # pooled: one table for all sections, so that large ones count more
    pixels = [
        sum(counts, PixelCounts())
        for counts in zip(*(section.pixels for section in sections), strict=True)
    ]
    pixel_f = np.array([counts.dice for counts in pixels])
    warping = Warping(tuple(section.warped for section in sections), size)
    counts = warping.counts
    best = RandInfoScores.of([section.thinned for section in sections])
    return IsbiScores(
        **{field.name: getattr(best, field.name) for field in fields(best)},
        v_rand_pooled=float(pooled_f([section.thinned for section in sections]).max()),
        rand_error=float(1 - rand_f.max()),
        rand_error_threshold=THRESHOLDS[rand_f.argmax()],
        pixel_error=float(1 - pixel_f.max()),
        pixel_error_threshold=THRESHOLDS[pixel_f.argmax()],
        pixel_hamming_at_half=pixels[HALF].wrong / size,
        warping_error=float(warping.curve[warping.best]),
        warping_error_threshold=THRESHOLDS[warping.best],
        warping_mergers=counts[warping.best].mergers,
        warping_splits=counts[warping.best].splits,
        warping_classic_at_half=counts[HALF].mismatches / size,
        rand_f=rand_f,
        pixel_f=pixel_f,
        warping=warping,
    )
