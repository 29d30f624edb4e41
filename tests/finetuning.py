"""Tiny weights and drawn corrections, for tests of fine-tuning."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from napari_emseg.core.card import Card
from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import FinetuneSettings, TrainSettings
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import build
from napari_emseg.sample import synthetic
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.finetune import finetune_weights
from napari_emseg.training.run import split_sections, train_weights

SMALL = {
    "unet": {"base": 4, "levels": 2},
    "unetpp": {"base": 4, "depth": 2},
    # torch 2.13 on a CPU crashes in 1×1 convolutions of stride 2 with few channels
    "cenet": {"base": 16},
}

TORCH = PredictSettings(device="cpu", runtime="torch")
"""OpenVINO takes half a second to load a network, for what is computed in less."""

finetune_by_torch = partial(finetune_weights, predict=TORCH)

QUICK = FinetuneSettings(
    steps=6, patch=32, batch=2, validate_every=2, half_precision=False, seed=1
)


def untaught(path: Path, architecture: str = "unet", *, half: bool = True) -> Weights:
    """Write a small network that has learnt nothing, made for 4 nm/px."""
    torch.manual_seed(0)
    config = SMALL[architecture]
    card = Card(
        name=path.stem,
        architecture=architecture,
        config=config,
        pixel_size_nm=(4.0, 4.0),
        licence="BSD-3-Clause",
    )
    state = build(architecture, config).state_dict()
    return save_weights(path, state, card, half=half)


def drawn(n: int = 6, *, seed: int = 1) -> tuple[Stack, NDArray[np.uint8]]:
    """Draw sections of 128² px; return them with the codes that a person would give."""
    stack, cells = synthetic((n, 128, 128), seed=seed)
    return stack, np.where(cells > 0, 2, 1).astype(np.uint8)


def reviewed(stack: Stack, codes: NDArray[np.uint8], *sections: int) -> TrainingSet:
    """Return whole sections as reviewed regions."""
    regions = [Region.whole(z, stack.shape[1:]) for z in sections]
    kept = np.zeros_like(codes)
    kept[list(sections)] = codes[list(sections)]
    return TrainingSet.from_corrections(stack, kept, reviewed=regions)


def taught(path: Path, *, base: int = 4) -> Weights:
    """Write a small U-Net that finds the membranes of `drawn`, made for 4 nm/px."""
    stack, codes = drawn()
    settings = TrainSettings(
        steps=80, patch=64, batch=4, learning_rate=0.01, half_precision=False, seed=1
    )
    work = train_weights(
        stack,
        Stack(codes - 1),
        path,
        meaning="inside",
        split=split_sections(len(codes), validation=()),
        config={**SMALL["unet"], "base": base, "dropout": 0.0},
        settings=settings,
    )
    return drain(work)


def other_tissue(
    n: int = 6, *, bright: bool = False
) -> tuple[Stack, NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw cells with bodies: dark, like membrane to who never saw one, or bright.

    Returns the stack, the codes 1 membrane and 2 inside, and where the bodies are.
    """
    stack, codes = drawn(n, seed=2)
    y, x = np.mgrid[:128, :128]
    body = np.zeros(codes.shape, bool)
    for z in range(n):
        spot = ((y + 7 * z) % 24 - 12) ** 2 + ((x + 5 * z) % 24 - 12) ** 2 < 30
        body[z] = spot & (codes[z] == 2)
    shade = 255 if bright else 0.4 * np.asarray(stack.data) + 38
    grey = np.where(body, shade, np.asarray(stack.data))
    named = Stack(
        grey.astype(np.uint8), name="other", voxel_size_nm=stack.voxel_size_nm
    )
    return named, codes, body
