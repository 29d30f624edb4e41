"""One section against its truth: labels, border thinning and table sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.compiler import compiled
from napari_emseg.metrics.agreement import TableSums
from napari_emseg.metrics.kernels import warping
from napari_emseg.metrics.kernels.warping import classify, warp


@compiled
def by_segment(
    truth: NDArray[np.int32], segments: NDArray[np.int32], n_segments: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Truth ids other than 0, sorted by segment, and where each segment starts."""
    start = np.zeros(n_segments + 2, np.int64)
    for i in range(truth.size):
        if truth[i]:
            start[segments[i] + 1] += 1
    # counting sort: counts were put one place further, so `start[s]` is now where
    # segment s begins and `start[1]` how many pixels segment 0 has. Loops, here and
    # below: each of numpy's functions would take a second to compile
    for i in range(1, start.size):
        start[i] += start[i - 1]
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
    # each pixel of segment 0, a dam or membrane, is a segment of one pixel: square 1,
    # and -1/n log(1/n) of entropy, both in the table and in its marginal
    n, single = ids.size, start[1]
    squares, entropy = single, single / max(n, 1) * np.log(max(n, 1))
    segment_squares, segment_entropy = squares_and_entropy(start[2:] - start[1:-1], n)
    sizes = np.zeros(n_truth + 1, np.int64)
    for i in ids:
        sizes[i] += 1
    truth_squares, truth_entropy = squares_and_entropy(sizes, n)
    segment_squares += squares
    segment_entropy += entropy
    # one row of the table at a time, never all of it: `row` is counted up, summed and
    # set back to 0 by the pixels of one segment
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


# States of a pixel in `flood`. Basins are positive ids,
# so one int32 picture holds both.
DAM = 0
QUEUED = -1
MEMBRANE = -2
OUTSIDE = -3


@compiled
def label(inside: NDArray[np.bool_], step: int) -> tuple[NDArray[np.int32], int]:
    """Label 4-connected components 1, 2, … in the order of their first pixel.

    `inside` is flat and False on its border; `step` is the distance between columns.
    """
    labels = np.zeros(inside.size, np.int32)
    stack = np.empty(inside.size, np.int32)
    count = 0
    for start in range(inside.size):
        if not inside[start] or labels[start]:
            continue
        count += 1
        labels[start] = count
        # depth first with a stack of its own; a pixel is labelled when pushed, so the
        # stack never needs more than all pixels
        stack[0] = start
        top = 1
        while top:
            top -= 1
            pixel = stack[top]
            for offset in (-step, -1, 1, step):
                other = pixel + offset
                if inside[other] and labels[other] == 0:
                    labels[other] = count
                    stack[top] = other
                    top += 1
    return labels, count


