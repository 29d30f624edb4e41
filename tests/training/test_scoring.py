from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from one_pass import predict_picture

from napari_emseg.core.card import Card
from napari_emseg.core.records import Progress, drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.metrics import cell_scores, isbi_scores
from napari_emseg.metrics.inputs import cells_of_inside
from napari_emseg.models.weights import read_weights, replace_card, save_weights
from napari_emseg.models.zoo import build
from napari_emseg.segmentation import segment_section
from napari_emseg.training import validation
from napari_emseg.training.dataset import Example, read_examples
from napari_emseg.training.losses import IGNORE
from napari_emseg.training.validation import (
    best_threshold,
    bits_lost,
    isbi_validation,
    with_scores,
    with_times,
)

CONFIG = {"base": 2, "depth": 2}


@pytest.fixture
def examples(drawn_stack: tuple[Stack, NDArray[np.uint32]]) -> list[Example]:
    images, cells = drawn_stack
    return read_examples(images, Stack(cells), "cells")


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    network = build("unetpp", CONFIG)
    network(torch.rand(2, 1, 64, 64))
    return network


def card_of(**facts: object) -> Card:
    return Card(name="x", architecture="unetpp", config=CONFIG, **facts)


def segment(membrane: NDArray[np.float32], threshold: float) -> NDArray[np.uint32]:
    return segment_section(membrane, CellSettings(threshold=threshold))


def test_every_way_is_scored_by_itself(network, examples):
    card = card_of(threshold=0.4, scores={"validation_v_rand": 0.7, "v_rand": 0.1})
    records = []
    found = drain(
        with_scores(card, network, examples[:1], examples[3:]), records.append
    )

    ways = [(v.depth, v.heads, v.tta) for v in found.variants]
    assert ways == [
        (depth, heads, tta)
        for depth, heads in ((1, "last"), (2, "last"), (2, "mean"))
        for tta in (False, True)
    ]
    assert [r.done for r in records if isinstance(r, Progress)] == [1, 2, 3, 4, 5, 6]
    truth = np.stack([e.target == 1 for e in examples[3:]])
    for depth, heads, tta in ways:
        part = network.pruned(depth, heads).eval()
        inside, seen = (
            np.stack([1 - predict_picture(part, e.image, tta=tta)[0] for e in some])
            for some in (examples[3:], examples[:1])
        )
        expected = isbi_scores(inside, truth)
        scores = found.variant(depth, heads, tta=tta).scores
        assert scores["v_rand"] == pytest.approx(expected.v_rand)
        assert scores["warping_error"] == pytest.approx(expected.warping_error)
        chosen = found.variant(depth, heads, tta=tta).threshold
        lost, walls = bits_lost(1 - seen[0], examples[0].target)
        assert chosen == best_threshold(lost, walls, None)
        cells = np.stack([segment(1 - p, chosen) for p in inside])
        expected = cell_scores(cells, cells_of_inside(truth))
        assert scores["cells_vi"] == pytest.approx(expected.variation_of_information)
        assert scores["cells_false_merges"] == expected.false_merges


def test_the_card_speaks_of_the_network_as_it_is(network, examples):
    card = card_of(threshold=0.4, scores={"validation_v_rand": 0.7, "v_rand": 0.1})
    found = drain(with_scores(card, network, examples[:1], examples[3:]))
    own = found.variant(2)
    assert own.scores.items() <= found.scores.items()
    assert set(found.scores) - set(own.scores) == {
        "validation_v_rand",
        "validation_v_info",
        "validation_mask_threshold",
    }
    assert found.scores["validation_v_rand"] != 0.7
    assert found.ms_per_megapixel == own.ms_per_megapixel
    assert found.threshold == own.threshold
    assert found.variant(2, tta=True).ms_per_megapixel == {}


def test_without_held_out_sections_there_are_times_but_no_scores(network):
    found = drain(with_scores(card_of(), network, [], []))
    assert found.scores == {}
    assert [v.tta for v in found.variants] == [False] * 3
    assert all(v.ms_per_megapixel["cpu"] > 0 for v in found.variants)


def test_a_new_card_leaves_the_numbers_as_they_are(network, tmp_path):
    path = tmp_path / "x.safetensors"
    before = save_weights(path, network.state_dict(), card_of())
    old = {k: v.clone() for k, v in before.network().state_dict().items()}
    changed = before.card.model_copy(update={"summary": "other"})

    after = replace_card(before, changed)

    assert after.card == read_weights(path).card == changed
    for key, value in after.network().state_dict().items():
        assert torch.equal(value, old[key])
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_times_are_measured_anew_and_scores_stay(network, examples, monkeypatch):
    card = drain(with_scores(card_of(), network, examples[:1], examples[3:]))
    monkeypatch.setattr(
        validation, "_time", lambda runtime: float(runtime.network.config.depth)
    )

    again = with_times(card, network)

    assert [v.scores for v in again.variants] == [v.scores for v in card.variants]
    times = {(v.depth, v.tta): v.ms_per_megapixel for v in again.variants}
    assert times == {
        (1, False): {"cpu": 1.0},
        (1, True): {},
        (2, False): {"cpu": 2.0},
        (2, True): {},
    }
    assert again.ms_per_megapixel == {"cpu": 2.0}


class Crossed(torch.nn.Module):
    """Sigmoids that contradict each other: inside says 0.9 where membrane is sure."""

    activation = "sigmoid"
    geometry = Geometry(stride=1, context=0)
    bytes_per_pixel = 8.0

    def __init__(self, membrane: NDArray[np.float32]) -> None:
        super().__init__()
        self.membrane = torch.nn.Parameter(torch.from_numpy(membrane))

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        membrane = torch.logit(self.membrane)
        return torch.stack([membrane, torch.full_like(membrane, 2.2)])[None]


def test_membrane_is_scored_as_users_get_it_and_not_the_inside(examples):
    (example,) = examples[:1]
    wall = np.where(example.target == 0, np.float32(0.75), np.float32(0.15))
    found = isbi_validation([example])(Crossed(wall))
    assert found["v_rand"] == found["v_info"] == 1
    assert 0.15 < found["threshold"] <= 0.75


def test_what_is_not_known_counts_for_nothing_in_validation(examples):
    (example,) = examples[:1]
    target = example.target.copy()
    target[:, :40] = IGNORE
    wall = np.where(example.target == 0, np.float32(0.75), np.float32(0.15))
    scores = []
    for unknown in (0.01, 0.99):
        shown = np.where(target == IGNORE, np.float32(unknown), wall)
        scores.append(isbi_validation([Example(example.image, target)])(Crossed(shown)))
    assert scores[0] == scores[1]
    assert scores[0]["v_rand"] == 1


def test_times_of_a_card_stay_where_none_are_measured(network, examples):
    card = drain(with_scores(card_of(), network, examples[:1], examples[3:]))
    times = [v.ms_per_megapixel for v in card.variants]
    again = drain(with_scores(card, network, examples[:1], examples[3:], timed=False))
    assert [v.ms_per_megapixel for v in again.variants] == times
    assert again.ms_per_megapixel == card.ms_per_megapixel
    assert again == card
