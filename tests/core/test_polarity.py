from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_emseg.core.intensity import Polarity, polarity
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.sample import synthetic, vnc


def test_real_em_has_dark_membranes_and_its_inversion_bright_ones() -> None:
    stack = vnc()
    inverse = Stack(255 - np.asarray(stack.data[:]))
    assert polarity(stack).inverted is False
    assert polarity(inverse).inverted is True
    assert polarity(inverse).score == pytest.approx(-polarity(stack).score, abs=0.02)


def test_drawn_membranes() -> None:
    stack, _ = synthetic((3, 128, 128), seed=0)
    assert polarity(stack).inverted is False
    assert polarity(Stack(255 - np.asarray(stack.data[:]))).inverted is True


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((3, 64, 64), np.uint8),
        np.full((3, 64, 64), np.nan, np.float32),
        np.random.default_rng(0).normal(size=(3, 256, 256)),
        np.ones((1, 2, 2), np.uint8),
    ],
    ids=["blank", "nan", "noise", "tiny"],
)
def test_it_says_when_it_cannot_tell(data: np.ndarray) -> None:
    found = polarity(Stack(data))
    assert found.inverted is None
    assert "can't tell" in found.words


def test_padding_and_damage_change_nothing() -> None:
    values = np.asarray(vnc().data[:])
    padded = values.copy()
    padded[:, :150] = 0

    class Damaged:
        shape, dtype = padded.shape, padded.dtype

        def __getitem__(self, z: int) -> np.ndarray:
            if z == 0:
                raise OSError
            return padded[z]

    whole, part = polarity(Stack(values)), polarity(Stack(Damaged()))
    assert part.score == pytest.approx(whole.score, abs=0.05)


def test_words() -> None:
    assert Polarity(-0.2).words == "membranes look bright"
    assert Polarity(0.2).words == "membranes look dark"


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name",
    [
        "vnc/stack2_raw.tif",
        "cortex_ac4/raw_00-29.tif",
        "fib25/ts2_raw_150-249.tif",
        "cremi_c_crop/image.tif",
        "isbi2012/images",
        "isbi2012/test_images",
    ],
)
def test_real_stacks(shared_data: Path, name: str) -> None:
    stack = open_stack(shared_data / name)
    assert polarity(stack).inverted is False
    data = np.asarray(stack.data[:])
    inverse = np.where(data == 0, 0, 255 - data)  # blank sections stay blank
    assert polarity(Stack(inverse)).inverted is True
