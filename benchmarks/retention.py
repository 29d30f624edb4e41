"""What weights lose by learning: where they were good before, and on their old data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from annotator import Tissue
from numpy.typing import NDArray
from score_weights import examples_of

from napari_emseg.metrics import v_rand_at
from napari_emseg.models.weights import Weights
from napari_emseg.training.validation import isbi_validation

GOOD = 0.95
"""V_Rand of sections on which the weights were good to begin with."""

DRAWS = 2000


def retained(
    tissue: Tissue, before: Weights, after: Weights, data: Path
) -> dict[str, Any]:
    """Compare V_Rand of uncorrected sections, and of the sections held out from ISBI.

    Of the stack, at the threshold of the card; the interval is a paired bootstrap over
    sections.
    """
    sections = away_from(tissue.task.corrected, tissue.stack.shape[0])[::3]
    inside = tissue.truth[sections] == 2
    old, new = (
        v_rand_at(
            1 - tissue.membrane(weights, sections), inside, 1 - weights.card.threshold
        )
        for weights in (before, after)
    )
    good = old >= GOOD
    return {
        "sections": sections,
        "before": old.tolist(),
        "after": new.tolist(),
        "all": interval(new - old),
        "good_before": interval((new - old)[good]) if good.sum() > 1 else None,
        "old_data": {
            name: v_rand_of_old_data(weights, before, data)
            for name, weights in (("before", before), ("after", after))
        },
    }


def away_from(corrected: Sequence[int], n: int) -> list[int]:
    """Return sections, of `n`, that are at least ten away from all corrected ones."""
    return [z for z in range(n) if min(abs(z - k) for k in corrected) >= 10]


def interval(differences: NDArray[np.float64]) -> dict[str, float]:
    """Return mean and 95 % interval of differences by bootstrap."""
    rng = np.random.default_rng(0)
    n = len(differences)
    means = differences[rng.integers(0, n, (DRAWS, n))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "n": n,
        "mean": float(differences.mean()),
        "low": float(low),
        "high": float(high),
    }


def v_rand_of_old_data(weights: Weights, start: Weights, data: Path) -> float:
    """Return V_Rand of the sections that the start's card names as held out."""
    examples = examples_of(start.card.held_out_data, data, start.card)
    return isbi_validation(examples)(weights.network())["v_rand"]
