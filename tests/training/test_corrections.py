from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_emseg.core.labels import inside_mask
from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import AugmentSettings, FinetuneSettings
from napari_emseg.inference.sections import SectionReader
from napari_emseg.models.zoo import build
from napari_emseg.training.corrections import TrainingSet, taken_as_shown
from napari_emseg.training.crops import Border, cut_crops
from napari_emseg.training.losses import IGNORE, LOSSES, border_weight
from napari_emseg.training.patches import CorrectionPatches
from napari_emseg.training.sparse_labels import SparseLabels
from napari_emseg.training.training_data import (
    FEWEST_STEPS,
    MOST_STEPS,
    balanced_weights,
    completed,
    places_learnt,
    steps_for,
)

Drawn = tuple[Stack, NDArray[np.uint32]]
CPU = torch.device("cpu")
RULE = Normalisation()


def strokes(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    codes = np.zeros(shape, np.uint8)
    codes[1, 10:14, 20:40] = 1
    codes[1, 60:64, 20:40] = 2
    return codes


def test_inside_a_reviewed_region_everything_counts(drawn_stack: Drawn) -> None:
    stack, cells = drawn_stack
    region = Region(1, 0, 0, 70, 50)
    corrections = strokes(stack.shape)
    corrections[1, 0, 0] = 3
    known = TrainingSet.from_corrections(
        stack, corrections, reviewed=[region], result=cells
    )
    codes = known.opinions.window(Region.whole(1, stack.shape[1:]))
    by_hand = corrections[1] > 0
    assert (codes[:70, :50] > 0).all()
    assert (codes[by_hand] == corrections[1][by_hand]).all(), "hand beats what is shown"
    outside = np.ones(codes.shape, bool)
    outside[:70, :50] = False
    assert (codes[outside & ~by_hand] == 0).all(), "elsewhere unlabelled is unknown"
    shown = np.where(inside_mask(cells[1], "cells"), 2, 1)[:70, :50]
    untouched = ~by_hand[:70, :50]
    assert (codes[:70, :50][untouched] == shown[untouched]).all()
    assert known.incomplete == ()
    assert known.words == "3,500 px in 1 section, 1 reviewed region"


def test_what_was_shown_can_come_later(drawn_stack: Drawn) -> None:
    stack, cells = drawn_stack
    region = Region(2, 0, 0, 10, 10)
    known = TrainingSet.from_corrections(
        stack, np.zeros(stack.shape, np.uint8), reviewed=[region]
    )
    assert known.incomplete == (region,)
    assert known.complete(cells, "cells").incomplete == ()


def wall_with_a_gap(rows: int) -> NDArray[np.uint8]:
    """Draw two cells, and between them a wall of 2 px, open in its middle."""
    shown = np.full((64, 82), 2, np.uint8)
    shown[:, 40:42] = 1
    shown[30 : 30 + rows, 40:42] = 2
    return shown


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_a_gap_that_nobody_mended_is_not_learnt_as_inside(rows: int) -> None:
    shown = wall_with_a_gap(rows)
    codes, gaps = taken_as_shown(np.zeros_like(shown), shown)
    assert gaps
    changed = codes != shown
    assert not codes[changed].any(), "unknown, and nothing but inside became so"
    # 4 px around the line, which is in one column of the gap or in the other
    around = np.zeros(shown.shape, bool)
    around[26 : 34 + rows, 36:46] = True
    surely = np.zeros(shown.shape, bool)
    surely[26 : 34 + rows, 37:45] = True
    assert not changed[~around].any()
    assert np.array_equal(changed[surely], (shown == 2)[surely])


def test_what_was_done_by_hand_in_a_gap_counts() -> None:
    shown = wall_with_a_gap(2)
    by_hand = np.zeros_like(shown)
    by_hand[30:32, 40:42] = 2  # one cell, says somebody
    codes, gaps = taken_as_shown(by_hand, shown)
    assert np.array_equal(codes, shown)
    assert not gaps
    by_hand[30:32, 40:42] = 1
    codes, gaps = taken_as_shown(by_hand, shown)
    assert np.array_equal(codes, wall_with_a_gap(0))
    assert not gaps


class Shows:
    """Weights that show the wall with a gap."""

    threshold = 0.5

    def membrane(self, *_: object, **__: object) -> NDArray[np.float32]:
        return (wall_with_a_gap(2) == 1).astype(np.float32)


def test_a_gap_stays_unknown_whoever_showed_it() -> None:
    stack = Stack(np.zeros((1, 64, 82), np.uint8))
    mask = wall_with_a_gap(2)[None] == 1
    region = Region.whole(0, (64, 82))
    waiting = TrainingSet(stack, SparseLabels((1, 64, 82)), (region,))
    by_result = waiting.complete(mask, "membrane")
    by_weights = drain(completed(waiting, Shows()))  # type: ignore[arg-type]
    for known in (by_result, by_weights):
        assert not known.opinions.window(region)[30:32, 40:42].any()
        assert known.partly == {region}
        assert known.incomplete == (), "or it would be shown once more, and be inside"
    # labels that were drawn elsewhere are what somebody said of each pixel
    drawn = TrainingSet.from_labels(stack, mask, "membrane")
    assert np.array_equal(drawn.opinions.window(region), wall_with_a_gap(2))


@pytest.mark.parametrize("labels_are", ["cells", "inside", "membrane"])
def test_labels_drawn_elsewhere(labels_are: str, drawn_stack: Drawn) -> None:
    stack, cells = drawn_stack
    labels = cells == 0 if labels_are == "membrane" else cells
    labels = labels * np.array([1, 0, 1, 0])[:, None, None]
    known = TrainingSet.from_labels(stack, labels, labels_are)
    assert [r.z for r in known.reviewed] == [0, 2], (
        "a section without labels is unknown"
    )
    codes = known.opinions.window(Region.whole(2, stack.shape[1:]))
    np.testing.assert_array_equal(codes, np.where(cells[2] > 0, 2, 1))


@pytest.mark.parametrize(
    ("kind", "value"),
    [(np.uint64, 2**64 - 1), (np.int16, -1), (np.float32, np.nan)],
)
def test_pixels_without_a_label_stay_unknown(
    kind: type, value: float, drawn_stack: Drawn
) -> None:
    """Also to what takes for right in reviewed regions what nobody corrected."""
    stack, cells = drawn_stack
    labels = cells.astype(kind)
    labels[:, :30] = kind(value)
    labels[1] = kind(value)
    known = TrainingSet.from_labels(stack, labels, "cells")
    assert [r.z for r in known.reviewed] == [0, 2, 3]
    codes = known.opinions.window(Region.whole(0, stack.shape[1:]))
    assert not codes[:30].any()
    np.testing.assert_array_equal(codes[31:], np.where(cells[0] > 0, 2, 1)[31:])
    assert known.incomplete == ()
    assert known.notes == (
        "section 1 left out: nothing is labelled there, so all of it is unknown",
        f"{3 * 30 * 112:,} px without a label left out: they are unknown",
    )


@pytest.mark.parametrize("meaning", ["cells", "inside", "membrane"])
def test_sections_of_one_class_are_taken_for_undrawn(
    meaning: Any, drawn_stack: Drawn
) -> None:
    """Programs fill what nobody drew with one value, and it isn't 0 in all of them."""
    stack, cells = drawn_stack
    made = {"cells": cells, "inside": cells > 0, "membrane": cells == 0}
    labels = made[meaning].astype(np.uint8)
    labels[1] = 1
    labels[3] = 0
    known = TrainingSet.from_labels(stack, labels, meaning)
    assert [r.z for r in known.reviewed] == [0, 2]
    only = "membrane" if meaning == "membrane" else "inside"
    assert known.notes == (
        "section 3 left out: nothing is labelled there, so all of it is unknown",
        f"section 1 left out: all of it is {only}, as where nobody drew",
    )
    with pytest.raises(ValueError, match=f"nothing but {only} in sections 0-3"):
        TrainingSet.from_labels(stack, np.ones_like(labels), meaning)


@pytest.mark.parametrize(
    ("meaning", "asked"),
    [("inside", "is it membrane rather"), ("cells", "is it a mask rather than cells")],
)
def test_labels_that_look_inverted_are_asked_about(
    meaning: Any, asked: str, drawn_stack: Drawn
) -> None:
    stack, cells = drawn_stack
    walls = (cells == 0).astype(np.uint8)
    known = TrainingSet.from_labels(stack, walls, meaning)
    assert asked in known.notes[-1]
    assert TrainingSet.from_labels(stack, walls, "membrane").notes == ()


def test_labels_count_in_the_given_regions_only(drawn_stack: Drawn) -> None:
    stack, cells = drawn_stack
    region = Region(1, 8, 8, 40, 72)
    known = TrainingSet.from_labels(stack, cells, "cells", regions=[region])
    assert known.opinions.pixels == region.pixels


def test_excluded_sections_teach_nothing(drawn_stack: Drawn) -> None:
    stack, _ = drawn_stack
    known = TrainingSet.from_corrections(stack, strokes(stack.shape), excluded=[1])
    assert known.opinions.pixels > 0
    assert known.usable.pixels == 0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"corrections": np.zeros((4, 9, 9), np.uint8)}, "must have the shape of"),
        ({"reviewed": [Region(9, 0, 0, 5, 5)]}, r"z 9, .* is outside of a stack"),
        ({"result": np.zeros((1, 2, 2))}, "the result must have the shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    how: dict[str, object], said: str, drawn_stack: Drawn
) -> None:
    stack, _ = drawn_stack
    given = {"corrections": strokes(stack.shape), **how}
    with pytest.raises(ValueError, match=said):
        TrainingSet.from_corrections(stack, **given)


