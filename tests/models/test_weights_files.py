from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from napari_emseg.core.atomic import DiskFullError
from napari_emseg.core.card import Card, DataSet, Variant
from napari_emseg.models import weights
from napari_emseg.models.weights import (
    CARD,
    DEFAULT_WEIGHTS,
    MEASURED,
    Weights,
    check_fit,
    choose_fitting_weights,
    list_weights,
    load_weights,
    read_weights,
    replace_card,
    save_weights,
)
from napari_emseg.models.zoo import build

CONFIG = {"base": 2, "levels": 2}


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(3)
    network = build("unet", CONFIG)
    network(torch.rand(2, 1, 16, 16))  # gives the normalisation some statistics
    return network.eval()


@pytest.fixture
def card() -> Card:
    return Card(
        name="tiny",
        architecture="unet",
        config=CONFIG,
        pixel_size_nm=(4.0, 4.0),
        threshold=0.4,
        training_data=(DataSet(name="drawn", sections="0-3", licence="CC0"),),
        scores={"v_rand": 0.97},
    )


@pytest.fixture
def saved(network: torch.nn.Module, card: Card, tmp_path: Path) -> Weights:
    return save_weights(tmp_path / "tiny.safetensors", network.state_dict(), card)


def test_half_precision_comes_back_to_its_rounding(
    saved: Weights, network: torch.nn.Module
) -> None:
    again = saved.network().state_dict()
    for key, value in network.state_dict().items():
        wanted = value.half().float() if value.is_floating_point() else value
        assert again[key].dtype == value.dtype
        assert torch.equal(again[key], wanted), key


def test_full_precision_comes_back_exactly(
    network: torch.nn.Module, card: Card, tmp_path: Path
) -> None:
    path = tmp_path / "full.safetensors"
    written = save_weights(path, network.state_dict(), card, half=False)
    again = written.network().state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(again[key], value), key


def test_numbers_too_large_for_half_precision_are_kept(
    network: torch.nn.Module, card: Card, tmp_path: Path
) -> None:
    state = dict(network.state_dict())
    state["down.0.1.running_var"] = torch.tensor([1e6, 1.0])
    again = save_weights(tmp_path / "a.safetensors", state, card).network()
    assert again.state_dict()["down.0.1.running_var"].tolist() == [1e6, 1.0]


def test_the_card_comes_back(saved: Weights, card: Card) -> None:
    read = read_weights(saved.path).card
    assert read == saved.card
    facts = {"geometry", "bytes_per_pixel", "parameters"}
    assert read.model_dump(exclude=facts) == card.model_dump(exclude=facts)
    network = build("unet", CONFIG)
    assert read.geometry == network.geometry
    assert read.parameters == sum(p.numel() for p in network.parameters())


def test_network_is_ready_for_inference(saved: Weights) -> None:
    network = saved.network()
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_checksum_names_the_contents(saved: Weights, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(saved.path.read_bytes())
    assert read_weights(copy).sha256 == saved.sha256
    assert len(saved.sha256) == 64


def test_the_card_is_read_without_torch(saved: Weights) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from napari_emseg.models.weights import load_weights; "
        "assert load_weights(sys.argv[1]).card.name == 'tiny'; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(saved.path)], check=True)


def test_an_interrupted_save_leaves_the_old_file(
    saved: Weights, network: torch.nn.Module, monkeypatch
) -> None:
    before = saved.path.read_bytes()

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFullError, match="no space is left"):
        save_weights(saved.path, network.state_dict(), saved.card)
    assert saved.path.read_bytes() == before


@pytest.mark.parametrize("length", [0, 5, 100, 3000])
def test_a_truncated_file_is_refused(saved: Weights, length: int) -> None:
    saved.path.write_bytes(saved.path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"tiny\.safetensors is no weights file"):
        load_weights(saved.path)


def test_a_damaged_header_is_refused(saved: Weights) -> None:
    data = bytearray(saved.path.read_bytes())
    data[8:40] = bytes(32)
    saved.path.write_bytes(data)
    with pytest.raises(ValueError, match="no weights file, or a damaged one"):
        load_weights(saved.path)


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"layer.weight": np.zeros((2, 2), np.float32)}, path)
    with pytest.raises(ValueError, match="has no card"):
        load_weights(path)


def test_a_card_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    arrays = {"layer.weight": np.zeros((2, 2), np.float32)}
    save_file(arrays, path, metadata={CARD: json.dumps({"name": 3})})
    with pytest.raises(ValueError, match="its card is damaged"):
        load_weights(path)


