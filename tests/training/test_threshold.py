from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.training import validation
from napari_emseg.training.crops import Crop
from napari_emseg.training.losses import IGNORE, INSIDE, MEMBRANE
from napari_emseg.training.validation import choose_threshold

SIDE, EVERY = 96, 16


@pytest.fixture(autouse=True)
def _pictures_are_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of these tests says of each pixel how bright it is."""

    def shown(network: nn.Module, image: NDArray[np.float32], area: object) -> object:
        return np.stack([image, 1 - image])

    monkeypatch.setattr(validation, "region_probabilities", shown)


def walls(strength: float, *, ground: float = 0.05) -> NDArray[np.float32]:
    """Draw a grid of walls two pixels wide."""
    p = np.full((SIDE, SIDE), ground, np.float32)
    for k in range(EVERY, SIDE, EVERY):
        p[k : k + 2] = p[:, k : k + 2] = strength
    return p


TRUTH = np.where(walls(1) > 0.5, MEMBRANE, INSIDE).astype(np.uint8)


def crop(p: NDArray[np.float32], known: tuple[slice, slice] | None = None) -> Crop:
    """Return a crop in which all is known, or some."""
    target = np.full_like(TRUTH, IGNORE)
    part = known or (slice(None), slice(None))
    target[part] = TRUTH[part]
    return Crop(p, target, np.ones_like(p), Region(0, 0, 0, SIDE, SIDE))


def chosen(*crops: Crop, parent: float = 0.6) -> float:
    return drain(choose_threshold(nn.Identity(), crops, parent))


def test_weak_walls_lower_it() -> None:
    assert chosen(crop(walls(0.4))) < 0.4


def test_walls_that_are_none_raise_it() -> None:
    p = walls(0.85)
    p[EVERY // 2 :: EVERY] = np.maximum(p[EVERY // 2 :: EVERY], 0.5)
    assert 0.5 < chosen(crop(p), parent=0.3) < 0.85


def test_it_lies_in_the_middle_of_what_is_as_good() -> None:
    assert chosen(crop(walls(0.7, ground=0.3)), parent=0.5) == pytest.approx(0.5)
    assert chosen(crop(walls(0.9, ground=0.5)), parent=0.5) == pytest.approx(
        0.7, abs=0.05
    )


def test_nothing_known_of_walls_leaves_it() -> None:
    inside = slice(0, EVERY - 1), slice(0, EVERY - 1)
    assert chosen(crop(walls(0.4), inside)) == 0.6
    assert chosen() == 0.6


def test_few_walls_leave_the_parent_its_say() -> None:
    one = slice(0, EVERY - 1), slice(0, 2 * EVERY)
    few, many = chosen(crop(walls(0.4), one)), chosen(crop(walls(0.4)))
    assert many < 0.4 < few < 0.6


def test_gaps_around_what_is_known_count() -> None:
    """Inside the place the wall is strong; further along, it is not."""
    p = walls(0.9)
    p[:, : SIDE // 2] = np.where(TRUTH == MEMBRANE, 0.3, p)[:, : SIDE // 2]
    place = slice(0, SIDE), slice(SIDE // 2 + 2, SIDE - 1)
    apart = Crop(
        p[:, SIDE // 2 :],
        crop(p, place).target[:, SIDE // 2 :],
        p,
        Region(0, 0, 0, SIDE, SIDE // 2),
    )
    open_at_the_side = p.copy()
    open_at_the_side[:, SIDE // 2] = 0.05
    assert chosen(crop(p, place), parent=0.6) <= chosen(apart, parent=0.6)


def test_groups_are_not_compared_with_each_other() -> None:
    """Both ends of one cell are known, and nobody said that they are two."""
    p = np.full((SIDE, SIDE), 0.05, np.float32)
    target = np.full(p.shape, IGNORE, np.uint8)
    for left in (0, SIDE - 8):
        target[:, left : left + 8] = INSIDE
    one = Crop(p, target, p, Region(0, 0, 0, SIDE, SIDE))
    assert chosen(one) == 0.6
