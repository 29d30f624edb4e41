"""Affinities and neighbouring sections in training, on cells drawn by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_emseg.core.regions import Region
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import AugmentSettings, TrainSettings
from napari_emseg.inference.sections import SectionReader
from napari_emseg.models.zoo import build
from napari_emseg.training.affinities import (
    OPEN,
    UNKNOWN,
    affinity_targets,
    connected_cells,
)
from napari_emseg.training.card import Split
from napari_emseg.training.crops import cut_crops
from napari_emseg.training.dataset import Example, read_examples
from napari_emseg.training.losses import (
    IGNORE,
    LOSSES,
    affinity_loss,
    with_affinities,
)
from napari_emseg.training.mixture import LabelledStack, resampled, sources_along
from napari_emseg.training.patches import PatchSource, _piece, draw_patch
from napari_emseg.training.sparse_labels import RUN, SparseIds, SparseLabels
from napari_emseg.training.trainer import Trainer

STILL = AugmentSettings(
    warp=0,
    contrast=0,
    noise=0,
    artefacts=0,
    shifted=0,
    missing_neighbour=0,
    blank_neighbour=0,
)
OFFSETS = [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, -3), (-3, 0, 0)]


def targets(ids: Any, offsets: Any, near: Any = None) -> list[list[list[int]]]:
    others = near or {}
    found = affinity_targets(
        torch.tensor(ids),
        lambda z: torch.tensor(others[z]) if z in others else None,
        offsets,
    )
    return found.tolist()


def test_targets_say_what_is_of_one_cell() -> None:
    i = IGNORE
    #      cell 1, membrane, cells 2 and 3 that touch, nothing known
    ids = [[1, 1, 0, 2, 3, UNKNOWN], [1, 0, 0, 2, 2, 3]]
    left, up = targets(ids, [(0, 0, -1), (0, -1, 0)])
    assert left == [[i, 1, 0, 0, 0, i], [i, 0, 0, 0, 1, 0]]
    assert up == [[i] * 6, [1, 0, 0, 1, 0, i]]
    (below,) = targets(ids, [(-1, 0, 0)], {-1: [[1, 2, 2, 2, 0, 1]] * 2})
    assert below == [[1, 0, 0, 1, 0, i], [1, 0, 0, 1, 0, 0]]
    assert targets(ids, [(-3, 0, 0)]) == [[[i] * 6] * 2]
    assert targets(ids, [(0, -1, 2)])[0][1] == [0, 0, 0, i, i, i]


def test_cells_that_reach_the_unknown_may_be_one() -> None:
    target = np.array(
        [
            [1, 1, 0, 1, IGNORE],
            [0, 0, 0, 1, 0],
            [2, 0, 1, 0, 1],
            [2, 0, IGNORE, 0, 1],
        ],
        np.uint8,
    )
    ids = connected_cells(target)
    closed, left, reaching, right = ids[0, 0], ids[2, 0], ids[0, 3], ids[2, 2]
    assert 0 < closed != left > 0
    assert (reaching > OPEN, right > OPEN) == (True, True)
    assert ids[1, 3] == reaching
    assert ids[0, 4] == ids[3, 2] == UNKNOWN
    (pairs,) = targets(ids.astype(int), [(2, 0, -1)], {2: ids.astype(int)})
    assert pairs[2][3] == 0  # membrane
    two = [[int(reaching), int(right), int(closed)]]
    assert targets(two, [(0, 0, -1)]) == [[[IGNORE, IGNORE, 0]]]


def drawn(depth: int = 7, side: int = 48) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sections whose grey value is 20 times their number, and ids in stripes."""
    ids = np.zeros((depth, side, side), np.uint16)
    for z in range(depth):
        ids[z] = 1 + (np.arange(side) + z) // 12  # stripes that move
        ids[z, :, (np.arange(side) + z) % 12 == 0] = 0
    grey = np.random.default_rng(0).integers(60, 200, ids.shape).astype(np.uint8)
    return grey, ids


def settings(**changes: Any) -> TrainSettings:
    given = {"patch": 32, "batch": 2, "augment": STILL, **changes}
    return TrainSettings(**given)


def test_patches_show_true_neighbours_and_teach_true_affinities() -> None:
    grey, ids = drawn()
    examples = read_examples(
        Stack(grey), Stack(ids), "cells", context=5, affinities=OFFSETS
    )
    assert [len(e.below) for e in examples] == [0, 1, 2, 3, 4, 4, 4]
    source = PatchSource(
        examples,
        settings(),
        n_classes=2,
        device=torch.device("cpu"),
        affinities=OFFSETS,
    )
    part, piece = slice(8, 40), source._pieces[4]
    for seed in range(12):
        rng = torch.Generator().manual_seed(seed)
        image, target, _ = draw_patch(piece, (23.5, 23.5), settings(), rng, OFFSETS)
        assert image.shape == (5, 32, 32)
        assert target.shape == (6, 32, 32)
        # which quarter turn it was is told by the picture
        way = _way(examples[4].image[part, part], image[2])
        for plane, z in zip(image, (2, 3, 4, 5, 6), strict=True):
            expected = _turned(examples[z].image[part, part], way)
            np.testing.assert_allclose(plane, expected, atol=1e-4)
        cells = {z: _turned(ids[z, part, part].astype(int), way) for z in (1, 3, 4)}
        own = cells[4]
        for channel, other in ((1, cells[3]), (5, cells[1])):
            same = (own > 0) & (own == other)
            np.testing.assert_array_equal(target[channel], same)
        right = (own[:, 3:] > 0) & (own[:, 3:] == own[:, :-3])
        np.testing.assert_array_equal(target[4, :, 3:], right)
        assert (target[4, :, :3] == IGNORE).all()


