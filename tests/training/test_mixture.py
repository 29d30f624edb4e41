from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_emseg.core.card import Card
from napari_emseg.core.records import EpochDone, Note, Progress, drain
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import AugmentSettings, TrainSettings
from napari_emseg.models.weights import Weights
from napari_emseg.models.zoo import build
from napari_emseg.training.augment import draw_grey_change
from napari_emseg.training.card import Split
from napari_emseg.training.dataset import Example
from napari_emseg.training.losses import IGNORE, INSIDE, MEMBRANE
from napari_emseg.training.mixture import (
    LabelledStack,
    MixedPatches,
    examples_of,
    mixed_validation,
    resampled,
    train_mixture,
)
from napari_emseg.training.patches import PatchSource
from napari_emseg.training.run import checkpoint_of
from napari_emseg.training.validation import isbi_validation

SETTINGS = TrainSettings(steps=4, patch=32, batch=2, validate_every=2, seed=3)
ABOUT = Card(
    name="both",
    architecture="unet",
    config={"base": 2, "levels": 2},
    pixel_size_nm=(6.0, 6.0),
)
SPLIT = Split(training=(0, 1), validation=(2,), held_out=(3,))


@pytest.fixture
def sources(drawn_stack: tuple[Stack, NDArray[np.uint32]]) -> list[LabelledStack]:
    """The same pictures at two pixel sizes, cells and their walls as labels."""
    stack, cells = drawn_stack
    data = np.asarray(stack.data)
    fine, coarse = (Stack(data, voxel_size_nm=(50, s, s)) for s in (4.0, 12.0))
    walls = Stack((cells == 0).astype(np.uint8))
    return [
        LabelledStack("fine", fine, Stack(cells), "cells", SPLIT),
        LabelledStack("coarse", coarse, walls, "membrane", SPLIT, share=3.0),
    ]


