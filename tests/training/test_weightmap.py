from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage as ndi

from napari_emseg.training.losses import (
    IGNORE,
    INSIDE,
    MEMBRANE,
    border_weight,
    class_weights,
)

Y, X = np.indices((24, 30))


def brute_force(target: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """Equation 2 with an array of cells × y × x, every distance from every pixel."""
    cells, n = ndi.label(target == INSIDE)  # 4-connected
    if n < 2:
        return np.zeros(target.shape)
    y, x = np.indices(target.shape)
    distances = np.stack(
        [
            np.sqrt((y[..., None] - cy) ** 2.0 + (x[..., None] - cx) ** 2.0).min(
                axis=-1
            )
            for cy, cx in (np.nonzero(cells == k) for k in range(1, n + 1))
        ]
    )
    d1, d2 = np.sort(distances, axis=0)[:2]
    weight = w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return np.where(target == MEMBRANE, weight, 0)


@given(
    target=hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=18),
        elements=st.sampled_from([MEMBRANE, INSIDE, IGNORE]),
    ),
    w0=st.sampled_from([10.0, 1.0]),
    sigma=st.sampled_from([5.0, 1.0, 0.6]),
)
def test_equals_the_formula(target: np.ndarray, w0: float, sigma: float) -> None:
    found = border_weight(target, w0=w0, sigma=sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, brute_force(target, w0, sigma), atol=1e-5)


def test_equals_the_formula_where_cells_are_far_apart() -> None:
    target = np.zeros((20, 90), np.uint8)
    for x in (2, 20, 60, 85):
        target[5:15, x : x + 3] = INSIDE
    found = border_weight(target)
    np.testing.assert_allclose(found, brute_force(target, 10, 5), atol=1e-5)


def test_the_paper_s_numbers_between_two_cells() -> None:
    target = np.zeros((9, 21), np.uint8)
    target[:, :9] = INSIDE
    target[:, 12:] = INSIDE
    # three pixels of membrane: (d1, d2) is (1, 3), (2, 2) and (1, 3)
    wanted = 10 * np.exp(-16 / 50)
    np.testing.assert_allclose(border_weight(target)[4, 9:12], wanted, rtol=1e-6)


def test_thin_walls_weigh_more_than_thick_ones() -> None:
    target = np.full((5, 40), INSIDE, np.uint8)
    target[:, 10:12] = MEMBRANE
    target[:, 24:32] = MEMBRANE
    weight = border_weight(target)[2]
    assert weight[10] > 3 * weight[27] > 0


@pytest.mark.parametrize("value", [MEMBRANE, INSIDE, IGNORE])
def test_one_cell_or_none_has_no_border(value: int) -> None:
    target = np.full((12, 12), value, np.uint8)
    target[3:6, 3:6] = INSIDE
    assert not border_weight(target).any()


def test_only_membrane_gets_weight() -> None:
    target = np.full((20, 20), IGNORE, np.uint8)
    target[:, 8:12] = MEMBRANE
    target[:, :8] = INSIDE
    target[:10, 14:] = INSIDE
    weight = border_weight(target)
    assert (weight[target == MEMBRANE] > 0).all()
    assert not weight[target != MEMBRANE].any()


def test_diagonal_neighbours_are_two_cells() -> None:
    target = np.array([[INSIDE, MEMBRANE], [MEMBRANE, INSIDE]], np.uint8)
    np.testing.assert_allclose(
        border_weight(target)[0, 1], 10 * np.exp(-4 / 50), rtol=1e-6
    )


def test_no_weight_is_asked_for() -> None:
    target = np.array([[INSIDE, MEMBRANE, INSIDE]], np.uint8)
    assert not border_weight(target, w0=0).any()


def test_classes_count_alike() -> None:
    target = np.array([[0, 1, 1, 1, IGNORE, 1]], np.uint8)
    weight = class_weights([target, target], 2)
    np.testing.assert_allclose(weight, [5 / 2, 5 / 8])
    counts = np.array([2, 8])
    assert (weight * counts).sum() == pytest.approx(counts.sum())


def test_a_class_that_is_nowhere_weighs_one() -> None:
    target = np.array([[0, 0, 1, 1]], np.uint8)
    np.testing.assert_allclose(class_weights([target], 3), [1, 1, 1])
