from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from napari_emseg.core.stack import Stack
from napari_emseg.io import save_stack
from napari_emseg.models.weights import read_weights

SMALL = ("--steps", "2", "--patch", "32", "--batch", "2", "--validate-every", "1")


@pytest.fixture
def corrections_file(em_file, tmp_path) -> Path:
    codes = np.zeros((4, 96, 112), np.uint8)
    codes[1, 10:14, 20:60] = 1
    codes[1, 40:44, 20:60] = 2
    return save_stack(tmp_path / "corrections.tif", Stack(codes))


def test_learns_from_corrections(emseg, em_file, corrections_file, tiny_weights):
    done = emseg(
        *("finetune", em_file, corrections_file, "mine.safetensors"),
        *("--labels-are", "corrections", "--weights", tiny_weights, *SMALL),
    )
    assert done.code == 0, done.err
    assert "learning from 320 px in 1 section, 0 reviewed regions" in done.err
    assert "measured only where you corrected, 320 px" in done.out
    card = read_weights(Path("mine.safetensors")).card
    assert card.parent_sha256 == read_weights(tiny_weights).sha256
    used = emseg("predict", em_file, "out.tif", "--weights", "mine.safetensors")
    assert used.code == 0


def test_reviewed_sections_and_labels(emseg, em_file, cells_file, tiny_weights):
    done = emseg(
        *("finetune", em_file, cells_file, "mine.safetensors", "--json"),
        *("--labels-are", "cells", "--weights", tiny_weights, *SMALL),
        *("--reviewed", "0:3", "--roi", "0:64,0:64"),
    )
    assert done.code == 0, done.err
    assert "learning from 12,288 px in 3 sections, 3 reviewed regions" in done.err
    assert json.loads(done.out)["card"]["name"] == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--weights", "nobody"), "no weights named 'nobody'"),
        (("--reviewed", "3:9"), "has sections 0:4; 3:9 is not among them"),
        (("--new-class", "inside"), "has a class 'inside' already"),
        (("--rehearsal", "2"), "rehearsal"),
    ],
)
def test_wrong_usage(emseg, em_file, corrections_file, tiny_weights, options, said):
    given = {"--weights": str(tiny_weights), **dict([options])}
    words = [word for pair in given.items() for word in pair]
    done = emseg(
        *("finetune", em_file, corrections_file, "mine.safetensors"),
        *("--labels-are", "corrections", *words),
    )
    assert done.code == 2
    assert said in done.err


def test_one_stroke_teaches_nothing_of_the_rest_unasked(
    emseg, em_file, tmp_path, tiny_weights
):
    """As the window asks: sparse or complete?"""
    stroke = np.zeros((4, 96, 112), np.uint8)
    stroke[1, 10:14, 20:60] = 1
    labels = save_stack(tmp_path / "stroke.tif", Stack(stroke))
    command = (
        *("finetune", em_file, labels, "mine.safetensors"),
        *("--labels-are", "membrane", "--weights", tiny_weights, *SMALL),
    )
    done = emseg(*command)
    assert done.code == 2
    assert "only 1.5 % of section 1 is labelled" in done.err
    assert "--extent sparse or --extent complete" in done.err
    assert not Path("mine.safetensors").exists()
    done = emseg(*command, "--extent", "sparse")
    assert done.code == 0, done.err
    assert "learning from 160 px in 1 section, 0 reviewed regions" in done.err
    done = emseg(*command, "--extent", "sparse", "--reviewed", "1:2", "--overwrite")
    assert done.code == 2
    assert "leave either the regions or the extent out" in done.err
    done = emseg(*command, "--extent", "complete", "--overwrite")
    assert done.code == 0, done.err
    assert "learning from 10,752 px in 1 section, 1 reviewed region" in done.err


@pytest.mark.parametrize("extent", ["complete", "sparse"])
def test_an_extent_is_not_said_of_corrections(
    emseg, em_file, corrections_file, tiny_weights, extent
):
    done = emseg(
        *("finetune", em_file, corrections_file, "mine.safetensors"),
        *("--labels-are", "corrections", "--weights", tiny_weights, *SMALL),
        *("--extent", extent),
    )
    assert done.code == 2
    assert f"{extent} is said of labels, not of corrections" in done.err
    assert not Path("mine.safetensors").exists()


def test_labels_with_other_voxels_are_doubted(
    emseg, em_file, corrections_file, tiny_weights
):
    command = (
        *("finetune", em_file, corrections_file, "mine.safetensors", *SMALL),
        *("--labels-are", "corrections", "--weights", tiny_weights, "--overwrite"),
        *("--voxel-size", "50,4,4"),
    )
    said = emseg(*command, "--labels.voxel-size", "50,8,8").err
    assert "are 50 × 8 × 8 nm (z × y × x), those of em 50 × 4 × 4" in said


def test_what_goes_on_is_said(emseg, em_file, corrections_file, tiny_weights):
    Path("mine.checkpoint").write_bytes(b"of something else")
    done = emseg(
        *("finetune", em_file, corrections_file, "mine.safetensors", *SMALL),
        *("--labels-are", "corrections", "--weights", tiny_weights),
    )
    assert "going on from mine.checkpoint, if it is of this round" in done.err
    assert "best so far" not in done.err, "nothing is held out to tell it by"
