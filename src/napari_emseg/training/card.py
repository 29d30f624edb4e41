"""A finished training run in, what its weights' card says out."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import nn

from napari_emseg._version import __version__
from napari_emseg.core.card import Card, DataSet, TrainingRecord
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import TrainSettings
from napari_emseg.models.zoo import network_class
from napari_emseg.training.trainer import TrainResult


@dataclass(frozen=True, slots=True)
class Split:
    """Which sections the network learns from, is chosen by, and is scored on."""

    training: tuple[int, ...]
    validation: tuple[int, ...] = ()
    held_out: tuple[int, ...] = ()


def fill_in(
    about: Card,
    network: nn.Module,
    result: TrainResult,
    images: Stack,
    split: Split,
    settings: TrainSettings,
) -> Card:
    """Return `about` with all that a run knows; data that it names are left alone.

    Scores are those of the validation set, called so; `with_scores` adds the others.
    """
    size = images.voxel_size_nm
    config = network_class(about.architecture).Config(**about.config)
    validation = {
        f"validation_{name}": value
        for name, value in result.scores.items()
        if name.endswith(("v_rand", "v_info"))
    }
    return about.model_copy(
        update={
            "config": config.model_dump(mode="json"),
            "pixel_size_nm": about.pixel_size_nm or (size and size[1:]),
            "normalisation": Normalisation(),
            "threshold": threshold_of(result),
            "training_data": about.training_data or _data(images, split.training),
            "validation_data": about.validation_data or _data(images, split.validation),
            "held_out_data": about.held_out_data or _data(images, split.held_out),
            "scores": validation,
            "training": training_of(
                result, settings, next(network.parameters()).device
            ),
        }
    )


def threshold_of(result: TrainResult) -> float:
    """Threshold of membrane probability that was best on the validation set."""
    best = result.scores.get("threshold", 0.5)
    return round(min(max(best, 0.05), 0.95), 2)


def _data(images: Stack, sections: Sequence[int]) -> tuple[DataSet, ...]:
    if not sections:
        return ()
    return (DataSet(name=images.name, sections=", ".join(map(str, sections))),)


def training_of(
    result: TrainResult, settings: TrainSettings, device: torch.device
) -> TrainingRecord:
    """Say how a run went, for a card."""
    return TrainingRecord(
        hardware=_hardware(device),
        seconds=round(result.seconds, 1),
        steps=result.step,
        seed=settings.seed,
        date=date.today().isoformat(),
        settings=settings.model_dump(mode="json"),
        versions={
            "napari-emseg": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    )


def _hardware(device: torch.device) -> str:
    """Name the processor, and how many of its threads were used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows
    if info.is_file():
        lines = (line.partition(": ") for line in info.read_text().splitlines())
        model = next((v for k, _, v in lines if k.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} of {os.cpu_count()} threads"
