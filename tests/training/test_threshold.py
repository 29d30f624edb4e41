"""The threshold of a candidate: by the cells it gives, shrunk to its parent's."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from finetuning import TORCH, untaught
from numpy.typing import NDArray

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.inference.region import RegionPredictor
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.losses import IGNORE, INSIDE, MEMBRANE
from napari_emseg.training.validation import (
    LEVELS,
    KnownCells,
    best_threshold,
    bits_lost,
    choose_threshold,
    likely_threshold,
)

SIDE, EVERY = 96, 24


def walls(strength: float, *, ground: float = 0.05) -> NDArray[np.float32]:
    """Draw a grid of walls two pixels wide."""
    p = np.full((SIDE, SIDE), ground, np.float32)
    for k in range(EVERY, SIDE, EVERY):
        p[k : k + 2] = p[:, k : k + 2] = strength
    return p


TRUTH = np.where(walls(1) > 0.5, MEMBRANE, INSIDE).astype(np.uint8)
N_WALLS = 15
"""Sixteen cells, each but the first parted from the others."""


def chosen(p: NDArray[np.float32], parent: float, walls: float | None = None) -> float:
    """Choose by all of the truth, as if so many walls were known."""
    bits, n = bits_lost(p, TRUTH)
    return best_threshold(bits, n if walls is None else walls, parent)


def test_what_is_known_of_walls_is_counted() -> None:
    bits, n = bits_lost(walls(0.9), TRUTH)
    assert n == N_WALLS
    assert bits.shape == (len(LEVELS), 2)
    assert (bits[:, 1] == np.count_nonzero(TRUTH)).all()


def test_weak_walls_lower_it() -> None:
    assert chosen(walls(0.3), parent=0.7) < 0.6


def test_one_level_by_chance_is_no_trough() -> None:
    """A trough is worth more than a lone lower level between two high ones."""
    cost = np.full(len(LEVELS), 1.0)
    trough = [k for k, level in enumerate(LEVELS) if 0.39 < level < 0.61]
    cost[trough] = 0.8
    cost[LEVELS.index(0.75)] = 0.7
    bits = np.stack([cost, np.ones_like(cost)], axis=1)
    assert best_threshold(bits, 1e9, None) == pytest.approx(0.5)


def test_it_lies_in_the_middle_of_what_is_as_good() -> None:
    """Any threshold gives these cells: the parent's stays."""
    bits, n = bits_lost(walls(0.95), TRUTH)
    assert np.ptp(bits[:, 0]) < 1e-9
    assert best_threshold(bits, 1e9, None) == pytest.approx(0.5)
    assert best_threshold(bits, n, 0.3) == pytest.approx(0.3, abs=0.05)


def test_few_walls_leave_the_parent_its_say() -> None:
    bits = np.zeros((len(LEVELS), 2))
    bits[:, 0] = [abs(level - 0.3) for level in LEVELS]  # a bit each, best at 0.3
    bits[:, 1] = 1
    few, some, many = (best_threshold(bits, n, 0.7) for n in (2, 20, 2000))
    assert few == pytest.approx(0.6, abs=0.1)
    assert many == pytest.approx(0.3, abs=0.01)
    assert many <= some < few


class Shown(RegionPredictor):
    """Says what was drawn."""

    def __init__(self, folder: Path, p: NDArray[np.float32]) -> None:
        super().__init__(untaught(folder / "weights.safetensors"), TORCH)
        self.p = p

    def membrane(
        self,
        stack: Stack,
        region: Region,
        *,
        invert: bool,
        excluded: Collection[int] = (),
    ) -> NDArray[np.float32]:
        return self.p[region.area]


def known(where: tuple[slice, slice], counts: float = 1.0) -> KnownCells:
    """Return what is known of the truth in one place."""
    stack = Stack(np.zeros((1, SIDE, SIDE), np.uint8))
    codes = np.zeros(stack.shape, np.uint8)
    codes[0][where] = TRUTH[where] + 1
    taught = TrainingSet.from_corrections(stack, codes)
    return KnownCells(taught, taught.opinions, counts)


def test_classes_that_count_alike_are_parted_nearer_to_a_half() -> None:
    assert likely_threshold(0.3) == pytest.approx(0.4)
    assert likely_threshold(0.5) == 0.5
    assert likely_threshold(0.8) == pytest.approx(0.65)


ALL = slice(None), slice(None)


def test_nothing_known_of_walls_leaves_it(tmp_path: Path) -> None:
    shown = Shown(tmp_path, walls(0.3))
    one = slice(0, EVERY - 1), slice(0, EVERY - 1)
    for by in ([], [known(one)]):
        assert drain(choose_threshold(shown, by, 0.62)) == 0.62


def test_what_was_held_out_counts_more_than_what_was_learnt(tmp_path: Path) -> None:
    shown = Shown(tmp_path, walls(0.3))
    held_out, learnt = (
        drain(choose_threshold(shown, [known(ALL, counts)], 0.9))
        for counts in (1.0, 0.02)
    )
    assert held_out < learnt <= 0.9


def test_what_several_sections_show_counts_once(tmp_path: Path) -> None:
    """Sections of 10 nm show the same walls, those 400 nm apart others."""
    shown = Shown(tmp_path, walls(0.3))

    def choose(sections: list[int], depth: float) -> float:
        codes = np.zeros((3, SIDE, SIDE), np.uint8)
        codes[sections] = TRUTH + 1
        stack = Stack(np.zeros_like(codes), voxel_size_nm=(depth, 4, 4))
        taught = TrainingSet.from_corrections(stack, codes)
        by = KnownCells(taught, taught.opinions, 0.08)
        return drain(choose_threshold(shown, [by], 0.9))

    assert choose([0, 2], 10) == choose([0], 10)
    assert choose([0, 2], 200) < choose([0], 200)


def test_groups_are_not_compared_with_each_other() -> None:
    """Both ends of one cell are known, and nobody said that they are two."""
    p = np.full((SIDE, SIDE), 0.05, np.float32)
    target = np.full(p.shape, IGNORE, np.uint8)
    target[:, :8] = target[:, -8:] = INSIDE
    bits, n = bits_lost(p, target)
    assert n == 0
    assert bits[:, 0] == pytest.approx(0)
