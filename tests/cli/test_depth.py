from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_emseg.api import predict, segment
from napari_emseg.core.card import Card
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.io import open_stack, read_provenance
from napari_emseg.models.weights import load_weights, save_weights
from napari_emseg.models.zoo import build


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small U-Net++ with four heads that has learnt nothing."""
    torch.manual_seed(0)
    network = build("unetpp", {"base": 2})
    network(torch.rand(2, 1, 64, 64))
    card = Card(name="nested", architecture="unetpp", config={"base": 2})
    path = tmp_path_factory.mktemp("weights") / "nested.safetensors"
    save_weights(path, network.state_dict(), card)
    return path


def test_depth_heads_and_mirrors_go_into_output_and_provenance(emseg, em_file, nested):
    options = ("--depth", "2", "--heads", "mean", "--tta", "--sections", "0")
    done = emseg("predict", em_file, "out.tif", "--weights", nested, *options)

    assert done.code == 0
    assert "nested (depth 2, mean of heads, mirrors averaged) on " in done.out
    settings = PredictSettings(depth=2, heads="mean", tta=True)
    expected = predict(open_stack(em_file), nested, sections=[0], settings=settings)
    np.testing.assert_array_equal(open_stack("out.tif").data[:], expected)
    said = read_provenance("out.tif").settings
    assert (said["depth"], said["heads"], said["tta"]) == (2, "mean", True)


@pytest.mark.parametrize(
    ("command", "words", "precision"),
    [
        ("predict", ("--no-half-precision",), "float32"),
        ("segment", ("--no-half-precision",), "float32"),
        ("predict", ("--half-precision",), "auto"),
        ("predict", ("--half-precision=false",), "float32"),
        ("segment", ("--precision", "float32"), "float32"),
        ("predict", ("--precision", "int8", "--runtime", "torch"), None),
    ],
)
def test_the_precision_and_its_option_of_before(
    emseg, em_file, nested, command, words, precision
):
    asked = ("--input-is", "em") if command == "segment" else ()
    options = (
        "--weights",
        nested,
        "--depth",
        "1",
        "--device",
        "cpu",
        "--sections",
        "0",
    )
    done = emseg(command, em_file, "out.tif", *asked, *options, *words, "--json")
    if precision is None:
        assert done.code == 2
        assert "int8 runs by OpenVINO, and the runtime is set to torch" in done.err
        assert "--precision float32" in done.err
        return
    assert json.loads(done.out)["precision"] == "float32"
    said = read_provenance("out.tif").settings
    assert said.get("predict", said)["precision"] == "float32"


def test_cells_take_the_depth_too(emseg, em_file, nested):
    words = ("segment", em_file, "c.tif", "--input-is", "em", "--weights", nested)
    done = emseg(*words, "--depth", "1", "--json")

    assert json.loads(done.out)["depth"] == 1
    probabilities = predict(open_stack(em_file), load_weights(nested, depth=1))
    expected = segment(probabilities, settings=CellSettings())
    np.testing.assert_array_equal(open_stack("c.tif").data[:], expected)


@pytest.mark.parametrize("command", ["predict", "segment"])
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (("--depth", "2"), "tiny has no depth and no heads to choose"),
        (("--heads", "mean"), "tiny has no depth and no heads to choose"),
        (("--depth", "7"), "--depth must be less than or equal to 4, got 7"),
    ],
)
def test_what_a_network_has_not_is_refused(
    emseg, em_file, tiny_weights, command, option, reason
):
    words = (command, em_file, "out.tif", "--weights", tiny_weights, *option)
    done = emseg(*words, *(("--input-is", "em") if command == "segment" else ()))

    assert done.code == 2
    assert reason in done.err
    assert not list(Path.cwd().glob("out*"))


def test_show_has_a_line_for_each_way_to_run(emseg, nested):
    lines = emseg("weights", "show", nested).out.splitlines()
    table = lines[lines.index("") + 1 :]
    names = [line.split("  ")[0] for line in table[1:]]
    expected = ["depth 1", "depth 2", "depth 2, mean of heads"]
    assert names[:3] == expected
    card = load_weights(nested).card
    assert f"{card.variant(2).parameters:,}" in table[2]


class TestPrune:
    def test_writes_a_file_of_its_own(self, emseg, nested):
        done = emseg("weights", "prune", nested, "two.safetensors", "--depth", "2")

        assert done.code == 0
        small, whole = load_weights("two.safetensors"), load_weights(nested)
        counts = small.card.parameters, whole.card.parameters
        assert "{:,} of {:,} parameters".format(*counts) in done.out
        assert counts[0] < counts[1] / 10
        assert small.card.parent_sha256 == whole.sha256
        assert small.card.name == "two"

    def test_refuses_what_is_not_there(self, emseg, nested, tiny_weights):
        words = ("weights", "prune", nested, "x.safetensors")
        assert "must be one of 1, 2, 3, 4, got 9" in emseg(*words, "--depth", "9").err
        flat = ("weights", "prune", tiny_weights, "x.safetensors", "--depth", "1")
        assert emseg(*flat).code == 2
        assert not Path("x.safetensors").exists()

    def test_replaces_no_file_unasked(self, emseg, nested):
        words = ("weights", "prune", nested, "x.safetensors", "--depth")
        assert emseg(*words, "1").code == 0
        assert "overwrite it with --overwrite" in emseg(*words, "2").err
        assert load_weights("x.safetensors").card.depths == (1,)
        assert emseg(*words, "2", "--overwrite").code == 0
        assert load_weights("x.safetensors").card.depths == (2,)
