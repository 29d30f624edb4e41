from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from finetuning import TORCH, drawn, untaught

from napari_emseg.active_learning import (
    AT_RANDOM,
    Suggestion,
    k_centre,
    suggest_places,
)
from napari_emseg.core.records import Progress, Record, drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import SuggestSettings
from napari_emseg.inference.region import DoubtPredictor
from napari_emseg.models.weights import Weights
from napari_emseg.segmentation import segment_section
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.holdout import Place
from napari_emseg.training.training_data import split_validation

SETTINGS = SuggestSettings(places=8, side=32)


def nothing(stack: Stack, **how: object) -> TrainingSet:
    return TrainingSet.from_corrections(stack, np.zeros(stack.shape, np.uint8), **how)


def suggest(
    weights: Weights, known: TrainingSet, settings: SuggestSettings = SETTINGS
) -> tuple[Suggestion, ...]:
    return drain(suggest_places(weights, known, settings=settings, predict=TORCH))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return untaught(tmp_path_factory.mktemp("w") / "w.safetensors", "unetpp")


def seen(monkeypatch: pytest.MonkeyPatch, p: np.ndarray | None = None) -> None:
    """Let the network see `p`, or grey values as probabilities of membrane."""

    def look(
        self: DoubtPredictor, stack: Stack, region: Region, **known: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        section = self.open(stack, region.z, **known).window(*region.area)
        found = np.clip(1 - section, 0.02, 0.98) if p is None else p
        return found.astype(np.float32), np.zeros_like(found)

    monkeypatch.setattr(DoubtPredictor, "membrane_and_doubt", look)


def test_a_wall_that_is_neither_there_nor_not_comes_first(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two halves of a section, parted by a wall; in section 1 it is weak at x = 30."""
    grey = np.full((3, 96, 128), 250, np.uint8)
    grey[:, 88:92] = 0  # a strong wall everywhere, so that black is black
    grey[:, :, 62:66] = 0
    grey[1, :, 62:66] = 80
    seen(monkeypatch)
    best = suggest(weights, nothing(Stack(grey)))[0]
    assert best.region.z == 1
    assert abs(best.x - 63) < 5
    assert "weak wall between" in best.reason or "joined pieces" in best.reason
    assert best.region.left <= best.x < best.region.right


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_the_wall_at_which_cells_are_joined_comes_first_at_any_threshold(
    threshold: float, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of walls that get stronger from left to right; probability alone misleads."""
    cells = CellSettings(threshold=threshold, join=0.62)
    p = np.full((96, 400), 0.02, np.float32)
    walls = range(40, 400, 40)
    for n, x in enumerate(walls, start=1):
        odds = n / (10 - n) * threshold / (1 - threshold)  # strength n / 10
        p[:, x : x + 3] = odds / (1 + odds)
    seen(monkeypatch, p)
    monkeypatch.setattr("napari_emseg.active_learning.CANDIDATES", 1)
    grey = np.random.default_rng(0).integers(1, 255, (1, 96, 400), dtype=np.uint8)
    known, wide = nothing(Stack(grey)), SuggestSettings(places=2, side=32)
    work = suggest_places(weights, known, settings=wide, cells=cells)
    first, second = drain(work)
    assert [round((s.x - 1) / 40) for s in (first, second)] == [6, 7]
    assert first.reason.startswith("one cell or two? joined pieces of")
    assert first.reason.endswith("wall of strength 0.60, joined below 0.62")
    assert second.reason.startswith("two cells or one? weak wall between")
    made = segment_section(p, cells)
    apart = [made[48, x - 5] != made[48, x + 8] for x in walls]
    assert apart == [False] * 6 + [True] * 3


def test_places_lie_apart_and_best_first(weights: Weights) -> None:
    stack, _ = drawn()
    records: list[Record] = []
    found = drain(
        suggest_places(weights, nothing(stack), settings=SETTINGS, predict=TORCH),
        records.append,
    )
    assert len(found) == 8
    for a, b in combinations(found, 2):
        if abs(a.region.z - b.region.z) <= 1:
            assert max(abs(a.y - b.y), abs(a.x - b.x)) >= 32
    assert len({s.region.z for s in found}) > 1
    assert found[0].gain == max(s.gain for s in found)
    assert all(s.reason for s in found)
    assert all(s.region.shape == (32, 32) for s in found)
    assert [r.done for r in records if isinstance(r, Progress)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("places", [6, 99])
def test_regions_that_a_border_moves_inwards_do_not_overlap(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, places: int
) -> None:
    """Spots 32 px apart whose squares, of 32 px, would lie half over each other."""
    rng = np.random.default_rng(0)
    seen(monkeypatch)
    stack = Stack(rng.integers(1, 255, (3, 90, 90), dtype=np.uint8))
    found = suggest(weights, nothing(stack), SuggestSettings(places=places, side=32))
    assert len(found) >= 6
    for a, b in combinations(found, 2):
        assert a.region.overlap(b.region) is None, (a.region, b.region)


def test_what_is_reviewed_corrected_or_excluded_is_left_out(weights: Weights) -> None:
    stack, codes = drawn()
    kept = np.zeros_like(codes)
    kept[0, :64] = codes[0, :64]
    regions = [Region(1, 0, 0, 128, 128), Region(2, 0, 0, 64, 128)]
    known = TrainingSet.from_corrections(
        stack, kept, reviewed=regions, excluded=[3, 4, 5]
    )
    found = suggest(weights, known)
    assert found
    assert {s.region.z for s in found} <= {0, 2}
    assert all(s.y >= 64 for s in found)


def test_blank_sections_and_padding_are_never_suggested(weights: Weights) -> None:
    stack, _ = drawn(2)
    grey = np.array(stack.data)
    grey[0] = 9
    grey[1, :, :60] = 0
    padded = Stack(grey, voxel_size_nm=stack.voxel_size_nm)
    found = suggest(weights, nothing(padded))
    assert found
    assert all(s.region.z == 1 and s.x > 40 for s in found)


def test_padding_of_which_a_network_is_unsure_is_not_suggested(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, _ = drawn(1)
    grey = np.array(stack.data)
    grey[:, :, :60] = 0

    seen(monkeypatch, np.full(grey.shape[1:], 0.5, np.float32))
    found = suggest(weights, nothing(Stack(grey, voxel_size_nm=stack.voxel_size_nm)))
    assert found
    assert all(place.x >= 60 for place in found)


def test_few_sections_are_spread_over_the_stack(weights: Weights) -> None:
    stack, _ = drawn(6)
    settings = SETTINGS.model_copy(update={"sections": 2})
    found = suggest(weights, nothing(stack), settings)
    assert {s.region.z for s in found} == {0, 5}


def test_only_the_sections_that_are_asked_for(weights: Weights) -> None:
    stack, _ = drawn(6)
    found = drain(
        suggest_places(
            weights,
            nothing(stack, excluded=[4]),
            settings=SETTINGS,
            sections=[3, 4],
        )
    )
    assert {s.region.z for s in found} == {3}


def test_everything_done_gives_an_empty_list(weights: Weights) -> None:
    stack, _ = drawn(2)
    assert suggest(weights, nothing(stack, excluded=[0, 1])) == ()


def test_centres_are_far_from_what_is_taken_and_from_each_other() -> None:
    """Three clusters, of which one is labelled: one of each other cluster."""
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10]])
    candidates = np.concatenate([c + rng.random((5, 2)) for c in centres])
    chosen = k_centre(candidates, candidates[:1] + 0.1, 2)
    assert sorted(k // 5 for k in chosen) == [1, 2]
    assert k_centre(candidates, candidates[:0], 1) == [0]
    assert sorted(k_centre(candidates, candidates[:0], 99)) == list(range(15))
    same = np.arange(15) // 5
    apart = k_centre(candidates, candidates[:0], 99, same[:, None] == same)
    assert sorted(same[apart]) == [0, 1, 2]


def test_places_are_unlike_what_is_labelled(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two textures; where one is labelled, the places are of the other."""
    rng = np.random.default_rng(0)
    grey = rng.integers(100, 156, (1, 64, 512), dtype=np.uint8)
    grey[:, :, 256:] = np.where(rng.random((1, 64, 256)) < 0.5, 0, 255)
    seen(monkeypatch)
    codes = np.zeros(grey.shape, np.uint8)
    codes[0, :32, 384:448] = 1
    known = TrainingSet.from_corrections(Stack(grey), codes)
    settings = SuggestSettings(places=2, side=32, at_random=0)
    found = suggest(weights, known, settings)
    assert found[0].gain >= found[1].gain
    assert any(s.x < 256 for s in found)


def test_a_third_lies_anywhere_where_it_is_held_out_to_stop_by(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    stack = Stack(rng.integers(1, 255, (2, 1024, 1024), dtype=np.uint8))
    seen(monkeypatch)
    settings = SuggestSettings(places=12, side=32)
    found = suggest(weights, nothing(stack), settings)
    chosen, anywhere = found[:8], found[8:]
    assert [s.reason == AT_RANDOM for s in found] == [False] * 8 + [True] * 4

    def validates(s: Suggestion) -> bool:
        return Place.at(s.region.z, s.y, s.x, 1).validates

    assert all(validates(s) for s in anywhere)
    assert not any(validates(s) for s in chosen)
    codes = np.zeros(stack.shape, np.uint8)
    for s in found:
        codes[s.region.z, *s.region.area] = 1
    corrected = TrainingSet.from_corrections(stack, codes)
    learnt, checked = split_validation(corrected.opinions, 1)
    assert checked.pixels == 4 * 32**2
    assert learnt.pixels == 8 * 32**2
    others = suggest(weights, corrected, settings)
    done = {(s.region.z, s.y, s.x) for s in found}
    assert not done & {(s.region.z, s.y, s.x) for s in others}
