from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.symmetry import mean_over_symmetries


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
