from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_emseg.core.symmetry import SYMMETRIES, mean_over_symmetries, turn_offset


def shift_right(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.roll(windows, 1, axis=-1)


def test_the_mean_of_a_shift_is_that_of_all_four_directions() -> None:
    dot = np.zeros((1, 1, 3, 5), np.float32)
    dot[0, 0, 1, 2] = 1
    expected = [[0, 0, 0.25, 0, 0], [0, 0.25, 0, 0.25, 0], [0, 0, 0.25, 0, 0]]
    np.testing.assert_allclose(mean_over_symmetries(shift_right, dot)[0, 0], expected)


def test_what_turns_with_the_picture_is_unchanged() -> None:
    picture = np.random.default_rng(0).random((2, 1, 7, 4), dtype=np.float32)

    def blur(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        inner = windows[..., 1:-1, 1:-1]
        across = windows[..., 1:-1, :-2] + windows[..., 1:-1, 2:]
        down = windows[..., :-2, 1:-1] + windows[..., 2:, 1:-1]
        return np.concatenate([inner, across + down], axis=1)

    np.testing.assert_allclose(
        mean_over_symmetries(blur, picture), blur(picture), rtol=1e-6
    )


def test_every_symmetry_is_run_once() -> None:
    picture = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    seen = []

    def keep(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append((windows.shape, windows.tobytes()))
        return windows

    np.testing.assert_array_equal(mean_over_symmetries(keep, picture), picture)
    assert len(set(seen)) == 8


OFFSETS = [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, -3), (0, -3, 0), (0, -2, 1)]


def same_cell(ids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Say of drawn cells, two sections of a torus, which voxels are of one cell."""
    below, own = ids[:, 0], ids[:, 1]
    pairs = [
        own == (below if z else np.roll(own, (-y, -x), (-2, -1))) for z, y, x in OFFSETS
    ]
    return np.stack([own > 4, *pairs], axis=1).astype(np.float32)


def test_affinities_turn_with_the_picture() -> None:
    ids = np.random.default_rng(0).integers(0, 3, (2, 2, 6, 9)).astype(np.float32)
    ids = np.kron(ids, np.ones((1, 1, 2, 3), np.float32))  # not alike in both axes
    calls = []

    def run(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(windows.shape)
        return same_cell(windows)

    found = mean_over_symmetries(run, ids, OFFSETS)
    np.testing.assert_array_equal(found, same_cell(ids))
    assert len(calls) == 8


@pytest.mark.parametrize(("turns", "mirrored"), SYMMETRIES)
def test_an_offset_leads_to_the_same_voxel_in_a_turned_picture(
    turns: int, mirrored: bool
) -> None:
    picture = np.arange(35).reshape(5, 7)
    turned = np.rot90(picture, turns)
    turned = turned[:, ::-1] if mirrored else turned
    _, y, x = turn_offset((-1, 1, 2), turns, mirrored)
    from_there = np.argwhere(turned == picture[2, 3])[0] + (y, x)
    assert turned[tuple(from_there)] == picture[3, 5]
