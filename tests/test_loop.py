"""The whole loop without a window: suggest, correct, learn, compare, accept, again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from finetuning import QUICK, TORCH, finetune_by_torch, other_tissue, taught
from numpy.typing import NDArray

import napari_emseg as emseg
from napari_emseg.active_learning import suggest_places
from napari_emseg.core.records import drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import SuggestSettings
from napari_emseg.models.weights import Weights
from napari_emseg.training.corrections import TrainingSet


def pixel_f(weights: Weights, stack: Stack, codes: NDArray[np.uint8], z: int) -> float:
    settings = PredictSettings(invert="no")
    p = emseg.predict(stack, weights, sections=[z], settings=settings)[0]
    found, wall = p > weights.card.threshold, codes[z] == 1
    return 2 * float((found & wall).sum()) / float(found.sum() + wall.sum())


def test_accuracy_rises_where_nobody_corrected(tmp_path: Path) -> None:
    stack, codes, _ = other_tissue(8)
    weights = taught(tmp_path / "start.safetensors")
    known = TrainingSet.from_corrections(stack, np.zeros_like(codes), excluded=[6, 7])
    scores = [pixel_f(weights, stack, codes, 7)]
    where = SuggestSettings(places=5, side=48)
    settings = QUICK.model_copy(
        update={"steps": 40, "patch": 64, "batch": 4, "learning_rate": 0.01}
    )
    for turn in range(2):
        for place in drain(
            suggest_places(weights, known, settings=where, predict=TORCH)
        ):
            truth = codes[place.region.z, *place.region.area]
            known.opinions.put(place.region, truth)
        output = tmp_path / f"round{turn}.safetensors"
        work = finetune_by_torch(weights, [known], output, settings=settings)
        weights = drain(work).weights
        scores.append(pixel_f(weights, stack, codes, 7))
    labelled = known.opinions.pixels / codes[:6].size
    assert labelled < 0.25
    assert scores[-1] > scores[0] + 0.01
    assert weights.card.name == "round1"