def test_sources_come_at_one_pixel_size(sources: list[LabelledStack]) -> None:
    shape = sources[0].images.shape[1:]
    (fine,) = examples_of(sources[0], (3,), (6.0, 6.0))
    (coarse,) = examples_of(sources[1], (3,), (6.0, 6.0))
    assert fine.image.shape == tuple(-(-2 * n // 3) for n in shape)
    assert coarse.image.shape == tuple(2 * n for n in shape)
    assert set(np.unique(coarse.target)) == {MEMBRANE, INSIDE}
    dark = coarse.image[coarse.target == MEMBRANE].mean()
    assert dark < coarse.image[coarse.target == INSIDE].mean() - 0.2
    share = [(e.target == MEMBRANE).mean() for e in (fine, coarse)]
    assert share[0] == pytest.approx(share[1], rel=0.2)


def test_unknown_pixels_stay_unknown() -> None:
    target = np.full((20, 20), INSIDE, np.uint8)
    target[8:12], target[:4] = MEMBRANE, IGNORE
    small = resampled(Example(np.zeros((20, 20), np.float32), target), (0.5, 1.0))
    assert small.target.shape == (10, 20)
    assert (small.target[4:6] == MEMBRANE).all()
    assert (small.target[:2] == IGNORE).all()
    assert (small.target[3] == INSIDE).all()


def test_zeros_far_from_any_cell_are_not_membrane(sources: list[LabelledStack]) -> None:
    cells = np.asarray(sources[0].labels.data).copy()
    cells[:, :, :30] = 0
    source = replace(sources[0], labels=Stack(cells), unlabelled_beyond=6)
    (example,) = examples_of(source, (0,), (4.0, 4.0))
    assert (example.target[:, :20] == IGNORE).all()
    near = example.target[:, 27:30]
    assert (near == MEMBRANE).mean() > 0.8
    assert (near != INSIDE).all()
    assert (example.target[:, 40:] != IGNORE).all()


def test_a_source_without_voxel_size_is_refused(sources: list[LabelledStack]) -> None:
    unknown = replace(sources[0], images=Stack(sources[0].images.data))
    with pytest.raises(ValueError, match="fine: its voxel size must be known"):
        examples_of(unknown, (0,), (6.0, 6.0))


def test_shares_say_how_often_each_source_is_drawn() -> None:
    plain = AugmentSettings(warp=0, contrast=0, noise=0, artefacts=0)
    settings = TrainSettings(patch=32, batch=100, augment=plain)
    levels = [
        PatchSource(
            [
                Example(
                    np.full((64, 64), level, np.float32), np.ones((64, 64), np.uint8)
                )
            ],
            settings,
            n_classes=2,
            device=torch.device("cpu"),
        )
        for level in (0.0, 1.0)
    ]
    patches = MixedPatches(levels, [1.0, 3.0], settings)
    image, classes, weight = patches.batch(0)
    assert image.shape == (100, 1, 32, 32)
    assert classes.shape == weight.shape == (100, 32, 32)
    assert 0.6 < float(image.mean()) < 0.9
    assert torch.equal(image, patches.batch(0)[0])
    assert not torch.equal(image, patches.batch(1)[0])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_some_patches_are_inverted(share: float) -> None:
    settings = AugmentSettings(contrast=0, noise=0, invert=share)
    rng = torch.Generator().manual_seed(0)
    image = torch.full((4, 4), 0.2)
    found = [
        float(draw_grey_change(settings, 4, rng).apply(image).mean())
        for _ in range(200)
    ]
    inverted = [value > 0.5 for value in found]
    assert np.mean(inverted) == pytest.approx(share, abs=0.1)
    assert {round(value, 3) for value in found} <= {0.2, 0.8}


def test_without_inversion_patches_are_what_they_were() -> None:
    """Nothing more is drawn, so that a seed keeps its meaning."""
    states = []
    for settings in (AugmentSettings(), AugmentSettings(invert=1e-9)):
        rng = torch.Generator().manual_seed(0)
        draw_grey_change(settings, 8, rng)
        states.append(rng.get_state())
    rng = torch.Generator().manual_seed(0)
    torch.rand(3, generator=rng), torch.rand((), generator=rng)
    torch.randn((8, 8), generator=rng)
    assert torch.equal(rng.get_state(), states[0])
    assert not torch.equal(rng.get_state(), states[1])


def test_sets_count_alike_in_validation(sources: list[LabelledStack]) -> None:
    torch.manual_seed(0)
    network = build("unet", ABOUT.config)
    sets = {s.name: examples_of(s, (2,), (6.0, 6.0)) for s in sources}
    found = mixed_validation(sets)(network)
    each = {name: isbi_validation(examples)(network) for name, examples in sets.items()}
    for name, scores in each.items():
        assert found[f"{name}_v_rand"] == scores["v_rand"]
    mean = np.mean([scores["v_info"] for scores in each.values()])
    assert found["v_info"] == pytest.approx(mean)
    assert found["v_rand"] <= np.mean([s["v_rand"] for s in each.values()]) + 1e-12


def test_a_mixture_is_trained_stopped_and_resumed(
    sources: list[LabelledStack], tmp_path: Path
) -> None:
    def start(name: str) -> object:
        output = tmp_path / f"{name}.safetensors"
        return train_mixture(sources, output, about=ABOUT, settings=SETTINGS)

    records: list[object] = []
    weights = drain(start("whole"), records.append)
    card = weights.card
    assert card.pixel_size_nm == (6.0, 6.0)
    assert {"validation_fine_v_rand", "validation_coarse_v_info"} <= set(card.scores)
    assert sum(isinstance(record, EpochDone) for record in records) == 2
    work = start("stopped")
    next(record for record in work if isinstance(record, Progress))
    work.close()
    resumed = drain(start("stopped"))
    checkpoint_of(tmp_path / "damaged.safetensors").write_bytes(b"half of i")
    records.clear()
    anew = drain(start("damaged"), records.append)
    assert "damaged.checkpoint is damaged, or no checkpoint" in records[0].message
    kept = tmp_path / "damaged.checkpoint.not-used"
    assert kept.read_bytes() == b"half of i"
    for other in (resumed, anew):
        a, b = weights.network().state_dict(), other.network().state_dict()
        assert all(torch.equal(value, b[key]) for key, value in a.items())


def test_undrawn_sections_of_a_source_are_named_and_left_out(
    sources: list[LabelledStack], tmp_path: Path
) -> None:
    labels = np.array(sources[1].labels.data)
    labels[1] = 0
    some = [sources[0], replace(sources[1], labels=Stack(labels, name="walls.tif"))]
    output = tmp_path / "w.safetensors"
    records: list[object] = []
    drain(train_mixture(some, output, about=ABOUT, settings=SETTINGS), records.append)
    said = [r.message for r in records if isinstance(r, Note)]
    assert said == [
        "coarse: section 1 of walls.tif left out: nothing is labelled there, so all "
        "of it is unknown"
    ]


def test_a_mixture_goes_on_with_its_own_data_only(
    sources: list[LabelledStack], tmp_path: Path
) -> None:
    output = tmp_path / "w.safetensors"

    def begin(sources: list[LabelledStack]) -> None:
        work = train_mixture(sources, output, about=ABOUT, settings=SETTINGS)
        next(record for record in work if isinstance(record, Progress))
        work.close()

    begin(sources)
    shared = [replace(sources[0], share=2.0), sources[1]]
    with pytest.raises(ValueError, match=r"sources fine 1, coarse 3 \(now fine 2, c"):
        begin(shared)
    split = Split(training=(0, 3), validation=(2,))
    other = [sources[0], replace(sources[1], split=split)]
    with pytest.raises(ValueError, match=r"coarse: training on sections 0-1 \(now"):
        begin(other)


def test_what_cannot_be_trained_is_refused(
    sources: list[LabelledStack], tmp_path: Path
) -> None:
    output = tmp_path / "w.safetensors"
    without = ABOUT.model_copy(update={"pixel_size_nm": None})
    with pytest.raises(ValueError, match="the card must say the pixel size"):
        drain(train_mixture(sources, output, about=without))
    twice = [replace(sources[0], split=Split((0,), (0,)))]
    with pytest.raises(ValueError, match="more than one of the three sets"):
        drain(train_mixture(twice, output, about=ABOUT))


def test_without_sections_to_validate_on_the_last_weights_are_kept(
    sources: list[LabelledStack], tmp_path: Path
) -> None:
    every = [replace(source, split=Split((0, 1, 2, 3))) for source in sources]
    work = train_mixture(every, tmp_path / "w", about=ABOUT, settings=SETTINGS)
    records: list[object] = []
    weights = drain(work, records.append)
    assert [r.best for r in records if isinstance(r, EpochDone)] == [True, True]
    assert weights.card.scores == {}
    assert weights.card.threshold == ABOUT.threshold


def test_training_goes_on_from_weights_of_the_same_network(
    sources: list[LabelledStack], tmp_path: Path
) -> None:
    def train(name: str, about: Card = ABOUT, **more: Any) -> Weights:
        output = tmp_path / f"{name}.safetensors"
        return drain(train_mixture(sources, output, about=about, **more))

    first = train("first", settings=SETTINGS)
    still = SETTINGS.model_copy(update={"steps": 1, "learning_rate": 1e-12})
    second = train("second", settings=still, begin=first)
    assert second.card.parent_sha256 == first.sha256
    before, after = (dict(w.network().named_parameters()) for w in (first, second))
    for name, value in before.items():
        assert torch.allclose(after[name], value, atol=1e-3)
    seeing = {"context": 3, "affinities": [[-1, 0, 0]]}
    about = ABOUT.model_copy(update={"config": ABOUT.config | seeing})
    third = train("third", about, settings=still, begin=first)
    assert third.card.context == 3
    assert third.card.parent_sha256 == first.sha256
    seen = [v for v in third.network().parameters() if v.shape[1:2] == (3,)]
    for value in seen:
        assert torch.allclose(value[:, 1:2], next(iter(before.values())), atol=1e-3)
    assert len(seen) == 1
    wider = ABOUT.model_copy(update={"config": {"base": 4, "levels": 2}})
    with pytest.raises(ValueError, match=r"both is a unet .*'base': 2.*'base': 4"):
        train("third", wider, settings=SETTINGS, begin=first)
