"""The sums over one section's contingency table behind Rand and information scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emseg.metrics.kernels.compiler import compiled


@compiled
def overlap_sums(
    truth: NDArray[np.int32], segments: NDArray[np.int32], n_truth: int, n_segments: int
) -> tuple[int, int, int, int, float, float, float]:
    """Sum squares and entropies of the table truth × segments.

    Pixels with truth 0 are dropped; every other pixel with segment 0 is a segment of
    its own. Returns the number of pixels n, the sums of squares of the cells A, of the
    truth's marginal and of the segments' marginal, and the entropies H(truth),
    H(segments) and H(both), in nats.
    """
    start = np.zeros(n_segments + 2, np.int64)
    truth_sizes = np.zeros(n_truth + 1, np.int64)
    n = 0
    for i in range(truth.size):
        if truth[i]:
            n += 1
            truth_sizes[truth[i]] += 1
            start[segments[i] + 1] += 1
    single = start[1]
    for j in range(n_segments + 1):
        start[j + 1] += start[j]
    # Truth ids sorted by segment: each segment's row of the table is one stretch.
    ids = np.empty(n, np.int32)
    fill = start[:-1].copy()
    for i in range(truth.size):
        if truth[i]:
            ids[fill[segments[i]]] = truth[i]
            fill[segments[i]] += 1
    share = 1.0 / max(n, 1)
    singles_entropy = single * share * np.log(max(n, 1))
    squares, segment_squares = single, single
    h_both, h_segments, h_truth = singles_entropy, singles_entropy, 0.0
    row = np.zeros(n_truth + 1, np.int64)
    for j in range(1, n_segments + 1):
        size = start[j + 1] - start[j]
        if size == 0:
            continue
        segment_squares += size * size
        h_segments -= size / n * np.log(size / n)
        for k in range(start[j], start[j + 1]):
            row[ids[k]] += 1
        for k in range(start[j], start[j + 1]):
            cell = row[ids[k]]
            if cell:
                squares += cell * cell
                h_both -= cell / n * np.log(cell / n)
                row[ids[k]] = 0
    truth_squares = 0
    for size in truth_sizes[1:]:
        if size:
            truth_squares += size * size
            h_truth -= size / n * np.log(size / n)
    return n, squares, truth_squares, segment_squares, h_truth, h_segments, h_both
