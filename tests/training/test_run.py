from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_emseg.core.records import EpochDone, Note, Progress, drain
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import TrainSettings
from napari_emseg.models.weights import read_weights
from napari_emseg.training.run import (
    Split,
    checkpoint_of,
    split_sections,
    train_weights,
)

SETTINGS = TrainSettings(steps=6, patch=32, batch=2, validate_every=3, seed=3)
SPLIT = Split(training=(0, 1), validation=(2,), held_out=(3,))


@pytest.fixture
def pair(drawn_stack: tuple[Stack, NDArray[np.uint32]]) -> tuple[Stack, Stack]:
    stack, cells = drawn_stack
    return stack, Stack(cells, name="truth")


def start(pair, output, *, split=SPLIT, settings=SETTINGS, stop=bool):
    images, labels = pair
    return train_weights(
        images,
        labels,
        output,
        meaning="cells",
        split=split,
        config={"base": 2, "levels": 2},
        settings=settings,
        stop=stop,
    )


@pytest.mark.parametrize(
    ("n", "options", "expected"),
    [
        (1, {}, Split((0,))),
        (2, {}, Split((0, 1))),
        (3, {}, Split((0, 1), (2,))),
        (12, {}, Split(tuple(range(10)), (10, 11))),
        (6, {"held_out": [5]}, Split((0, 1, 2, 3), (4,), (5,))),
        (6, {"training": [0, 5]}, Split((0, 5), ())),
        (6, {"validation": []}, Split((0, 1, 2, 3, 4, 5))),
        (6, {"validation": [0], "held_out": [2]}, Split((1, 3, 4, 5), (0,), (2,))),
    ],
)
def test_sections_are_shared_out(n, options, expected):
    assert split_sections(n, **options) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"validation": [4]}, "no section 4; sections are 0..3"),
        ({"training": [0, 1], "held_out": [1]}, "section 1 is in more than one"),
        ({"held_out": [0, 1, 2, 3]}, "no section is left to learn from"),
    ],
)
def test_impossible_shares_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        split_sections(4, **options)


def test_writes_weights_whose_card_tells_how_they_came_to_be(pair, tmp_path):
    records = []
    output = tmp_path / "mine.safetensors"
    weights = drain(start(pair, output), records.append)

    assert [r.step for r in records if isinstance(r, EpochDone)] == [3, 6]
    card = read_weights(output).card
    assert card == weights.card
    assert (card.name, card.pixel_size_nm) == ("mine", (4.0, 4.0))
    assert card.training_data[0].sections == "0, 1"
    assert card.validation_data[0].sections == "2"
    assert card.held_out_data[0].sections == "3"
    assert {"v_rand", "v_info", "validation_v_rand"} <= set(card.scores)
    assert card.training.settings["seed"] == 3
    assert [v.tta for v in card.variants] == [False, True]
    assert card.variants[0].scores.items() <= card.scores.items()
    assert card.ms_per_megapixel["cpu"] > 0
    assert weights.network()(_zeros()).shape == (1, 2, 32, 32)
    assert not checkpoint_of(output).exists()


def test_a_stopped_run_goes_on_to_the_same_weights(pair, tmp_path):
    whole = drain(start(pair, tmp_path / "whole.safetensors"))

    output = tmp_path / "stopped.safetensors"
    work = start(pair, output)
    for record in work:
        if _is_training(record) and record.done == 4:
            break
    work.close()
    assert not output.exists()
    assert checkpoint_of(output).is_file()

    steps = []
    resumed = drain(start(pair, output), steps.append)
    assert [r.done for r in steps if _is_training(r)] == [5, 6]
    a, b = whole.network().state_dict(), resumed.network().state_dict()
    for key, value in a.items():
        np.testing.assert_allclose(value, b[key], atol=1e-6, err_msg=key)