Way = tuple[int, bool]


def _turned(values: Any, way: Way) -> Any:
    turned = np.rot90(values, way[0])
    return turned[:, ::-1] if way[1] else turned


def _way(picture: Any, patch: Tensor) -> Way:
    """Return the turn that makes a patch of a picture."""
    ways = [(turns, mirror) for turns in range(4) for mirror in (False, True)]
    (found,) = [w for w in ways if np.allclose(_turned(picture, w), patch, atol=1e-4)]
    return found


@pytest.mark.parametrize("run", [0, 1])
def test_corrections_teach_how_cells_go_on_where_both_sections_are_known(
    run: int,
) -> None:
    """Left of a wall one cell goes on; right of it ids differ, of one run or two."""
    grey, _ = drawn(3, 40)
    opinions, ids = SparseLabels(grey.shape), SparseIds(grey.shape)
    codes = np.full((20, 40), 2, np.uint8)
    codes[:, 10] = 1
    opinions.put(Region(1, 0, 0, 20, 40), codes)
    for z, right, stop in ((0, 6, 30), (1, 9, 40), (2, 9, 40)):
        cells = np.full((40, stop), 5)
        cells[:, 10], cells[:, 11:] = 0, right
        if z == 0:
            cells[cells > 0] += run * RUN
        ids.put(Region(z, 0, 0, 40, stop), cells)
    sections = SectionReader(Stack(grey), Normalisation(), invert=False, context=3)
    (crop,) = cut_crops(sections, opinions, margin=4, ids=ids)
    part = slice(0, 32), slice(4, 36)
    expected = np.full((40, 40), IGNORE)
    expected[:20] = 0
    expected[:20, :10] = 1
    if run:  # another run gives other ids, whether it is another cell or not
        expected[:20, 11:] = IGNORE
    expected[:20, 30:] = IGNORE  # nothing is known of the section below
    piece = _piece(crop, torch.device("cpu"), ids=True)
    for seed in range(6):
        rng = torch.Generator().manual_seed(seed)
        image, target, _ = draw_patch(piece, (15.5, 19.5), settings(), rng, OFFSETS)
        way = _way(crop.image[1][part], image[1])
        np.testing.assert_array_equal(target[1], _turned(expected[part], way))
        assert (target[5] == IGNORE).all()  # three sections away
    # in the plane it is as without: the right part reaches what nobody said
    (alone,) = cut_crops(sections, opinions, margin=4)
    other = _piece(alone, torch.device("cpu"), ids=True)
    rng = torch.Generator().manual_seed(5)
    _, plain, _ = draw_patch(other, (15.5, 19.5), settings(), rng, OFFSETS)
    np.testing.assert_array_equal(plain[2:5], target[2:5])
    assert (plain[1] == IGNORE).all()


def test_ids_of_sections_that_are_not_learnt_from_stay_unknown() -> None:
    grey, ids = drawn()
    kept = [0, 1, 3, 4, 6]
    examples = read_examples(
        Stack(grey), Stack(ids), "cells", sections=kept, context=3, affinities=OFFSETS
    )
    three = examples[2]
    assert three.section == 3
    assert [near.ids is None for near in three.below] == [True, False, False]
    np.testing.assert_array_equal(three.below[1].ids, examples[1].ids)
    assert three.below[1].image is examples[1].image


def test_labels_that_all_end_in_a_section_say_nothing_of_the_next() -> None:
    grey, ids = drawn()
    ids[4:][ids[4:] > 0] += 100
    examples = read_examples(
        Stack(grey), Stack(ids), "cells", context=3, affinities=OFFSETS
    )
    assert [near.ids is None for near in examples[4].above[:2]] == [False, False]
    assert [near.ids is None for near in examples[4].below[:2]] == [True, True]
    assert [near.ids is None for near in examples[3].above[:2]] == [True, True]


def test_masks_teach_nothing_across_sections() -> None:
    grey, ids = drawn()
    examples = read_examples(
        Stack(grey), Stack(ids > 0), "inside", context=3, affinities=OFFSETS
    )
    assert examples[3].ids is not None
    assert all(near.ids is None for near in examples[3].below)
    assert np.unique(examples[3].ids).tolist() == [0, 1, 2, 3, 4, 5]


def test_one_section_and_no_affinities_are_read_as_before() -> None:
    grey, ids = drawn()
    for example in read_examples(Stack(grey), Stack(ids), "cells"):
        assert (example.context, example.ids, example.below) == (1, None, ())
        assert example.seen.shape == (1, 48, 48)


