from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_emseg.cli.weights import card_lines
from napari_emseg.core.card import Card, DataSet, TrainingRecord
from napari_emseg.models import weights as store


@pytest.fixture
def one_bundled(tiny_weights, monkeypatch) -> Path:
    monkeypatch.setattr(store, "bundled_folders", lambda: (tiny_weights.parent,))
    return tiny_weights


def test_list_names_weights_with_their_scores(emseg, one_bundled):
    done = emseg("weights", "list")
    assert done.code == 0
    name, network, *_ = done.out.splitlines()[1].split()
    assert (name, network) == ("tiny", "unet")
    assert "4 nm/px" in done.out


def test_list_as_json_holds_the_cards(emseg, one_bundled):
    record = json.loads(emseg("weights", "list", "--json").out)
    assert record["tiny"]["card"]["threshold"] == 0.4
    assert len(record["tiny"]["sha256"]) == 64


def test_show_says_the_card_in_words(emseg, one_bundled):
    done = emseg("weights", "show", "tiny")
    assert done.code == 0
    assert "threshold    0.4 (fixed on the validation set)" in done.out
    assert "classes      membrane, inside" in done.out


def test_unknown_names_list_those_that_exist(emseg, one_bundled):
    done = emseg("weights", "show", "tidy")
    assert done.code == 2
    assert "no weights named 'tidy'; bundled are: tiny" in done.err


HOW = (
    "em-membranes is in napari-emseg-data (not for commercial use): "
    "pip install napari-emseg-data"
)


def test_list_says_how_to_get_what_is_not_installed(emseg, without_data):
    done = emseg("weights", "list", "--json")
    assert {*json.loads(done.out)} == {
        *("fib-sem", "isbi2012-cenet", "isbi2012-unet", "isbi2012-unetpp")
    }
    assert done.err.splitlines() == [HOW]


def test_show_says_how_to_get_what_is_not_installed(emseg, without_data):
    done = emseg("weights", "show", "em-membranes")
    assert done.code == 2
    assert HOW in done.err
    assert done.out == ""


def card_of(tmp_path: Path, **facts: object) -> str:
    """Return the lines of a card that says these things."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"12345")
    card = Card(name="x", architecture="unet", **facts)
    return "\n".join(card_lines(store.Weights(path, card)))


def test_counts_on_a_card_are_whole_numbers(tmp_path):
    said = card_of(tmp_path, scores={"cells_false_merges": 21.0, "cells_vi": 0.5})
    assert "cells_false_merges 21, cells_vi 0.5000" in said


@pytest.mark.parametrize(
    ("steps", "words"),
    [(9, "(best for cells in what was learnt)"), (0, "(as its parent's)")],
)
def test_a_round_says_where_its_threshold_is_from(tmp_path, steps, words):
    learnt = TrainingRecord(steps=steps, settings={"corrections": {}})
    assert f"0.55 {words}" in card_of(tmp_path, threshold=0.55, training=learnt)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ("4", "em, section 4"),
        ("9-21", "em, sections 9-21"),
        ("parts of 0, 1", "em, parts of sections 0, 1"),
        ("0-2, parts of 5", "em, sections 0-2, parts of 5"),
    ],
)
def test_sections_of_a_card_are_said_in_words(tmp_path, sections, words):
    data = DataSet(name="em", sections=sections)
    assert f"trained on   {words}" in card_of(tmp_path, training_data=(data,))


def test_a_picture_is_no_weights_file(emseg, em_file):
    done = emseg("weights", "show", em_file)
    assert done.code == 1
    assert "em.tif is no weights file, or a damaged one: weights are" in done.err
    assert "header" not in done.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("prune", "nobody", "x.safetensors", "--depth", "2"), "weights prune"),
        (("show", "nobody"), "weights show"),
        (("what",), "weights"),
    ],
)
def test_the_hint_names_the_command_within_a_group(emseg, words, hint):
    assert f"see: emseg {hint} --help" in emseg("weights", *words).err
