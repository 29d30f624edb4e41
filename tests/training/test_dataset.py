from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.core.training import AugmentSettings, TrainSettings
from napari_emseg.training.dataset import Example, labelled_sections, read_examples
from napari_emseg.training.losses import IGNORE, INSIDE, MEMBRANE
from napari_emseg.training.patches import PatchSource, check_patch

STILL = AugmentSettings(warp=0, contrast=0, noise=0, artefacts=0)


@pytest.fixture
def images() -> Stack:
    rng = np.random.default_rng(0)
    return Stack(rng.integers(1, 255, (3, 24, 30), dtype=np.uint8), name="em")


@pytest.fixture
def cells() -> np.ndarray:
    """Two cells in each section, between them and around them membrane."""
    cells = np.zeros((3, 24, 30), np.uint32)
    cells[:, 2:22, 2:14] = 7
    cells[:, 2:22, 17:28] = 9
    return cells


def source(examples: list[Example], *, n_classes: int = 2, **changes) -> PatchSource:
    settings = TrainSettings(patch=32, **changes)
    return PatchSource(
        examples, settings, n_classes=n_classes, device=torch.device("cpu")
    )


@pytest.mark.parametrize("meaning", ["membrane", "inside", "cells"])
def test_labels_are_read_by_their_meaning(meaning, images, cells) -> None:
    labels = {
        "membrane": np.where(cells == 0, np.uint8(255), np.uint8(0)),
        "inside": np.where(cells == 0, np.uint8(0), np.uint8(255)),
        "cells": cells,
    }[meaning]
    examples = read_examples(images, Stack(labels), meaning)
    assert len(examples) == 3
    for z, example in enumerate(examples):
        wanted = np.where(cells[z] > 0, INSIDE, MEMBRANE)
        np.testing.assert_array_equal(example.target, wanted)
        assert example.target.dtype == np.uint8
        assert example.image.dtype == np.float32


def test_cells_that_touch_get_a_membrane(images) -> None:
    touching = np.ones((3, 24, 30), np.uint16)
    touching[:, :, 15:] = 2
    (example, *_) = read_examples(images, Stack(touching), "cells")
    assert (example.target[:, 14:16] == MEMBRANE).all()
    assert (example.target == MEMBRANE).sum() == 2 * 24


def test_grey_values_are_normalised_by_the_rule(images, cells) -> None:
    rule = Normalisation(low_percentile=5, high_percentile=90)
    (example, *_) = read_examples(images, Stack(cells), "cells", rule=rule)
    low, high = np.percentile(images.section(0), (5, 90))
    wanted = np.clip((images.section(0) - low) / (high - low), -0.5, 1.5)
    np.testing.assert_allclose(example.image, wanted, atol=1e-5)
    (inverted, *_) = read_examples(
        images, Stack(cells), "cells", rule=rule, invert=True
    )
    np.testing.assert_allclose(inverted.image, 1 - example.image, atol=1e-6)


def test_statistics_of_the_whole_stack(cells) -> None:
    data = np.stack([np.full((24, 30), v, np.uint8) for v in (50, 100, 150)])
    data[:, ::2] += 20
    stack = Stack(data)
    rule = Normalisation(low_percentile=0, high_percentile=100, scope="stack")
    dark, _, bright = read_examples(stack, Stack(cells), "cells", rule=rule)
    assert float(dark.image.max()) < float(bright.image.min())


def test_alignment_padding_is_ignored(images, cells) -> None:
    grey = np.array(images.data)
    grey[1, :, :9] = 0
    examples = read_examples(Stack(grey), Stack(cells), "cells")
    padded = examples[1].target == IGNORE
    np.testing.assert_array_equal(padded, np.arange(30) < 9 * np.ones((24, 1)))
    assert not (examples[0].target == IGNORE).any()


def test_blank_sections_are_left_out(images, cells) -> None:
    grey = np.array(images.data)
    grey[1] = 128
    assert len(read_examples(Stack(grey), Stack(cells), "cells")) == 2
    with pytest.raises(ValueError, match="all sections are blank"):
        read_examples(Stack(grey), Stack(cells), "cells", sections=[1])


def test_only_the_sections_asked_for(images, cells) -> None:
    examples = read_examples(images, Stack(cells), "cells", sections=[2])
    (whole,) = read_examples(
        Stack(np.array(images.data)[2:]), Stack(cells[2:]), "cells"
    )
    assert len(examples) == 1
    np.testing.assert_array_equal(examples[0].image, whole.image)


def test_pairs_must_match(images, cells) -> None:
    with pytest.raises(ValueError, match=r"images are \(3, 24, 30\).*\(2, 24, 30\)"):
        read_examples(images, Stack(cells[:2]), "cells")


def test_labels_without_membrane_are_refused(images, cells) -> None:
    everything = Stack(np.ones((3, 24, 30), np.uint8), name="truth.tif")
    with pytest.raises(ValueError, match=r"truth\.tif: no membrane .*'inside'"):
        read_examples(images, everything, "inside")