class Trap:
    """Leaves a trace if it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_pickle_is_refused_and_not_run(suffix: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps(Trap(trace)))
    with pytest.raises(ValueError, match="no weights file"):
        load_weights(path)
    torch.save({"state": Trap(trace)}, path)
    with pytest.raises(ValueError, match="no weights file"):
        load_weights(path)
    assert not trace.exists()


def test_a_missing_parameter_is_named(saved: Weights, network, card: Card) -> None:
    state = dict(network.state_dict())
    del state["up.0.0.weight"]
    weights = save_weights(saved.path, state, card)
    with pytest.raises(ValueError, match=r"up\.0\.0\.weight must be .* has none"):
        weights.network()


def test_a_parameter_of_another_shape_is_named(
    saved: Weights, network, card: Card
) -> None:
    state = {**network.state_dict(), "head.weight": torch.zeros(2, 7, 1, 1)}
    weights = save_weights(saved.path, state, card)
    with pytest.raises(ValueError, match=r"head\.weight must be \(2, 2, 1, 1\).*7"):
        weights.network()


def test_a_parameter_too_many_is_named(network: torch.nn.Module) -> None:
    state = {**network.state_dict(), "tail.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"x\.pt .* it has no parameter tail\.weight"):
        check_fit(state, network, "x.pt")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weights file at"):
        load_weights(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="no weights named 'nonsense'; bundled are: "):
        load_weights("nonsense")


def test_own_weights_are_found_by_name(
    saved: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMSEG_WEIGHTS", str(saved.path.parent))
    assert load_weights(saved.path.stem).path == saved.path
    with pytest.raises(ValueError, match=f"your own are: {saved.path.stem}"):
        load_weights("nonsense")


def test_damaged_files_are_left_out_of_the_list(saved: Weights) -> None:
    (saved.path.parent / "bad.safetensors").write_bytes(b"nothing")
    found = list_weights(saved.path.parent)
    assert found["tiny"].card.name == "tiny"
    assert "bad" not in found


@pytest.mark.parametrize("name", sorted(list_weights()))
def test_bundled_weights_load(name: str) -> None:
    found = load_weights(name)
    assert found.card.name == name
    assert found.card.training_data
    assert found.path.stat().st_size <= 15 * 2**20
    count = sum(p.numel() for p in found.network().parameters())
    assert count == found.card.parameters
    # users look at cells: every way to run them says how good those are
    assert all("cells_vi" in way.scores for way in found.card.variants)


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        (
            "em-membranes",
            "1a1d4541c002dcc040f9a15475f932cf73186ff6b22669869c6e5f3792b9d3bd",
        ),
        (
            "fib-sem",
            "9c4f2402947aab740659fe0e6c716731c9b64c5a2c09a6e18226f57385e3d907",
        ),
        (
            "isbi2012-cenet",
            "05d1b961c97f8cf867cda25be2aaeb9085c61d9d89fb53b9f5c8f9d61db3f806",
        ),
        (
            "isbi2012-unet",
            "9da9abdd1b3d68f729ece263378906e7976472041141a918f9e87612c1e7339b",
        ),
        (
            "isbi2012-unetpp",
            "921b3d988a8ddd8090cc956a19d4630b47ec26cc4ab77d8faaeb89c14ad808b0",
        ),
    ],
)
def test_bundled_weights_are_those_that_projects_and_batches_name(name, sha256):
    assert load_weights(name).sha256 == sha256


def test_weights_of_napari_emseg_data_may_be_missing(without_data):
    ours = {"fib-sem", "isbi2012-cenet", "isbi2012-unet", "isbi2012-unetpp"}
    assert {*list_weights()} == ours
    with pytest.raises(ValueError, match=r"^em-membranes is .* napari-emseg-data$"):
        load_weights("em-membranes")
    chosen = choose_fitting_weights(list_weights(), wanted="em-membranes")
    assert chosen.card.name == DEFAULT_WEIGHTS


def test_own_weights_may_be_named_as_those_of_napari_emseg_data(
    without_data, saved, monkeypatch
):
    own = saved.path.rename(saved.path.with_name("em-membranes.safetensors"))
    monkeypatch.setenv("EMSEG_WEIGHTS", str(own.parent))
    assert load_weights("em-membranes").path == own


@pytest.mark.parametrize(
    ("pixel", "name"),
    [
        (None, "em-membranes"),
        (4.0, "em-membranes"),
        (8.0, "em-membranes"),
        (2.5, "isbi2012-unet"),  # 1.6 × against 2.4 ×
        (1.0, "isbi2012-unet"),
        (10.0, "em-membranes"),  # fib-sem is taken where it is wanted
        (30.0, "em-membranes"),
    ],
)
def test_weights_are_chosen_by_pixel_size_and_as_general_as_can_be(pixel, name):
    known = list_weights()
    size = None if pixel is None else (pixel, pixel)
    chosen = choose_fitting_weights(known, size)
    assert chosen is known[name]
    assert choose_fitting_weights(known, size, "isbi2012-cenet").path.stem == (
        "isbi2012-cenet"
    )


def test_the_default_weights_are_bundled():
    assert DEFAULT_WEIGHTS in list_weights()


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_the_umask_says_who_may_read_weights(
    tmp_path: Path, network: torch.nn.Module, card: Card, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        saved = save_weights(tmp_path / "a.safetensors", network.state_dict(), card)
    finally:
        os.umask(before)
    assert saved.path.stat().st_mode & 0o777 == mode


def test_a_card_that_asks_for_more_than_its_file_holds_builds_nothing(
    saved: Weights, tmp_path: Path
) -> None:
    """A network of 8 billion parameters, in a file of a few kB."""
    large = saved.card.model_copy(update={"config": {"base": 256, "levels": 6}})
    state = {"head.bias": np.zeros(2, np.float16)}
    save_file(state, tmp_path / "x.safetensors", {CARD: large.model_dump_json()})
    weights = read_weights(tmp_path / "x.safetensors")
    for build_it in (weights.network, lambda: weights.at(depth=1)):
        with pytest.raises(ValueError, match=r"x\.safetensors: unet with .*base=256"):
            build_it()


def test_a_network_that_memory_has_no_room_for_is_not_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("napari_emseg.models.zoo.free_ram", lambda: 10_000)
    with pytest.raises(ValueError, match="more than memory is free for"):
        build("unet")


@pytest.mark.parametrize(
    "change",
    [
        {"pixel_size_nm": (0.0, 0.0)},
        {"pixel_size_nm": (-4.0, 4.0)},
        {"pixel_size_nm": (float("nan"), 4.0)},
        {"threshold": 7.0},
        {"bytes_per_pixel": -1.0},
        {"geometry": {"stride": 0, "context": 4}},
        {"geometry": {"stride": 4, "context": 10**9}},
    ],
)
def test_cards_of_impossible_values_are_refused(
    saved: Weights, tmp_path: Path, change: dict[str, object]
) -> None:
    said = json.dumps(saved.card.model_dump(mode="json") | change)
    state = {"head.bias": np.zeros(2, np.float16)}
    save_file(state, tmp_path / "x.safetensors", {CARD: said})
    field = next(iter(change))  # which of them is wrong
    said = rf"^x\.safetensors: its card is damaged: {field}[.:]"
    with pytest.raises(ValueError, match=said):
        read_weights(tmp_path / "x.safetensors")


@pytest.fixture(params=[float("nan"), float("inf"), -float("inf")])
def ruined(
    request: pytest.FixtureRequest, network: torch.nn.Module, card: Card, tmp_path: Path
) -> Path:
    """A file whose head has one value that is no number."""
    state = {k: v.clone() for k, v in network.state_dict().items()}
    state["head.weight"].view(-1)[1] = request.param
    path = tmp_path / "ruined.safetensors"
    save_weights(path, state, card, half=request.param > 0)
    return path


SAID = r"ruined\.safetensors can't be used: head\.weight holds NaN or infinity"


def test_weights_that_are_no_numbers_are_refused_when_they_are_read(
    ruined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for read in (read_weights, load_weights):
        with pytest.raises(ValueError, match=SAID):
            read(ruined)
    monkeypatch.setenv("EMSEG_WEIGHTS", str(ruined.parent))
    with pytest.raises(ValueError, match=SAID):
        load_weights("ruined")
    with pytest.raises(ValueError, match=SAID):
        list_weights(ruined.parent)["ruined"].network()


def test_a_file_that_became_good_is_read_again(
    ruined: Path, network: torch.nn.Module, card: Card
) -> None:
    with pytest.raises(ValueError, match=SAID):
        read_weights(ruined)
    save_weights(ruined, network.state_dict(), card)
    assert read_weights(ruined).card.name == "tiny"


def test_what_is_measured_later_joins_a_bundled_card_and_leaves_the_file(
    saved: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = Variant(tta=True, scores={"v_rand": 0.9})
    card = saved.card.model_copy(update={"scores": {"v_rand": 0.8}, "variants": (way,)})
    own = replace_card(saved, card)
    later = {
        own.path.stem: {
            "scores": {"cells_vi": 0.5},
            "variants": [
                {"tta": True, "scores": {"cells_vi": 0.4}},
                {"depth": 7, "scores": {"cells_vi": 9.0}},
            ],
        },
        "others": {"scores": {"cells_vi": 3.0}},
    }
    own.path.with_name(MEASURED).write_text(json.dumps(later))
    assert load_weights(own.path).card.scores == {"v_rand": 0.8}, "it isn't bundled"
    monkeypatch.setattr(weights, "bundled_folders", lambda: (own.path.parent,))
    found = load_weights(own.path)
    assert found.card.scores == {"v_rand": 0.8, "cells_vi": 0.5}
    assert [v.scores for v in found.card.variants] == [{"v_rand": 0.9, "cells_vi": 0.4}]
    assert found.sha256 == own.sha256


def test_a_folder_with_the_name_of_weights_is_called_one(tmp_path: Path) -> None:
    folder = tmp_path / "w.safetensors"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match=r"w\.safetensors is a folder"):
        load_weights(folder)
