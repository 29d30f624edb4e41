"""Which step is the best: by cells of held-out places, else by likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_emseg.core.regions import Region
from napari_emseg.training import validation
from napari_emseg.training.crops import Crop
from napari_emseg.training.losses import IGNORE, INSIDE, MEMBRANE
from napari_emseg.training.validation import CropValidation

SHAPE = 64, 82
PLACES = 6


def target() -> NDArray[np.uint8]:
    """Draw two cells of one size, and the wall between them."""
    drawn = np.full(SHAPE, INSIDE, np.uint8)
    drawn[:, 40:42] = MEMBRANE
    return drawn


class Shows(torch.nn.Module):
    """Shows the wall of each place as membrane, so sure, and the rest as inside."""

    def __init__(self, walls: Sequence[float], inside: float = 0.9) -> None:
        super().__init__()
        self.walls, self.inside = walls, inside


class Predicts:
    """What a network shows of a place; pictures hold the number of theirs."""

    def __init__(self, network: Shows) -> None:
        self.network = network

    def probabilities(
        self, picture: NDArray[np.float32], n_classes: int
    ) -> NDArray[np.float32]:
        assert n_classes == 2
        wall = self.network.walls[int(picture[0, 0])]
        membrane = np.where(target() == MEMBRANE, wall, 1 - self.network.inside)
        return np.stack([membrane, 1 - membrane]).astype(np.float32)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> CropValidation:
    monkeypatch.setattr(validation, "NetworkPredictor", Predicts)
    return judging(target())


def judging(known: NDArray[np.uint8]) -> CropValidation:
    return CropValidation(
        [
            Crop(
                np.full(SHAPE, n, np.float32),
                known,
                (known != IGNORE).astype(np.float32),
                Region.whole(n, SHAPE),
            )
            for n in range(PLACES)
        ],
        0.5,
    )


WHOLE = [0.9] * PLACES
OPEN = [0.1] * PLACES
ONE_OPEN = [0.1, *WHOLE[1:]]


def test_what_joins_two_cells_of_one_size_is_a_bit_worse(judge: CropValidation) -> None:
    first = judge(Shows(WHOLE))
    assert first["vi"] == pytest.approx(0, abs=0.02)
    assert first["pixel_f"] == 1
    # each class is 0.9 sure of what it is, and of what it isn't
    assert first["score"] == first["likelihood"] == pytest.approx(np.log(0.9))
    # without walls, and so sure of all inside that it would be likelier
    later = judge(Shows(OPEN, inside=0.9999))
    assert later["vi"] == pytest.approx(1)
    assert later["score"] - first["score"] == pytest.approx(-1, abs=0.02)


def test_a_step_that_parts_cells_is_better_though_less_likely(
    judge: CropValidation,
) -> None:
    worse = judge(Shows(OPEN, inside=0.9999))
    better = judge(Shows([0.6] * PLACES, inside=0.55))
    assert better["vi"] == pytest.approx(0, abs=0.02)
    assert better["score"] - worse["score"] == pytest.approx(1, abs=0.02)
    # the next is compared with the best, not with the one before
    again = judge(Shows(OPEN, inside=0.9999))
    assert again["score"] == pytest.approx(worse["score"], abs=0.04)


def test_what_differs_in_one_place_is_chance_and_likelihood_decides(
    judge: CropValidation,
) -> None:
    first = judge(Shows(WHOLE))
    # one cell too few in one place of six, but surer of all others
    second = judge(Shows([0.1, *[0.999] * 5], inside=0.9999))
    assert second["vi"] > first["vi"] + 0.1
    gained = second["likelihood"] - first["likelihood"]
    assert second["score"] - first["score"] == pytest.approx(gained)


def test_a_round_that_goes_on_compares_with_the_best_so_far(
    judge: CropValidation,
) -> None:
    judge.go_on(Shows(WHOLE), score=5.0)
    assert judge(Shows(WHOLE))["score"] == 5
    assert judge(Shows(OPEN))["score"] == pytest.approx(4, abs=0.02)


def test_without_a_known_wall_there_are_no_cells_to_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validation, "NetworkPredictor", Predicts)
    known = target()
    known[:, 40:] = IGNORE
    judge = judging(known)
    first, second = judge(Shows(WHOLE)), judge(Shows(OPEN, inside=0.99))
    assert "vi" not in first
    assert second["score"] == second["likelihood"] > first["score"]
