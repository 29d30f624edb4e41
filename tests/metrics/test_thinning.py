"""The compiled loops against slow readings of their rules, on small pictures."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import label

from napari_emseg import metrics
from napari_emseg.metrics.isbi import KINDS, simple_points, warped_counts

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
MASKS = arrays(bool, SHAPES)
AROUND = ((-1, 0), (0, -1), (1, 0), (0, 1))  # left, up, right, down as (x, y)
RING = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0)]


def neighbours(shape, x, y, offsets=AROUND):
    for dx, dy in offsets:
        if 0 <= x + dx < shape[1] and 0 <= y + dy < shape[0]:
            yield x + dx, y + dy


def columns(shape):
    return [(x, y) for x in range(shape[1]) for y in range(shape[0])]


def slow_components(mask):
    """Number by the first pixel, counting column by column."""
    labels, n = label(mask)
    order = list(dict.fromkeys(labels.T[labels.T > 0].tolist()))
    return np.array([0, *(order.index(i) + 1 for i in range(1, n + 1))])[labels]


def slow_thin(mask):
    """Flood as the rules say, with a dictionary of what each pixel is."""
    if not mask.any():
        return np.ones(mask.shape, int)
    basins = slow_components(mask)
    state = {(x, y): basins[y, x] or "membrane" for x, y in columns(mask.shape)}
    queue = deque()
    for pixel in columns(mask.shape):
        beside = [state[p] for p in neighbours(mask.shape, *pixel)]
        if state[pixel] == "membrane" and any(not isinstance(s, str) for s in beside):
            queue.append(pixel)
    for pixel in queue:
        state[pixel] = "queued"
    while queue:
        pixel = queue.popleft()
        own = "queued"
        for other in neighbours(mask.shape, *pixel):
            theirs = state[other]
            if theirs == "membrane":
                state[other] = "queued"
                queue.append(other)
            elif theirs in ("dam", "beside a dam"):
                own = "beside a dam" if own == "queued" else own
            elif theirs != "queued":
                if own in ("queued", "beside a dam"):
                    own = theirs
                elif own != theirs:
                    own = "dam"
        state[pixel] = own
    thinned = np.zeros(mask.shape, int)
    for (x, y), what in state.items():
        thinned[y, x] = 0 if isinstance(what, str) else what
    return thinned


def slow_is_simple(image, x, y):
    """One 4-component of inside at an edge, one 8-component of membrane, in 3 x 3."""
    patch = np.pad(image, 1)[y : y + 3, x : x + 3].copy()
    patch[1, 1] = False
    inside, _ = label(patch)
    edges = {inside[0, 1], inside[1, 0], inside[1, 2], inside[2, 1]} - {0}
    patch[1, 1] = True
    _, membranes = label(~patch, np.ones((3, 3)))
    return len(edges) == 1 and membranes == 1


def slow_warp(inside, truth, threshold):
    distance = inside.astype(float) - threshold
    image, goal = truth.copy(), distance > 0
    surest = -np.abs(distance).astype(np.float32)
    before = -1
    while True:
        wrong = [(x, y) for x, y in columns(image.shape) if image[y, x] != goal[y, x]]
        if len(wrong) in (0, before):
            return image, wrong
        before = len(wrong)
        for x, y in sorted(wrong, key=lambda pixel: surest[pixel[1], pixel[0]]):
            if slow_is_simple(image, x, y):
                image[y, x] = not image[y, x]


def slow_kind(image, x, y):
    labels, _ = label(image)
    ids = {labels[v, u] for u, v in neighbours(image.shape, x, y, RING)}
    white = image[y, x]
    if len(ids) > 2:
        return "splits" if white else "mergers"
    if len(ids) == 2:
        if not white:
            return "hole_additions"
        window = np.pad(image, 20)[y : y + 41, x : x + 41].copy()
        window[20, 20] = False
        cut, _ = label(window)
        seen = {cut[20 + dy, 20 + dx] for dx, dy in RING}
        return "splits" if len(seen) > 2 else "hole_deletions"
    if ids <= {0}:
        return "object_deletions" if white else "object_additions"
    return "hole_additions" if white else "hole_deletions"


@given(mask=MASKS)
def test_thinning_follows_its_rules(mask):
    np.testing.assert_array_equal(metrics.thin(mask), slow_thin(mask))


@given(mask=MASKS)
def test_thinned_basins_grow_and_never_touch(mask):
    thinned = metrics.thin(mask)
    assert (thinned[mask] > 0).all()
    for a, b in ((thinned[1:], thinned[:-1]), (thinned[:, 1:], thinned[:, :-1])):
        assert ((a == b) | (a == 0) | (b == 0)).all()


def test_thinning_of_a_stack_is_that_of_its_sections():
    mask = np.random.default_rng(0).random((3, 12, 10)) > 0.5
    expected = np.stack([metrics.thin(section) for section in mask])
    np.testing.assert_array_equal(metrics.thin(mask), expected)


def test_a_membrane_of_three_pixels_becomes_a_dam_of_one():
    mask = np.ones((5, 9), bool)
    mask[:, 3:6] = False
    expected = np.repeat([[1, 1, 1, 1, 0, 2, 2, 2, 2]], 5, axis=0)
    np.testing.assert_array_equal(metrics.thin(mask), expected)


@pytest.mark.parametrize("mask", [np.ones(5, bool), np.ones((0, 4), bool)])
def test_only_stacks_and_sections_can_be_thinned(mask):
    with pytest.raises(ValueError, match=r"must be \(z, y, x\) or \(y, x\)"):
        metrics.thin(mask)


@given(data=st.data())
def test_warping_follows_its_rules(data):
    truth = data.draw(MASKS)
    grey = st.sampled_from([0, 0.1, 0.25, 0.4, 0.5, 0.7, 0.9, 1])
    inside = data.draw(arrays(np.float32, truth.shape, elements=grey.map(np.float32)))
    for threshold in (0.2, 0.7):
        image, left = slow_warp(inside, truth, threshold)
        kinds = [slow_kind(image, x, y) for x, y in left]
        (counts,) = warped_counts(inside, truth, [threshold])
        expected = [kinds.count(kind) for kind in KINDS]
        assert [getattr(counts, kind) for kind in KINDS] == expected


def test_a_cut_is_looked_for_within_twenty_pixels():
    """A ring cut at one place stays whole, unless it is larger than the window."""
    for size, kind in ((20, "hole_deletions"), (60, "splits")):
        truth = np.zeros((size, size), bool)
        truth[1:-1, 1:-1] = True
        truth[2:-2, 2:-2] = False
        inside = truth.astype(np.float32)
        inside[1, size // 2] = 0
        (counts,) = warped_counts(inside, truth, [0.5])
        assert [getattr(counts, k) for k in KINDS] == [int(k == kind) for k in KINDS]


def test_half_of_the_surroundings_are_as_simple_as_their_turns():
    simple = simple_points()
    turned = [(k << 2 & 255) | k >> 6 for k in range(256)]
    np.testing.assert_array_equal(simple, simple[turned])