def test_empty_labels_are_refused(drawn_stack: Drawn) -> None:
    stack, cells = drawn_stack
    with pytest.raises(ValueError, match="labels are empty"):
        TrainingSet.from_labels(stack, cells * 0, "cells")


def whole(sections: SectionReader, z: int) -> np.ndarray:
    """All of a section as a network sees it."""
    _, height, width = sections._stack.shape
    return sections.open(z).window(slice(0, height), slice(0, width))


def test_crops_hold_image_and_classes_of_the_same_place(drawn_stack: Drawn) -> None:
    stack, _ = drawn_stack
    codes = strokes(stack.shape)
    sections = SectionReader(stack, RULE, invert=False)
    known = TrainingSet.from_corrections(stack, codes)
    (crop,) = cut_crops(sections, known.opinions, margin=16)
    # squares of 64 px: rows 0..64 and columns 0..64, and 16 px around them
    np.testing.assert_array_equal(crop.image, whole(sections, 1)[:80, :80])
    np.testing.assert_array_equal(crop.target, codes[1, :80, :80] - np.uint8(1))
    np.testing.assert_array_equal(crop.weight, codes[1, :80, :80] > 0)


def test_crops_are_resampled_as_a_run_would(drawn_stack: Drawn) -> None:
    stack, _ = drawn_stack
    codes = strokes(stack.shape)
    known = TrainingSet.from_corrections(stack, codes)
    sections = SectionReader(stack, RULE, invert=False)
    (crop,) = cut_crops(sections, known.opinions, margin=500, zoom=(2.0, 2.0))
    np.testing.assert_array_equal(crop.target[::2, 1::2], codes[1] - np.uint8(1))
    image = whole(sections, 1)
    assert np.abs(crop.image[::2, ::2] - image).mean() < 0.05
    assert crop.image.shape == tuple(2 * n for n in image.shape)


