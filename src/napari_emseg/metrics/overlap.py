"""Cells compared by their overlap: adapted Rand error, variation of information, IoU.

`cell_scores` has these of single sections beside V_Rand, V_Info and counts. All
numbers come from one table (prediction, truth) of shared pixels. Pixels where the truth
is 0 are left out; where the prediction is 0 they count as one more cell, as
scikit-image and the SNEMI3D and CREMI challenges have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emseg.core.labels import inside_mask, unlabelled
from napari_emseg.metrics.agreement import v_info, v_rand
from napari_emseg.metrics.inputs import Labels, as_ids
from napari_emseg.metrics.rand_info import thinned_sums

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LARGEST_ID = 2**22
"""Ids up to here index the table as they are; larger ones are renumbered first."""


@dataclass(frozen=True, slots=True)
class OverlapScores:
    """How well cells overlap with the true ones."""

    adapted_rand_error: float
    """1 - F of pairs of pixels that belong together; 0 = perfect."""
    adapted_rand_split: float
    """Share of the pairs in true cells that stay together; low: cells were split."""
    adapted_rand_merge: float
    """Share of the pairs in predicted cells that belong so; low: cells were merged."""
    vi_split: float
    """H(prediction | truth) in bits: information lost by splits; 0 = none."""
    vi_merge: float
    """H(truth | prediction) in bits: information lost by mergers; 0 = none."""
    iou: float
    """IoU of each true cell with its best match, weighted by size: the covering."""
    dice: float
    """Dice of each true cell with its best match, weighted by size."""
    true_cells: float
    predicted_cells: float

    @property
    def variation_of_information(self) -> float:
        """Splits and mergers together, in bits."""
        return self.vi_split + self.vi_merge

    def as_dict(self) -> dict[str, float]:
        """All numbers by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


LEAST_SHARED = 0.1
"""A part counts as a split or a merger if it is at least so much of the largest one."""

SMALLEST = 30
"""Smaller parts, px, are neither."""