def test_a_run_that_is_told_to_stop_keeps_its_best_and_its_checkpoint(pair, tmp_path):
    output = tmp_path / "stopped.safetensors"
    weights = drain(start(pair, output, stop=lambda: True))
    assert weights.card.training.steps == 1
    assert output.is_file()
    assert checkpoint_of(output).is_file()
    drain(start(pair, output))
    assert not checkpoint_of(output).exists()


def test_with_a_damaged_checkpoint_training_begins_anew(pair, tmp_path):
    whole = drain(start(pair, tmp_path / "whole.safetensors"))
    output = tmp_path / "again.safetensors"
    checkpoint_of(output).write_bytes(b"half of i")
    records = []
    again = drain(start(pair, output), records.append)
    (note,) = _notes(records)
    kept = tmp_path / "again.checkpoint.not-used"
    assert note.message == (
        "again.checkpoint is damaged, or no checkpoint: it was renamed "
        f"{kept.name}, and training begins anew"
    )
    assert kept.read_bytes() == b"half of i"
    a, b = whole.network().state_dict(), again.network().state_dict()
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key], err_msg=key)


def test_a_checkpoint_of_another_run_is_an_error(pair, tmp_path):
    output = tmp_path / "mine.safetensors"
    drain(start(pair, output, stop=lambda: True))
    before = checkpoint_of(output).read_bytes()
    other = SETTINGS.model_copy(update={"seed": 4})
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        drain(start(pair, output, settings=other))
    assert checkpoint_of(output).read_bytes() == before


def test_without_validation_the_last_weights_are_taken(pair, tmp_path):
    records = []
    split = Split(training=(0, 1, 2, 3))
    output = tmp_path / "a.safetensors"
    weights = drain(start(pair, output, split=split), records.append)
    assert any("no sections to validate on" in r.message for r in _notes(records))
    assert weights.card.training.steps == 6
    assert weights.card.scores == {}
    assert weights.card.threshold == 0.5


def labels_of(pair, changes):
    images, labels = pair
    drawn = np.array(labels.data)
    changes(drawn)
    return images, Stack(drawn, name="truth.tif")


@pytest.mark.parametrize("meaning", ["membrane", "inside", "cells"])
def test_sections_that_nobody_drew_are_left_out_and_named(pair, meaning, tmp_path):
    """As if they weren't there: the weights are the same, bit for bit."""
    images, labels = pair
    cells = np.asarray(labels.data)
    drawn = np.array(
        {"membrane": cells == 0, "inside": cells > 0, "cells": cells}[meaning]
    )
    drawn[1:3] = 0
    options = {
        "meaning": meaning,
        "config": {"base": 2, "levels": 2},
        "settings": SETTINGS,
    }
    records = []
    some = drain(
        train_weights(
            images,
            Stack(drawn, name="truth.tif"),
            tmp_path / "some.safetensors",
            split=Split(training=(0, 1, 2), validation=(3,)),
            **options,
        ),
        records.append,
    )
    assert _notes(records)[0].message == (
        "sections 1-2 of truth.tif left out: nothing is labelled there, so all of it "
        "is unknown"
    )
    assert some.card.training_data[0].sections == "0"
    only = drain(
        train_weights(
            images,
            Stack(drawn),
            tmp_path / "only.safetensors",
            split=Split(training=(0,), validation=(3,)),
            **options,
        )
    )
    a, b = some.network().state_dict(), only.network().state_dict()
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key], err_msg=key)


def test_the_default_sixth_to_validate_on_is_drawn():
    """Of twelve sections every third is drawn."""
    split = split_sections(12, labelled=[0, 3, 6, 9])
    assert split.validation == (9,)
    assert set(split.training) == set(range(12)) - {9}