@given(st.floats(0.3, 3), st.integers(0, 600), st.integers(0, 600))
def test_any_zoom_keeps_image_and_classes_together(zoom: float, y: int, x: int) -> None:
    """The picture is a ramp; what is known of a pixel lies where its grey value is."""
    ramp = np.add.outer(np.arange(640.0), np.arange(700.0) * 2).astype(np.float32)
    codes = np.zeros((1, 640, 700), np.uint8)
    codes[0, y : y + 20, x : x + 20] = 1
    stack = Stack(ramp[None])
    known = TrainingSet.from_corrections(stack, codes)
    sections = SectionReader(stack, RULE, invert=False)
    crops = list(cut_crops(sections, known.opinions, zoom=(zoom, zoom), margin=30))
    normalised = whole(sections, 0)
    there = normalised[codes[0] > 0]
    here = np.concatenate([c.image[c.target == 0] for c in crops])
    step = (normalised[-1, -1] - normalised[0, 0]) / 1000 / zoom
    assert here.size > 0
    assert abs(here.mean() - there.mean()) < 10 * max(step, 1e-3)
    assert all(c.image.shape == c.target.shape == c.weight.shape for c in crops)


def test_far_corrections_are_cut_out_one_by_one() -> None:
    grey = np.random.default_rng(0).integers(0, 255, (1, 1000, 1000), np.uint8)
    codes = np.zeros(grey.shape, np.uint8)
    codes[0, 10, 10] = codes[0, 900, 900] = 1
    known = TrainingSet.from_corrections(Stack(grey), codes)
    crops = list(
        cut_crops(
            SectionReader(Stack(grey), RULE, invert=False), known.opinions, margin=64
        )
    )
    assert [crop.image.shape for crop in crops] == [(128, 128), (168, 168)]
    assert sum(np.count_nonzero(c.target != IGNORE) for c in crops) == 2