@pytest.mark.parametrize(
    ("kind", "value"),
    [(np.uint64, 2**64 - 1), (np.int32, -1), (np.float32, np.nan)],
)
def test_pixels_without_a_label_are_ignored(images, cells, kind, value) -> None:
    labels = cells.astype(kind)
    labels[:, :, :8] = kind(value)  # through the left cell and the membrane beside it
    for example in read_examples(images, Stack(labels), "cells"):
        assert (example.target[:, :8] == IGNORE).all()
        known = np.where(cells[0, :, 8:] > 0, INSIDE, MEMBRANE)
        np.testing.assert_array_equal(example.target[:, 8:], known)


@pytest.mark.parametrize("meaning", ["membrane", "inside", "cells"])
def test_sections_that_nobody_drew_teach_nothing(meaning, images, cells) -> None:
    labels = {"membrane": cells == 0, "inside": cells > 0, "cells": cells}[meaning]
    labels = np.array(labels)
    labels[1] = 0
    examples = read_examples(images, Stack(labels), meaning)
    assert [e.section for e in examples] == [0, 2]
    assert labelled_sections(Stack(labels), meaning) == (0, 2)
    with pytest.raises(ValueError, match="nothing is labelled in section 1: no value"):
        labelled_sections(Stack(labels), meaning, [1])


def test_an_unknown_meaning_is_refused(images, cells) -> None:
    with pytest.raises(ValueError, match="labels are membrane, inside, cells"):
        read_examples(images, Stack(cells), "mask")


def test_patches_are_those_of_seed_and_step(images, cells) -> None:
    examples = read_examples(images, Stack(cells), "cells")
    a, b, other = (source(examples, seed=s) for s in (5, 5, 6))
    for first, second in zip(a.batch(11), b.batch(11), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(a.batch(11)[0], a.batch(12)[0])
    assert not torch.equal(a.batch(11)[0], other.batch(11)[0])


def test_shapes_and_types_of_a_batch(images, cells) -> None:
    examples = read_examples(images, Stack(cells), "cells")
    image, target, weight = source(examples, batch=3).batch(0)
    assert image.shape == (3, 1, 32, 32)
    assert target.shape == weight.shape == (3, 32, 32)
    assert target.dtype == torch.int64
    assert image.dtype == weight.dtype == torch.float32


def test_target_and_weight_move_with_the_image() -> None:
    """A section whose grey values are its classes, and whose walls weigh more."""
    rng = np.random.default_rng(0)
    target = (rng.random((64, 64)) > 0.3).astype(np.uint8)
    example = Example(target.astype(np.float32), target)
    patches = source([example], augment=STILL, border_weight=10, batch=8)
    image, classes, weight = patches.batch(0)
    torch.testing.assert_close(image[:, 0], classes.float(), atol=1e-3, rtol=0)
    assert (weight[classes == INSIDE] == 1).all()
    assert (weight[classes == MEMBRANE] > 1).all()


def test_balanced_classes_weigh_by_their_rarity() -> None:
    target = np.full((64, 64), INSIDE, np.uint8)
    target[::4] = MEMBRANE
    example = Example(target.astype(np.float32), target)
    _, classes, weight = source([example], augment=STILL, balance=True).batch(0)
    torch.testing.assert_close(
        weight[classes == MEMBRANE].unique(), torch.tensor([2.0])
    )
    assert float(weight[classes == INSIDE].max()) == pytest.approx(2 / 3)


def test_ignored_pixels_stay_ignored() -> None:
    target = np.zeros((64, 64), np.uint8)
    target[:, ::2] = IGNORE
    example = Example((target == IGNORE).astype(np.float32), target)
    image, classes, weight = source([example], augment=STILL).batch(0)
    torch.testing.assert_close(
        (classes == IGNORE).float(), image[:, 0], atol=1e-3, rtol=0
    )
    assert not weight[classes == IGNORE].any()


def test_a_section_smaller_than_a_patch_is_mirrored() -> None:
    rng = np.random.default_rng(0)
    example = Example(rng.random((9, 12), dtype=np.float32), np.zeros((9, 12), "u1"))
    image, _, _ = source([example]).batch(0)
    assert torch.isfinite(image).all()


def test_outputs_of_a_valid_network_reach_the_border() -> None:
    """With `trim` the section's border lies in the middle of some patches."""
    target = np.full((64, 64), INSIDE, np.uint8)
    target[0] = MEMBRANE
    example = Example(target.astype(np.float32), target)
    settings = TrainSettings(patch=48, batch=40, augment=STILL)
    device = torch.device("cpu")
    for trim, seen in ((0, False), (10, True)):
        patches = PatchSource(
            [example], settings, n_classes=2, device=device, trim=trim
        )
        _, classes, _ = patches.batch(0)
        middle = classes[:, 10:-10, 10:-10]
        assert bool((middle == MEMBRANE).any()) is seen


@pytest.mark.parametrize(
    ("geometry", "good", "bad", "nearest"),
    [
        (Geometry(16, 60), 256, 250, "240 and 256"),
        (Geometry(16, 92, "valid", remainder=4), 572, 570, "556 and 572"),
        (Geometry(4, 20, "valid", remainder=4), 44, 32, "44 and 48"),
    ],
)
def test_patches_must_fit_the_network(geometry, good, bad, nearest) -> None:
    check_patch(geometry, good)
    with pytest.raises(ValueError, match=f"got {bad}; the nearest are {nearest}"):
        check_patch(geometry, bad)