def test_neighbours_vary_as_often_as_asked() -> None:
    grey, ids = drawn()
    examples = read_examples(
        Stack(grey), Stack(ids), "cells", context=5, affinities=OFFSETS
    )

    def patch(seed: int, **changes: float) -> tuple[Tensor, Tensor]:
        some = settings(augment=STILL.model_copy(update=changes))
        source = PatchSource(
            examples[3:4],
            some,
            n_classes=2,
            device=torch.device("cpu"),
            affinities=OFFSETS,
        )
        rng = torch.Generator().manual_seed(seed)
        image, target, _ = source.patch(rng)
        return image, target

    for change in ("shifted", "missing_neighbour", "blank_neighbour"):
        changed = np.zeros(5, bool)
        for seed in range(12):
            (plain, _), (image, _) = patch(seed), patch(seed, **{change: 1.0})
            assert torch.equal(image, patch(seed, **{change: 1.0})[0])
            changed |= (image - plain).abs().amax((1, 2)).numpy() > 1e-3
        # all neighbours sooner or later, the section itself never
        assert changed.tolist() == [True, True, False, True, True]


def test_the_loss_counts_only_what_is_known() -> None:
    logits = torch.randn(2, 3, 8, 8)
    target = torch.randint(0, 2, (2, 3, 8, 8))
    target[:, 2] = IGNORE
    found = affinity_loss(logits, target)
    other = logits.clone()
    other[:, 2] += 5
    assert affinity_loss(other, target) == found
    sure = torch.where(target == 1, 20.0, -20.0)
    assert float(affinity_loss(sure, target)) < 1e-3
    assert float(affinity_loss(-sure, target)) > 5
    assert float(affinity_loss(logits, torch.full_like(target, IGNORE))) == 0


def test_classes_alone_are_learnt_where_targets_are_classes() -> None:
    loss = with_affinities(LOSSES["cross-entropy"], 2, 3.0)
    logits, weight = torch.randn(1, 4, 8, 8), torch.ones(1, 8, 8)
    target = torch.randint(0, 2, (1, 3, 8, 8))
    classes = LOSSES["cross-entropy"](logits[:, :2], target[:, 0], weight, "softmax")
    assert loss(logits, target[:, 0], weight, "softmax") == classes
    both = classes + 3 * affinity_loss(logits[:, 2:], target[:, 1:])
    torch.testing.assert_close(loss(logits, target, weight, "softmax"), both)


def test_resampling_keeps_what_examples_share() -> None:
    grey, ids = drawn()
    examples = read_examples(
        Stack(grey), Stack(ids), "cells", context=3, affinities=OFFSETS
    )
    shared: dict[int, Any] = {}
    small = [resampled(e, (0.5, 0.5), shared) for e in examples]
    assert small[3].seen.shape == (3, 24, 24)
    assert small[3].below[0].image is small[2].image
    assert small[3].below[0].ids is small[2].ids
    np.testing.assert_array_equal(small[3].ids, examples[3].ids[1::2, 1::2])


def test_a_stack_is_cut_along_all_axes() -> None:
    grey, ids = drawn()
    stack = LabelledStack(
        "drawn",
        Stack(grey, voxel_size_nm=(8, 9, 10)),
        Stack(ids),
        "cells",
        Split((0, 1, 3, 4, 5), (6,)),
        views=3,
    )
    own, down, across = sources_along(stack)
    assert own is stack
    assert down.images.voxel_size_nm == (9, 8, 10)
    np.testing.assert_array_equal(down.labels.section(7), ids[3:6, 7])
    np.testing.assert_array_equal(across.images.section(9), grey[3:6, :, 9])
    assert across.split == Split(tuple(range(48)))


def test_a_network_learns_affinities() -> None:
    grey, ids = drawn()
    grey = np.where(ids == 0, 30, 180).astype(np.uint8)
    examples = read_examples(
        Stack(grey), Stack(ids), "cells", context=3, affinities=OFFSETS[:4]
    )
    torch.manual_seed(0)
    some = settings(steps=40, batch=2, learning_rate=1e-2, validate_every=40)
    shape = {"base": 8, "levels": 1, "context": 3, "affinities": OFFSETS[:4]}
    network = build("unet", shape)
    source = PatchSource(
        examples,
        some,
        n_classes=2,
        device=torch.device("cpu"),
        affinities=OFFSETS[:4],
    )
    trainer = Trainer(network, source, some)
    losses = [trainer._update() for _ in range(some.steps)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2


@pytest.mark.parametrize("section", [0, 6])
def test_at_the_ends_of_a_stack_the_last_one_stands_in(section: int) -> None:
    grey, ids = drawn()
    examples: list[Example] = read_examples(Stack(grey), Stack(ids), "cells", context=5)
    seen = examples[section].seen
    outer = seen[:2] if section == 0 else seen[3:]
    np.testing.assert_array_equal(outer[0], outer[1])
    np.testing.assert_array_equal(outer[0], examples[section].image)
