from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from napari_emseg.core.card import Card, Variant
from napari_emseg.models.weights import (
    Weights,
    load_weights,
    read_weights,
    save_part,
    save_weights,
)
from napari_emseg.models.zoo import build

CONFIG = {"base": 2}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A U-Net++ with four heads that has learnt nothing, in float32."""
    torch.manual_seed(1)
    network = build("unetpp", CONFIG)
    network(torch.rand(2, 1, 32, 32))  # gives the normalisation some statistics
    card = Card(
        name="nested",
        architecture="unetpp",
        config=CONFIG,
        threshold=0.4,
        scores={"v_rand": 0.9},
        variants=(
            Variant(depth=2, threshold=0.3, scores={"v_rand": 0.8}),
            Variant(depth=2, tta=True, scores={"v_rand": 0.85}),
            Variant(depth=9, scores={"v_rand": 0.1}),
        ),
    )
    path = tmp_path_factory.mktemp("weights") / "nested.safetensors"
    return save_weights(path, network.state_dict(), card, half=False)


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def kinds(path: Path) -> set[str]:
    with safe_open(path, framework="numpy") as file:
        return {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_cut_weights_give_exactly_their_head(saved: Weights, depth: int) -> None:
    picture = torch.rand(1, 1, 48, 32)
    part = load_weights(saved.path, depth=depth)
    with torch.inference_mode():
        expected = saved.network().supervised(picture)[depth - 1]
        assert torch.equal(part.network()(picture), expected)


def test_the_mean_of_heads_is_that_of_the_heads_down_to_the_depth(
    saved: Weights,
) -> None:
    picture = torch.rand(1, 1, 48, 32)
    part = load_weights(saved.path, depth=3, heads="mean")
    with torch.inference_mode():
        heads = [h.sigmoid() for h in saved.network().supervised(picture)[:3]]
        expected = torch.stack(heads).mean(dim=0)
        torch.testing.assert_close(part.network()(picture).sigmoid(), expected)


@pytest.mark.parametrize(
    ("depth", "heads"), [(1, "last"), (2, "last"), (2, "mean"), (4, "mean")]
)
def test_a_card_speaks_of_what_is_left(saved: Weights, depth: int, heads: str) -> None:
    part = saved.at(depth, heads)
    network = part.network()
    assert part.card.parameters == parameters(network)
    assert part.card.geometry == network.geometry
    assert part.card.bytes_per_pixel == network.bytes_per_pixel
    assert part.card.config == network.config.model_dump()
    assert build("unetpp", part.card.config).config == network.config


def test_scores_and_threshold_are_those_of_the_depth(saved: Weights) -> None:
    two, three = saved.at(2).card, saved.at(3).card
    assert (two.scores, two.threshold) == ({"v_rand": 0.8}, 0.3)
    assert (three.scores, three.threshold) == ({}, 0.4)


def test_a_file_knows_the_ways_to_run_it_without_torch(saved: Weights) -> None:
    assert saved.card.depths == (1, 2, 3, 4)
    averaged = saved.card.variant(2, tta=True)
    assert averaged is not None
    assert averaged.scores == {"v_rand": 0.85}
    assert saved.card.variant(1, "mean") is None
    code = (
        "import sys; from napari_emseg.models.weights import load_weights; "
        "part = load_weights(sys.argv[1], depth=2); "
        "assert part.card.geometry.stride == 4; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(saved.path)], check=True)


def test_nothing_to_choose_is_no_change(saved: Weights) -> None:
    assert saved.at() is saved
    two = saved.at(2)
    assert two.at() is two
    assert two.at(None, "mean") == saved.at(2, "mean")
    assert two.at(3) == saved.at(3)
    assert saved.at(None, "mean") == saved.at(4, "mean")
    assert saved.at(1, "mean") == saved.at(1)


@pytest.mark.parametrize("depth", [0, 5, -1])
def test_a_depth_out_of_range_is_refused(saved: Weights, depth: int) -> None:
    match = f"depth of nested must be one of 1, 2, 3, 4, got {depth}"
    with pytest.raises(ValueError, match=match):
        saved.at(depth)


@pytest.mark.parametrize("choice", [{"depth": 2}, {"heads": "mean"}])
def test_a_network_without_depth_is_named(tmp_path: Path, choice: dict) -> None:
    config = {"base": 2, "levels": 1}
    card = Card(name="flat", architecture="unet", config=config)
    state = build("unet", config).state_dict()
    save_weights(tmp_path / "flat.safetensors", state, card)
    with pytest.raises(ValueError, match=r"flat has no depth .* since it is a unet"):
        load_weights(tmp_path / "flat.safetensors", **choice)


def test_a_file_older_than_its_variants_can_be_cut(
    saved: Weights, tmp_path: Path
) -> None:
    old = saved.card.model_copy(update={"variants": ()})
    part = Weights(saved.path, old).at(2)
    assert part.card.parameters == saved.at(2).card.parameters
    assert part.network().config.depth == 2


@pytest.mark.parametrize("heads", ["last", "mean"])
def test_a_cut_file_holds_only_its_own(
    saved: Weights, heads: str, tmp_path: Path
) -> None:
    part = saved.at(2, heads)
    written = save_part(tmp_path / "small.safetensors", part)
    with safe_open(written.path, framework="numpy") as file:
        assert set(file.keys()) == set(part.network().state_dict())
    again = read_weights(written.path)
    assert again.card == written.card
    assert again.card.parent_sha256 == saved.sha256
    assert again.card.scores == part.card.scores
    assert again.card.parameters == part.card.parameters
    assert again.card.depths == ((2,) if heads == "last" else (1, 2))
    picture = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again.network()(picture), part.network()(picture))


def test_a_cut_file_of_one_head_has_no_other_depth_and_no_mean(
    saved: Weights, tmp_path: Path
) -> None:
    small = save_part(tmp_path / "small.safetensors", saved.at(2))
    with pytest.raises(ValueError, match="must be one of 2, got 1"):
        small.at(1)
    with pytest.raises(ValueError, match="no mean of heads, since only head 2"):
        small.at(None, "mean")


def test_a_cut_file_is_as_precise_as_its_parent(saved: Weights, tmp_path: Path) -> None:
    state = saved.network().state_dict()
    half = save_weights(tmp_path / "half.safetensors", state, saved.card)
    small = save_part(tmp_path / "small.safetensors", half.at(1))
    full = save_part(tmp_path / "full.safetensors", saved.at(1))
    assert kinds(small.path) == {"F16", "I64"}
    assert kinds(full.path) == {"F32", "I64"}
    for key, value in half.at(1).network().state_dict().items():
        assert torch.equal(small.network().state_dict()[key], value)
