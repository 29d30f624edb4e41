"""V_Rand and V_Info after border thinning: the fast part of the challenge's scores."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emseg.core.records import Progress, drain
from napari_emseg.metrics.agreement import Agreement, TableSums, v_info, v_rand
from napari_emseg.metrics.inputs import THRESHOLDS, as_pair, at_thresholds, in_threads


@dataclass(frozen=True, slots=True, eq=False)
class RandInfoScores:
    """V_Rand and V_Info after border thinning: 1 = perfect.

    Each is the mean over sections at the one threshold where that mean is highest;
    `rand` and `info` hold every threshold and section.
    """

    v_rand: float
    v_rand_split: float
    v_rand_merge: float
    v_rand_threshold: float
    v_info: float
    v_info_split: float
    v_info_merge: float
    v_info_threshold: float
    rand: Agreement
    info: Agreement

    @classmethod
    def of(cls, sections: Sequence[Sequence[TableSums]]) -> RandInfoScores:
        """Score the table sums of each section at each of the `THRESHOLDS`."""
        rand, info = v_rand(sections, THRESHOLDS), v_info(sections, THRESHOLDS)
        return cls(
            v_rand=rand.score,
            v_rand_split=rand.part(rand.split),
            v_rand_merge=rand.part(rand.merge),
            v_rand_threshold=rand.threshold,
            v_info=info.score,
            v_info_split=info.part(info.split),
            v_info_merge=info.part(info.merge),
            v_info_threshold=info.threshold,
            rand=rand,
            info=info,
        )


def v_rand_v_info(
    inside: ArrayLike, truth: ArrayLike, *, threads: int | None = None
) -> RandInfoScores:
    """Score a prediction by V_Rand and V_Info after border thinning.

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
    return drain(v_rand_v_info_steps(inside, truth, threads=threads))


def v_rand_v_info_steps(
    inside: ArrayLike, truth: ArrayLike, *, threads: int | None = None
) -> Generator[Progress, None, RandInfoScores]:
    """Score as `v_rand_v_info` does, with a record after each section."""
    stacks = as_pair(inside, truth)
    calls = (partial(thinned_sums, *pair) for pair in zip(*stacks, strict=True))
    sections: list[list[TableSums]] = []
    for sums in in_threads(calls, threads=threads):
        sections.append(sums)
        yield Progress("V_Rand and V_Info", len(sections), len(stacks[0]))
    return RandInfoScores.of(sections)


def v_rand_at(
    inside: ArrayLike, truth: ArrayLike, threshold: float
) -> NDArray[np.float64]:
    """V_Rand after border thinning of each section at one threshold, `(sections,)`.

    For scores at a threshold fixed beforehand, and for statistics paired by section.
    """
    rand, _info = agreement_at(inside, truth, threshold)
    # `(thresholds, sections)`, of one threshold
    sections: NDArray[np.float64] = rand.f[0]
    return sections


def agreement_at(
    inside: ArrayLike, truth: ArrayLike, threshold: float
) -> tuple[Agreement, Agreement]:
    """V_Rand and V_Info with their parts at one threshold; arrays are `(1, sections)`.

    Raises
    ------
    ValueError
        As `v_rand_v_info`, or a threshold outside [0, 1).
    """
    if not 0 <= threshold < 1:
        msg = f"threshold must be at least 0 and below 1, got {threshold!r}"
        raise ValueError(msg)
    at = (float(threshold),)
    pairs = zip(*as_pair(inside, truth), strict=True)
    calls = (partial(thinned_sums, *pair, at) for pair in pairs)
    sections = list(in_threads(calls))
    return v_rand(sections, at), v_info(sections, at)


def thin(mask: ArrayLike) -> NDArray[np.int32]:
    """Thin the membranes of a mask as the challenge's evaluation does.

    Parameters
    ----------
    mask
        `(z, y, x)` or `(y, x)`; 0 = membrane, anything else = inside.

    Returns
    -------
    Labels of the same shape, numbered in each section from 1, column by column; 0 =
    the dams that part two basins. A section without inside is one basin.
    """
    from napari_emseg.metrics.kernels.section import Labels

    inside = np.asarray(mask) != 0
    if inside.ndim not in (2, 3) or inside.size == 0:
        msg = f"mask must be (z, y, x) or (y, x) and not empty, got {inside.shape}"
        raise ValueError(msg)
    sections = inside.reshape(-1, *inside.shape[-2:])
    thinned = [Labels(section).thinned().image() for section in sections]
    return np.stack(thinned).reshape(inside.shape)


def thinned_sums(
    inside: NDArray[np.float32],
    truth: NDArray[np.bool_],
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> list[TableSums]:
    """Table sums of one section `(y, x)`, thinned, at each threshold."""
    from napari_emseg.metrics.kernels.section import Labels

    # the truth's labels are the same at all thresholds; it is never thinned
    cells = Labels(truth)
    return at_thresholds(
        inside, thresholds, lambda mask: Labels(mask).thinned().against(cells)
    )
