"""Corrected places: some tell when to stop; what a stroke in them counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emseg.training.sparse_labels import BLOCK, SparseLabels

VALIDATION_SHARE = 6
"""One of so many corrected places is held out to stop training early."""

FEWEST_PLACES = 24
"""With fewer corrected places none is held out: one or two tell more of themselves than
of the weights, and are worth more when they are learnt."""

MOST_UNEVEN = 4.0
"""Factor by which strokes of a class count more or less than others at most."""

PLACE = 2 * BLOCK
"""Side of such a place, px."""


def stroke_weights(strokes: SparseLabels) -> NDArray[np.float32]:
    """Return what a pixel of each class counts: classes alike, within bounds.

    How much of a class was drawn by hand says what the weights got wrong, and nothing
    of how common it is. Reviewed regions do say that.
    """
    counts = strokes.counts[1:].astype(float)
    drawn = counts > 0
    weights = np.ones(len(counts), np.float32)
    weights[drawn] = counts.sum() / (drawn.sum() * counts[drawn])
    return np.clip(weights, 1 / MOST_UNEVEN, MOST_UNEVEN)


def split_validation(
    opinions: SparseLabels, seed: int
) -> tuple[SparseLabels, SparseLabels]:
    """Divide opinions into what is learnt and what tells when to stop."""
    blocks = opinions.blocks
    places = sorted({(b.z, b.top // PLACE, b.left // PLACE) for b in blocks})
    if len(places) < FEWEST_PLACES:
        return opinions, SparseLabels(opinions.shape)
    n = max(1, len(places) // VALIDATION_SHARE)
    order = np.random.default_rng(seed).permutation(len(places))
    chosen = {places[k] for k in order[:n]}
    apart = [b for b in blocks if (b.z, b.top // PLACE, b.left // PLACE) in chosen]
    rest = [b for b in blocks if b not in set(apart)]
    return opinions.without(apart), opinions.without(rest)