def test_padding_is_unknown_and_blank_sections_give_nothing() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(50, 200, (2, 96, 96)).astype(np.uint8)
    grey[0, :, :20] = 0
    grey[1] = 7
    known = TrainingSet.from_labels(
        Stack(grey),
        np.ones(grey.shape, np.uint8),
        "inside",
        regions=[Region.whole(z, grey.shape[1:]) for z in (0, 1)],
    )
    (crop,) = cut_crops(
        SectionReader(Stack(grey), RULE, invert=False), known.opinions, margin=8
    )
    assert (crop.target[:, :20] == IGNORE).all()
    assert (crop.target[:, 20:] == 1).all()


def test_the_weight_map_is_only_inside_reviewed_regions(drawn_stack: Drawn) -> None:
    stack, cells = drawn_stack
    region = Region(1, 20, 30, 90, 100)
    codes = np.where(cells > 0, 2, 1).astype(np.uint8)
    everywhere = TrainingSet.from_corrections(stack, codes, reviewed=[region])
    (crop,) = cut_crops(
        SectionReader(stack, RULE, invert=False),
        everywhere.opinions.without(
            Region.whole(z, stack.shape[1:]) for z in (0, 2, 3)
        ),
        margin=8,
        reviewed=everywhere.reviewed,
        border=Border(10.0, 5.0),
    )
    target = (codes[1] - 1)[region.area]
    expected = np.ones(crop.weight.shape, np.float32)
    expected[region.area] += border_weight(target, w0=10, sigma=5)
    assert expected.max() > 2
    np.testing.assert_array_equal(crop.weight, expected)


def test_strokes_of_each_class_count_alike_and_reviewed_pixels_by_themselves(
    drawn_stack: Drawn,
) -> None:
    stack, cells = drawn_stack
    region = Region(2, 0, 0, 64, 64)
    codes = np.zeros(stack.shape, np.uint8)
    codes[2, 80:90, 80:90] = 1  # 100 px
    codes[2, 80:90, 90:110] = 2  # 200 px
    known = TrainingSet.from_corrections(stack, codes, reviewed=[region], result=cells)
    weights = balanced_weights(known.opinions.without([region]))
    np.testing.assert_allclose(weights[:2], [1.5, 0.75])
    (crop,) = cut_crops(
        SectionReader(stack, RULE, invert=False),
        known.opinions,
        margin=64,
        reviewed=[region],
        stroke_weights=weights,
    )
    assert (crop.weight[:64, :64] == 1).all()
    assert (crop.weight[80:90, 80:90] == 1.5).all()
    assert (crop.weight[80:90, 90:110] == 0.75).all()
    assert crop.weight.sum() == 64 * 64 + 300


