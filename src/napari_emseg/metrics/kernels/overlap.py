"""The sums over one section's contingency table behind Rand and information scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.compiler import compiled


@compiled
def by_segment(
    truth: NDArray[np.int32], segments: NDArray[np.int32], n_segments: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Truth ids other than 0, sorted by segment, and where each segment starts."""
    start = np.zeros(n_segments + 2, np.int64)
    for i in range(truth.size):
        if truth[i]:
            start[segments[i] + 1] += 1
    start = np.cumsum(start)
    ids = np.empty(start[-1], np.int32)
    fill = start.copy()
    for i in range(truth.size):
        if truth[i]:
            ids[fill[segments[i]]] = truth[i]
            fill[segments[i]] += 1
    return ids, start


@compiled
def squares_and_entropy(sizes: NDArray[np.int64], n: int) -> tuple[int, float]:
    """Sum of squares and entropy in nats of parts of n pixels."""
    squares, entropy = 0, 0.0
    for size in sizes:
        if size:
            squares += size * size
            entropy -= size / n * np.log(size / n)
    return squares, entropy


@compiled
def overlap_sums(
    truth: NDArray[np.int32], segments: NDArray[np.int32], n_truth: int, n_segments: int
) -> tuple[int, int, int, int, float, float, float]:
    """Sum squares and entropies of the table truth × segments.

    Pixels with truth 0 are dropped; every other pixel with segment 0 is a segment of
    its own. Returns the number of pixels n, the sums of squares of the table, of the
    truth's marginal and of the segments' marginal, and the entropies H(truth),
    H(segments) and H(both), in nats.
    """
    ids, start = by_segment(truth, segments, n_segments)
    n, single = ids.size, start[1]
    squares, entropy = single, single / max(n, 1) * np.log(max(n, 1))
    segment_squares, segment_entropy = squares_and_entropy(np.diff(start[1:]), n)
    truth_squares, truth_entropy = squares_and_entropy(np.bincount(ids), n)
    segment_squares += squares
    segment_entropy += entropy
    row = np.zeros(n_truth + 1, np.int64)
    for j in range(1, n_segments + 1):
        members = ids[start[j] : start[j + 1]]
        for i in members:
            row[i] += 1
        for i in members:
            if row[i]:
                squares += row[i] * row[i]
                entropy -= row[i] / n * np.log(row[i] / n)
                row[i] = 0
    return (
        n,
        squares,
        truth_squares,
        segment_squares,
        truth_entropy,
        segment_entropy,
        entropy,
    )
