"""Slicing of lazy sections, against NumPy's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from napari_emseg.io.sections import SectionArray


class Source:
    """Counts what is read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.reads: list[tuple[int, int]] = []

    def __call__(self, first: int, last: int) -> np.ndarray:
        self.reads.append((first, last))
        return self.values[first:last]


def _lazy(values: np.ndarray, depth: int = 1) -> tuple[SectionArray, Source]:
    source = Source(values)
    lazy = SectionArray(values.shape, values.dtype, source, name="a", depth=depth)
    return lazy, source


@pytest.mark.parametrize("depth", [1, 2, 5, 7])
@pytest.mark.parametrize(
    "key",
    [
        2,
        -1,
        np.int64(3),
        ...,
        slice(None),
        slice(4, None, -2),
        slice(3, 3),
        (1, 2),
        (1, slice(2, 9), slice(None, None, 3)),
        (..., 4),
        (slice(1, 4), ..., slice(0, 5)),
        (0, 1, 2),
        [0, 3],
        np.array([True, False, True, False, True]),
    ],
    ids=str,
)
def test_slices_as_numpy(stack: np.ndarray, key: Any, depth: int) -> None:
    lazy, _ = _lazy(stack, depth)
    np.testing.assert_array_equal(lazy[key], stack[key])


@pytest.mark.parametrize("key", [5, -6, (0, 0, 0, 0), None, (..., ...)], ids=str)
def test_index_errors(stack: np.ndarray, key: Any) -> None:
    with pytest.raises(IndexError):
        _lazy(stack)[0][key]


def test_only_what_is_asked_for_is_read(stack: np.ndarray) -> None:
    lazy, source = _lazy(stack)
    assert source.reads == []
    lazy[3, :4]
    assert source.reads == [(3, 4)]


def test_a_slab_is_read_once(stack: np.ndarray) -> None:
    lazy, source = _lazy(stack, 2)
    for z in range(5):
        np.testing.assert_array_equal(lazy[z], stack[z])
    assert source.reads == [(0, 2), (2, 4), (4, 5)]


def test_what_is_handed_out_may_be_changed(stack: np.ndarray) -> None:
    lazy, _ = _lazy(stack, 2)
    lazy[0][:] = 0
    np.testing.assert_array_equal(lazy[0], stack[0])


def test_threads_share_slabs(stack: np.ndarray) -> None:
    lazy, _ = _lazy(stack, 2)
    which = [0, 4, 2, 1, 3] * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda z: lazy[z], which))
    for z, section in zip(which, found, strict=True):
        np.testing.assert_array_equal(section, stack[z])


def test_wrong_shape_is_told(stack: np.ndarray) -> None:
    lazy = SectionArray(
        (5, 20, 33), stack.dtype, lambda a, b: stack[a:b, :7], name="a.tif"
    )
    with pytest.raises(OSError, match=r"a\.tif, section 1: is \(7, 33\) px"):
        lazy[1]