def test_classes_count_alike_in_reviewed_regions_beside_the_weight_of_walls(
    drawn_stack: Drawn,
) -> None:
    stack, cells = drawn_stack
    region = Region.whole(2, stack.shape[1:])
    none = np.zeros(stack.shape, np.uint8)
    known = TrainingSet.from_corrections(stack, none, reviewed=[region], result=cells)
    weights = balanced_weights(known.opinions)
    border = Border(10, 5)
    (crop,) = cut_crops(
        SectionReader(stack, RULE, invert=False),
        known.opinions,
        margin=0,
        reviewed=[region],
        border=border,
        reviewed_weights=weights,
    )
    plain = crop.weight - border_weight(crop.target, w0=10, sigma=5)
    shares = [plain[crop.target == k].sum() for k in (0, 1)]
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)
    assert weights[0] > 1 > weights[1]


def test_a_rare_class_counts_four_times_at_most() -> None:
    codes = np.ones((1, 64, 64), np.uint8)
    codes[0, 0, :4] = 2
    found = balanced_weights(SparseLabels.read(codes))
    np.testing.assert_allclose(found[:2], [0.5, 4], rtol=2e-3)


def test_steps_follow_how_many_places_are_unlike() -> None:
    codes = np.zeros((8, 128, 192), np.uint8)
    codes[:, ::16, ::16] = 1
    labels = SparseLabels.read(codes)
    side = 64.0, 64.0
    assert places_learnt(labels, side=side, sections=1) == 4 * 6
    assert places_learnt(labels, side=side, sections=3) == 2 * 6
    assert places_learnt(labels, side=(128.0, 128.0), sections=3) == 2 * 2
    settings = FinetuneSettings(batch=4, rehearsal=0.25)
    found = [steps_for(n, settings) for n in (0, 5, 30, 500)]
    assert found == [FEWEST_STEPS, FEWEST_STEPS, 400, MOST_STEPS]
    alone = FinetuneSettings(batch=1)
    assert steps_for(10, alone) == 400


SETTINGS = FinetuneSettings(patch=32, batch=4, rehearsal=0)
PLAIN = AugmentSettings(warp=0, artefacts=0)


def test_patches_are_drawn_where_there_is_something_to_learn(
    drawn_stack: Drawn,
) -> None:
    stack, _ = drawn_stack
    known = TrainingSet.from_corrections(stack, strokes(stack.shape))
    crops = list(
        cut_crops(SectionReader(stack, RULE, invert=False), known.opinions, margin=24)
    )
    plain = SETTINGS.model_copy(update={"augment": PLAIN})
    patches = CorrectionPatches(crops, plain, device=CPU)
    for step in range(20):
        _, target, weight = patches.batch(step)
        known_here = (target != IGNORE).flatten(1).any(dim=1)
        assert known_here.all()
        assert ((weight > 0) == (target != IGNORE)).all()
    again = CorrectionPatches(crops, plain, device=CPU).batch(7)
    assert all(torch.equal(a, b) for a, b in zip(again, patches.batch(7), strict=True))


def test_without_corrections_there_is_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match="nothing is corrected yet"):
        CorrectionPatches([], SETTINGS, device=CPU)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("architecture", ["unet", "unetpp", "cenet"])
def test_unlabelled_pixels_have_no_gradient_at_all(
    loss: str, architecture: str, drawn_stack: Drawn
) -> None:
    stack, _ = drawn_stack
    known = TrainingSet.from_corrections(stack, strokes(stack.shape))
    crops = list(
        cut_crops(SectionReader(stack, RULE, invert=False), known.opinions, margin=24)
    )
    image, target, weight = CorrectionPatches(crops, SETTINGS, device=CPU).batch(0)
    small = {"unet": {"base": 2, "levels": 2}, "unetpp": {"base": 2, "depth": 2}}
    torch.manual_seed(0)
    network = build(architecture, small.get(architecture, {"base": 4}))
    image = torch.nn.functional.interpolate(image, (192, 192))
    wide = torch.nn.functional.interpolate
    target = wide(target[:, None].float(), (192, 192))[:, 0].long()
    weight = wide(weight[:, None], (192, 192))[:, 0]
    for logits in network.supervised(image):
        leaf = logits.detach().requires_grad_()
        LOSSES[loss](leaf, target, weight, network.activation).backward()
        unknown = (target == IGNORE)[:, None].expand_as(leaf)
        assert unknown.any()
        assert (leaf.grad[unknown] == 0).all()
        assert (leaf.grad[~unknown] != 0).any()