def test_sections_that_cannot_be_used_are_said_and_not_in_the_card(pair, tmp_path):
    """Section 1 is blank, and section 3 is all membrane."""
    images, labels = pair
    grey, mask = np.array(images.data), np.asarray(labels.data) == 0
    grey[1] = 7
    mask = mask.astype(np.uint8)
    mask[3] = 1
    records = []
    split = Split(training=(0, 1), validation=(2, 3))
    weights = drain(
        train_weights(
            Stack(grey, name="em"),
            Stack(mask),
            tmp_path / "w.safetensors",
            meaning="membrane",
            split=split,
            config={"base": 2, "levels": 2},
            settings=SETTINGS,
        ),
        records.append,
    )
    said = [note.message for note in _notes(records)]
    assert "section 3 of stack left out: one class from edge to edge" in said[0]
    assert "section 1 of em left out: blank, or" in said[1]
    assert weights.card.training_data[0].sections == "0"
    assert weights.card.validation_data[0].sections == "2"


@pytest.mark.parametrize(
    ("kind", "value"), [(np.uint64, 2**64 - 1), (np.int32, -1), (np.float32, np.nan)]
)
def test_pixels_without_a_label_are_left_out_and_said(pair, tmp_path, kind, value):
    """What lies there changes nothing: as membrane, as inside, in any type."""
    images, labels = pair
    drawn = np.array(labels.data).astype(kind)
    drawn[:, :, :50] = kind(value)
    records = []
    weights = drain(
        start((images, Stack(drawn, name="truth")), tmp_path / "w.safetensors"),
        records.append,
    )
    said = _notes(records)[0].message
    assert said == f"{4 * 96 * 50:,} px of truth without a label left out"
    as_mask = np.array(labels.data).astype(np.int64)
    as_mask[:, :, :50] = -2
    same = drain(start((images, Stack(as_mask)), tmp_path / "same.safetensors"))
    for key, value in weights.network().state_dict().items():
        np.testing.assert_array_equal(value, same.network().state_dict()[key])


def test_labels_without_anything_drawn_are_refused(pair, tmp_path):
    empty = labels_of(pair, lambda drawn: drawn.fill(0))
    said = r"truth.tif: nothing is labelled in sections 0-1: no value above 0 .*'cells'"
    with pytest.raises(ValueError, match=said):
        drain(start(empty, tmp_path / "w.safetensors"))


def other_split(pair):
    return {"split": Split(training=(0, 2), validation=(1,), held_out=(3,))}


def no_held_out(pair):
    return {"split": Split(training=(0, 1), validation=(2,))}


def other_images(pair):
    images, labels = pair
    grey = np.array(images.data)
    grey[1, :40] += 9
    return {"pair": (Stack(grey, name=images.name), labels)}


def other_labels(pair):
    def join(drawn):
        drawn[0, 40:60, 40:60] = 0

    return {"pair": labels_of(pair, join)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            other_split,
            r"training on sections 0-1 \(now sections 0, 2\), "
            r"validation on section 2 \(now section 1\);",
        ),
        (no_held_out, r"holding out section 3 \(now none\);"),
        (other_images, "other images in section 1;"),
        (other_labels, "other labels in section 0;"),
    ],
)
def test_a_checkpoint_of_other_data_is_refused_and_what_differs_named(
    pair, tmp_path, change, said
):
    output = tmp_path / "mine.safetensors"
    drain(start(pair, output, stop=lambda: True))
    before = checkpoint_of(output).read_bytes()
    changed = {"pair": pair, **change(pair)}
    given = changed.pop("pair")
    with pytest.raises(ValueError, match=f"belongs to a run with {said}"):
        drain(start(given, output, **changed))
    assert checkpoint_of(output).read_bytes() == before


def test_a_checkpoint_that_does_not_say_its_data_is_refused(pair, tmp_path):
    """As those of older versions."""
    output = tmp_path / "mine.safetensors"
    drain(start(pair, output, stop=lambda: True))
    saved = torch.load(checkpoint_of(output), weights_only=True)
    for key in ("facts", "losses", "seconds"):
        del saved[key]
    torch.save(saved, checkpoint_of(output))
    with pytest.raises(ValueError, match="doesn't say which data it has learnt from"):
        drain(start(pair, output))


def _is_training(record):
    return isinstance(record, Progress) and record.step == "training"


def _notes(records):
    return [record for record in records if isinstance(record, Note)]


def _zeros():
    return torch.zeros(1, 1, 32, 32)
