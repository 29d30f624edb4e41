from __future__ import annotations

import json
from pathlib import Path

import pytest

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
        *("isbi2012-cenet", "isbi2012-unet", "isbi2012-unetpp")
    }
    assert done.err.splitlines() == [HOW]


def test_show_says_how_to_get_what_is_not_installed(emseg, without_data):
    done = emseg("weights", "show", "em-membranes")
    assert done.code == 2
    assert HOW in done.err
    assert done.out == ""
