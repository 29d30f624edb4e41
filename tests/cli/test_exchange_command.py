from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from napari_emseg.core.card import Card
from napari_emseg.models.weights import load_weights, save_weights
from napari_emseg.models.zoo import build


def same(a: str, b: Path) -> bool:
    one, other = (load_weights(each).network().state_dict() for each in (a, b))
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_package_goes_out_and_comes_back(emseg, tiny_weights):
    done = emseg("weights", "export", tiny_weights, "t.zip")
    assert (done.code, done.out[:13]) == (0, "t.zip: tiny, ")
    done = emseg("weights", "import", "t.zip", "back.safetensors")
    assert done.code == 0
    assert "threshold    0.4" in done.out
    assert same("back.safetensors", tiny_weights)


@pytest.mark.parametrize(
    ("architecture", "left_out"), [("unet", True), ("unetpp", False)]
)
def test_affinities_that_are_left_out_are_told(emseg, tmp_path, architecture, left_out):
    shape = {"unet": {"levels": 1}, "unetpp": {"depth": 1}}[architecture]
    config = {"base": 2, "affinities": [[-1, 0, 0]], **shape}
    card = Card(name="near", architecture=architecture, config=config)
    state = build(architecture, config).state_dict()
    near = save_weights(tmp_path / "near.safetensors", state, card).path
    done = emseg("weights", "export", near, "near.zip")
    told = "near: its affinities, and scores that were reached by them, are left out\n"
    assert (done.code, told in done.err) == (0, left_out)
    done = emseg("weights", "import", "near.zip", "back.safetensors")
    assert ("affinities   z 1" in done.out) is not left_out


def test_what_is_in_the_way_is_left_alone(emseg, tiny_weights):
    Path("t.zip").write_bytes(b"mine")
    done = emseg("weights", "export", tiny_weights, "t.zip")
    assert (done.code, Path("t.zip").read_bytes()) == (2, b"mine")
    assert emseg("weights", "export", tiny_weights, "t.tar").code == 2
    assert emseg("weights", "export", tiny_weights, "t.zip", "--overwrite").code == 0


def test_a_state_dict_needs_its_architecture(emseg, tiny_weights):
    state = load_weights(tiny_weights).network().state_dict()
    torch.save(state, "state.pt")
    words = ("weights", "import", "state.pt", "mine.safetensors")

    done = emseg(*words)
    assert done.code == 2
    assert "say it with --arch" in done.err

    wider = (*words, "--arch", "unet", "--network.base", "4", "--network.levels", "2")
    done = emseg(*wider)
    assert done.code == 2
    assert "down.0.0.weight must be (4, 1, 3, 3), file has (2, 1, 3, 3)" in done.err
    assert not Path("mine.safetensors").exists()

    fitting = [*words, "--arch", "unet", "--network.base", "2", "--network.levels=2"]
    assert emseg(*fitting).code == 0
    assert same("mine.safetensors", tiny_weights)


def test_an_unknown_architecture_is_named(emseg, tiny_weights):
    torch.save(load_weights(tiny_weights).network().state_dict(), "state.pt")
    words = ("weights", "import", "state.pt", "x.safetensors", "--arch", "u-net")
    assert "unknown architecture 'u-net'; known are: cenet" in emseg(*words).err


def test_weights_at_an_address_need_a_word(emseg, tiny_weights):
    assert emseg("weights", "export", tiny_weights, "t.zip").code == 0
    with zipfile.ZipFile("t.zip") as old, zipfile.ZipFile("far.zip", "w") as new:
        said = yaml.safe_load(old.read("rdf.yaml"))
        said["weights"]["pytorch_state_dict"]["source"] = "https://x.org/w.pt"
        new.writestr("rdf.yaml", yaml.safe_dump(said))
    done = emseg("weights", "import", "far.zip", "x.safetensors")
    assert done.code == 2
    assert "at https://x.org/w.pt (sha256 " in done.err
    assert "nothing was downloaded; fetch them with --download" in done.err