@dataclass(frozen=True, slots=True)
class CellScores:
    """How right cells are, whatever made them: profiles of each section by itself.

    Means over sections, but for the counts, which are sums.
    """

    v_rand: float
    v_info: float
    adapted_rand_error: float
    vi_split: float
    vi_merge: float
    false_merges: int
    """True cells too many in predicted ones, see `false_merges_and_splits`."""
    false_splits: int
    true_cells: int

    @property
    def variation_of_information(self) -> float:
        """Splits and mergers together, in bits."""
        return self.vi_split + self.vi_merge

    @property
    def words(self) -> str:
        """For people: `cells: V_Rand 0.983, VI 0.214 bits, 3 false merges, 1 …`."""
        counts = (
            f"{n:,} false {what}{'' if n == 1 else 's'}"
            for n, what in ((self.false_merges, "merge"), (self.false_splits, "split"))
        )
        vi = f"VI {self.variation_of_information:.3f} bits"
        return f"cells: V_Rand {self.v_rand:.3f}, {vi}, {', '.join(counts)}"

    def as_dict(self) -> dict[str, float]:
        """All numbers by name, and `vi`."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**found, "vi": self.variation_of_information}


def cell_scores(prediction: ArrayLike, truth: ArrayLike) -> CellScores:
    """Score cells of sections by all that is said of cells.

    Parameters
    ----------
    prediction, truth
        Ids of cells, `(z, y, x)` or `(y, x)`. Truth 0 is left out, and so are sections
        without a true cell.

    Raises
    ------
    ValueError
        As `overlap_scores`.
    """
    predicted, true = as_cells(prediction, truth)
    there = [z for z in range(len(true)) if true[z].any()]
    tables = [_table(profiles(predicted[z]), profiles(true[z])) for z in there]
    overlap = average([_scores(table) for table in tables])
    half = (0.5,)
    sums = [
        # ids that touch have no membrane between them, and would be one cell
        thinned_sums(
            inside_mask(predicted[z], "cells").astype(np.float32),
            inside_mask(true[z], "cells"),
            half,
        )
        for z in there
    ]
    errors = [_errors_of(table) for table in tables]
    return CellScores(
        v_rand=v_rand(sums, half).score,
        v_info=v_info(sums, half).score,
        adapted_rand_error=overlap.adapted_rand_error,
        vi_split=overlap.vi_split,
        vi_merge=overlap.vi_merge,
        false_merges=sum(merges for merges, _ in errors),
        false_splits=sum(splits for _, splits in errors),
        true_cells=round(overlap.true_cells * len(there)),
    )


def _errors_of(table: csr_array) -> tuple[int, int]:
    cells = table.tocoo()
    true, predicted = cells.coords
    return false_merges_and_splits(true, predicted, cells.data)


def false_merges_and_splits(
    true: NDArray[np.integer],
    predicted: NDArray[np.integer],
    shared: NDArray[np.integer],
) -> tuple[int, int]:
    """Count true cells too many in predicted ones, and predicted ones in true ones.

    A part is what a true and a predicted cell share. It counts if it has at least
    `SMALLEST` px and `LEAST_SHARED` of the largest part of the same cell, so that many
    parts of one size all count; as a merger also if it is as much of its true cell, so
    that small cells count that a large one has swallowed.

    Parameters
    ----------
    true, predicted, shared
        Ids of each pair of cells that share pixels, and how many: `(n,)`. Predicted id
        0 is no cell.
    """
    t_size = np.bincount(true, shared)[true]
    real = (predicted > 0) & (shared >= SMALLEST)
    of_true, of_predicted = (
        real & (shared >= LEAST_SHARED * _largest(ids, np.where(real, shared, 0)))
        for ids in (true, predicted)
    )
    swallowed = real & (shared >= LEAST_SHARED * t_size)
    merges = _more_than_one(predicted[of_predicted | swallowed])
    return merges, _more_than_one(true[of_true])


def _largest(
    ids: NDArray[np.integer], shared: NDArray[np.integer]
) -> NDArray[np.integer]:
    """Return for each part how large the largest of the same id is."""
    largest = np.zeros(ids.max(initial=0) + 1, shared.dtype)
    np.maximum.at(largest, ids, shared)
    found: NDArray[np.integer] = largest[ids]
    return found


def _more_than_one(ids: NDArray[np.integer]) -> int:
    """Count how many more parts there are than cells."""
    return int(len(ids) - len(np.unique(ids)))


def overlap_scores(
    prediction: ArrayLike, truth: ArrayLike, *, linked: bool = True
) -> OverlapScores:
    """Compare cells with true cells.

    Parameters
    ----------
    prediction, truth
        Ids of cells, `(z, y, x)` or `(y, x)`. Truth 0 is left out, and so is what has
        no label, see `core.labels.unlabelled`.
    linked
        Compare cells that go through sections; otherwise the profiles of each section
        by itself, the scores averaged over the sections that have a truth. A profile
        is a connected area (4 neighbours) of one id: a cell that is cut twice by a
        section has two there, and nothing in the section says that they are one.

    Raises
    ------
    ValueError
        Shapes that differ, ids that are no whole numbers, a truth without cells.
    """
    if linked:
        predicted, true = as_cells(prediction, truth)
        return _scores(_table(predicted, true))
    return average(overlap_by_section(prediction, truth))


def overlap_by_section(
    prediction: ArrayLike, truth: ArrayLike
) -> list[OverlapScores | None]:
    """Compare profiles section by section; None where a section has no truth."""
    pairs = zip(*as_cells(prediction, truth), strict=True)
    return [
        _scores(_table(profiles(predicted), profiles(true))) if true.any() else None
        for predicted, true in pairs
    ]


def profiles(ids: Labels) -> Labels:
    """Tell the connected areas (4 neighbours) of ids apart: `(y, x)` to `(1, y, x)`."""
    from skimage.measure import label

    found: Labels = label(ids, background=0, connectivity=1)[np.newaxis]
    return found


def average(sections: Sequence[OverlapScores | None]) -> OverlapScores:
    """Mean of each score over the sections that have one."""
    found = [section for section in sections if section is not None]
    names = [field.name for field in fields(OverlapScores)]
    means = {n: float(np.mean([getattr(s, n) for s in found])) for n in names}
    return OverlapScores(**means)


def as_cells(prediction: ArrayLike, truth: ArrayLike) -> tuple[Labels, Labels]:
    """Check ids of cells and return them as `(z, y, x)`, small enough for a table."""
    predicted = as_ids(prediction, name="prediction")
    true = as_ids(truth, name="truth")
    unknown = unlabelled(np.asarray(truth), "cells")
    if predicted.shape != true.shape:
        msg = f"shapes differ: prediction {predicted.shape}, truth {true.shape}"
        raise ValueError(msg)
    if not true.any():
        msg = "truth has no cells: all its ids are 0"
        raise ValueError(msg)
    if unknown is not None:  # what is one cell through it is parted in both
        predicted = np.where(unknown, predicted.dtype.type(0), predicted)
    shape = (-1, *true.shape[-2:])
    return _renumbered(predicted.reshape(shape)), _renumbered(true.reshape(shape))


def _renumbered(ids: Labels) -> Labels:
    """Keep small ids; give large ones their rank, so that the table stays small."""
    if ids.max() <= LARGEST_ID:
        return ids
    names, ranks = np.unique(ids, return_inverse=True)
    # Rank 0 must stay the background also where no pixel has it.
    shift = int(names[0] != 0)
    renumbered: Labels = ranks.reshape(ids.shape) + shift
    return renumbered


def _table(predicted: Labels, true: Labels) -> csr_array:
    """Count shared pixels, truth in rows; one section at a time to save memory."""
    from scipy.sparse import csr_array
    from skimage.metrics import contingency_table

    shape = (int(true.max()) + 1, int(predicted.max()) + 1)
    total = csr_array(shape)
    for p, t in zip(predicted, true, strict=True):
        keep = t != 0
        if not keep.any():
            continue
        # sparse: with ids of a whole stack the full table would be (ids)² while each
        # section has few pairs
        part = contingency_table(t[keep], p[keep], sparse_type="array")
        part.resize(shape)
        total = total + part
    return total


def _scores(table: csr_array) -> OverlapScores:
    """All scores of one table."""
    from skimage.metrics import adapted_rand_error, variation_of_information

    with np.errstate(invalid="ignore", divide="ignore"):  # cells of one pixel only
        error, split, merge = adapted_rand_error(table=table)
    unused = np.empty(0, np.int64)  # scikit-image 0.26 looks at images it ignores
    vi_split, vi_merge = variation_of_information(
        unused, unused, table=table / table.sum()
    )
    iou, dice = _covering(table)
    true, predicted = (np.asarray(table.sum(axis=axis)).ravel() for axis in (1, 0))
    return OverlapScores(
        adapted_rand_error=float(error),
        adapted_rand_split=float(split),
        adapted_rand_merge=float(merge),
        vi_split=float(vi_split),
        vi_merge=float(vi_merge),
        iou=iou,
        dice=dice,
        true_cells=int(np.count_nonzero(true)),
        predicted_cells=int(np.count_nonzero(predicted[1:])),
    )


def _covering(table: csr_array) -> tuple[float, float]:
    """IoU and Dice of each true cell with its best match, weighted by size."""
    cells = table.tocoo()
    true, predicted = (np.asarray(table.sum(axis=axis)).ravel() for axis in (1, 0))
    row, column = cells.coords
    # Arbeláez et al. 2011, the covering of the truth: only pairs that share pixels can
    # be the best, so the sparse entries are enough
    both = np.where(column == 0, 0, cells.data)  # predicted background matches nothing
    sizes = true[row] + predicted[column]
    best = np.zeros((2, len(true)))
    np.maximum.at(best[0], row, both / (sizes - both))
    np.maximum.at(best[1], row, 2 * both / sizes)
    iou, dice = best @ true / true.sum()
    return float(iou), float(dice)