@compiled
def first_in_queue(
    basins: NDArray[np.int32], step: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """State of each pixel before the flood, the queue, and how many wait in it.

    The membrane beside basins waits, column by column.
    """
    state = basins.copy()
    last = basins.size - step
    for pixel in range(basins.size):
        # `pad` lays columns one after the other:
        # consecutive pixels lie below each other
        y = pixel % step
        if pixel < step or pixel >= last or y in (0, step - 1):
            state[pixel] = OUTSIDE
        elif state[pixel] == 0:
            state[pixel] = MEMBRANE
    queue = np.empty(basins.size, np.int32)
    end = 0
    for pixel in range(basins.size):
        if state[pixel] != MEMBRANE:
            continue
        for offset in (-step, -1, step, 1):
            if state[pixel + offset] > 0:
                state[pixel] = QUEUED
                queue[end] = pixel
                end += 1
                break
    return state, queue, end


@compiled
def flood(basins: NDArray[np.int32], step: int) -> NDArray[np.int32]:
    """Grow basins into the membrane first in, first out, until dams part them.

    The two-level case of Vincent and Soille's watershed (IEEE PAMI 13, 1991) in the
    order of the challenge's evaluation, on which the place of the dams depends: a pixel
    looks left, up, right, down. Made dam by a neighbouring dam alone it still joins a
    basin seen later; between two basins it stays dam. Returns basins; 0 = dam, border.
    """
    state, queue, end = first_in_queue(basins, step)
    begin = 0
    while begin < end:
        pixel = queue[begin]
        begin += 1
        own = QUEUED
        provisional = False
        for offset in (-step, -1, step, 1):
            other = state[pixel + offset]
            if other > 0:
                # the first basin seen; one that follows makes this pixel a dam for good
                if own == QUEUED or provisional:
                    own = other
                    provisional = False
                elif own != other:  # dams stay dams
                    own = DAM
            elif other == DAM and own == QUEUED:
                own = DAM
                provisional = True
            elif other == MEMBRANE:
                state[pixel + offset] = QUEUED
                queue[end] = pixel + offset
                end += 1
        state[pixel] = own
    for pixel in range(state.size):  # in place, or it would become int64
        if state[pixel] < DAM:
            state[pixel] = DAM
    return state


class Labels:
    """4-connected components of a mask `(y, x)`, kept in the kernels' flat form."""

    def __init__(self, inside: NDArray[np.bool_]) -> None:
        self.shape = (inside.shape[0], inside.shape[1])
        self.step = warping.column(self.shape)
        # column by column is also the order of the challenge's labels; the border of
        # zeros spares all loops a test for the picture's end
        self.flat, self.count = label(warping.pad(inside), self.step)

    def thinned(self) -> Labels:
        """Grow the components until only dams part them; no component: one basin."""
        grown = Labels.__new__(Labels)
        grown.shape, grown.step = self.shape, self.step
        grown.count = max(self.count, 1)
        if self.count:
            grown.flat = flood(self.flat, self.step)
        else:
            grown.flat = warping.pad(np.ones(self.shape, np.int32))
        return grown

    def image(self) -> NDArray[np.int32]:
        """Labels `(y, x)`; 0 = membrane or dam."""
        return warping.unpad(self.flat, self.shape)

    def against(self, truth: Labels) -> TableSums:
        """Sum up the table of `truth` and these labels."""
        sums = overlap_sums(truth.flat, self.flat, truth.count, self.count)
        return TableSums(*sums)


class Warper:
    """One section's truth, to be warped to its prediction at any threshold."""

    def __init__(
        self,
        inside: NDArray[np.float32],
        truth: NDArray[np.bool_],
        simple: NDArray[np.bool_],
    ) -> None:
        self.shape = (inside.shape[0], inside.shape[1])
        self.step = warping.column(self.shape)
        self.inside = warping.pad(inside)
        self.truth = warping.pad(truth)
        # tells the section from its border of zeros,
        # which looks like membrane otherwise
        self.real = warping.pad(np.ones_like(truth))
        self.simple = simple

    def counts(self, threshold: float) -> list[int]:
        """Pixels left of each kind, in the order of `warping.KINDS`."""
        _, kinds = self._warped(threshold)
        return [int(n) for n in np.bincount(kinds, minlength=6)]

    def kinds(self, threshold: float) -> NDArray[np.uint8]:
        """Picture `(y, x)` of what is left: 0 = nothing, k = the k-th kind."""
        left, kinds = self._warped(threshold)
        picture = np.zeros(self.truth.size, np.uint8)
        picture[left] = kinds + 1
        return warping.unpad(picture, self.shape)

    def _warped(self, threshold: float) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
        """Pixels that cannot be warped and their kinds, from 0."""
        # Jain et al. 2010 warp the truth to the prediction, not the reverse: pixels
        # that differ are flipped in the truth as long as no object is joined or parted
        distance = self.inside.astype(np.float64) - threshold
        wrong = np.flatnonzero((distance > 0) != self.truth)
        order = wrong[surest_first(np.abs(distance[wrong]).astype(np.float32))]
        warped = self.truth.copy()
        left = warp(warped, order.astype(np.int32), self.step, self.simple)
        labels, _ = label(warped, self.step)
        return left, classify(warped, labels, self.real, left, self.step)


def surest_first(distance: NDArray[np.float32]) -> NDArray[np.intp]:
    """Stable order from the largest distance down; equal single-precision ones tie.

    The bits of floats that are not negative sort as integers do, and numpy sorts 16-bit
    integers in linear time.
    """
    keys = ~distance.view(np.uint32)
    # a radix sort of two digits, the low one first; flipped
    # bits turn ascending to descending
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    high = (keys >> 16).astype(np.uint16)
    return order[np.argsort(high[order], kind="stable")]
