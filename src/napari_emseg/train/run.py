"""Images and labels in, a weights file with its card out: one training run."""

from __future__ import annotations

import platform
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from napari_emseg import __version__
from napari_emseg.core.card import Card, DataSet, Training
from napari_emseg.core.labels import Meaning
from napari_emseg.core.records import Note, Record
from napari_emseg.core.settings import Normalisation, TrainSettings
from napari_emseg.core.stack import Stack
from napari_emseg.models.forward import predict_picture
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import Network, build, network_class
from napari_emseg.train.dataset import Example, PatchSource, read_examples
from napari_emseg.train.trainer import Trainer, TrainResult
from napari_emseg.train.validation import isbi_validation
from napari_emseg.train.weightmap import INSIDE


@dataclass(frozen=True, slots=True)
class Split:
    """Which sections the network learns from, is chosen by, and is scored on."""

    training: tuple[int, ...]
    validation: tuple[int, ...] = ()
    held_out: tuple[int, ...] = ()


def split_sections(
    n: int,
    *,
    training: Sequence[int] | None = None,
    validation: Sequence[int] | None = None,
    held_out: Sequence[int] = (),
) -> Split:
    """Share out `n` sections.

    Parameters
    ----------
    training
        All that are in no other set by default.
    validation
        By default the last sixth of what isn't held out, none of fewer than three.

    Raises
    ------
    ValueError
        If a section is in two sets or doesn't exist, or none is left to learn from.
    """
    apart = set(held_out)
    left = [z for z in range(n) if z not in apart]
    if validation is None:
        validation = left[-max(1, len(left) // 6) :] if len(left) > 2 else []
        validation = [z for z in validation if z not in set(training or ())]
    apart |= set(validation)
    training = [z for z in left if z not in apart] if training is None else training
    split = Split(tuple(training), tuple(validation), tuple(held_out))
    _check(split, n)
    return split


def _check(split: Split, n: int) -> None:
    every = (*split.training, *split.validation, *split.held_out)
    outside = [z for z in every if not 0 <= z < n]
    if outside:
        msg = f"no section {outside[0]}; sections are 0..{n - 1}"
        raise ValueError(msg)
    twice = sorted(z for z in set(every) if every.count(z) > 1)
    if twice:
        msg = f"section {twice[0]} is in more than one of the three sets"
        raise ValueError(msg)
    if not split.training:
        msg = f"no section is left to learn from; there are {n}"
        raise ValueError(msg)


def train_weights(
    images: Stack,
    labels: Stack,
    output: Path,
    *,
    meaning: Meaning,
    split: Split,
    architecture: str = "unet",
    config: dict[str, Any] | None = None,
    settings: TrainSettings | None = None,
    device: torch.device | str = "cpu",
) -> Generator[Record, None, Weights]:
    """Train a network; yields what the trainer yields.

    A checkpoint lies beside `output` until the end; a run that was stopped goes on from
    it when called again in the same way.

    Parameters
    ----------
    images, labels
        `(z, y, x)` of one shape.
    output
        The weights file that is written at the end, with a card.
    meaning
        What the labels are.
    split
        Sections to learn from, to choose the best weights and the threshold by, and to
        score once, at the end.
    architecture, config
        Name of the network, and its configuration.
    device
        Where to train; `settings.device` has been resolved by the caller.

    Raises
    ------
    ValueError
        If images and labels don't match, labels hold no membrane, the architecture
        doesn't exist, or the checkpoint is of another run.
    """
    settings = settings or TrainSettings()
    device = torch.device(device)
    torch.manual_seed(settings.seed)
    network = build(architecture, config).to(device)
    training, validation = (
        _examples(images, labels, meaning, z)
        for z in (split.training, split.validation)
    )
    if not validation:
        yield Note("no sections to validate on: the last weights are taken")
    trim = cast("Network", network).geometry.trim
    trainer = Trainer(
        network,
        PatchSource(training, settings, n_classes=2, device=device, trim=trim),
        settings,
        validation=isbi_validation(validation) if validation else None,
        checkpoint=checkpoint_of(output),
    )
    result = yield from trainer.run()
    network.load_state_dict(result.state)
    network.eval()
    card = Card(
        name=output.stem,
        architecture=architecture,
        config=_full_config(architecture, config),
        pixel_size_nm=None
        if images.voxel_size_nm is None
        else images.voxel_size_nm[1:],
        normalisation=Normalisation(),
        threshold=_threshold(result),
        training_data=_data(images, split.training),
        validation_data=_data(images, split.validation),
        held_out_data=_data(images, split.held_out),
        scores=_scores(
            network, _examples(images, labels, meaning, split.held_out), result
        ),
        parameters=sum(p.numel() for p in network.parameters()),
        training=_how(result, settings, device),
    )
    weights = save_weights(output, result.state, card)
    checkpoint_of(output).unlink(missing_ok=True)
    return weights


def checkpoint_of(output: Path) -> Path:
    """Where an unfinished run is kept."""
    return output.with_name(f"{output.stem}.checkpoint")


def _examples(
    images: Stack, labels: Stack, meaning: Meaning, sections: Sequence[int]
) -> list[Example]:
    if not sections:
        return []
    return read_examples(images, labels, meaning, sections=sections)


def _full_config(architecture: str, config: dict[str, Any] | None) -> dict[str, Any]:
    """Return the configuration with its defaults, as numbers."""
    return network_class(architecture).Config(**(config or {})).model_dump(mode="json")


def _threshold(result: TrainResult) -> float:
    """Threshold of membrane probability that was best on the validation set."""
    best = result.scores.get("threshold", 0.5)
    return round(min(max(best, 0.05), 0.95), 2)


def _data(images: Stack, sections: Sequence[int]) -> tuple[DataSet, ...]:
    if not sections:
        return ()
    return (DataSet(name=images.name, sections=", ".join(map(str, sections))),)


def _scores(
    network: nn.Module, held_out: list[Example], result: TrainResult
) -> dict[str, float]:
    """Score once on the held-out sections; those of the validation are named so."""
    from napari_emseg.metrics import v_rand_v_info

    scores = {
        f"validation_{name}": value
        for name, value in result.scores.items()
        if name in ("v_rand", "v_info")
    }
    if held_out:
        inside = np.stack([predict_picture(network, e.image)[INSIDE] for e in held_out])
        truth = np.stack([e.target == INSIDE for e in held_out])
        found = v_rand_v_info(inside, truth)
        scores |= {"v_rand": found.v_rand, "v_info": found.v_info}
    return scores


def _how(
    result: TrainResult, settings: TrainSettings, device: torch.device
) -> Training:
    cpu = platform.processor() or platform.machine()
    return Training(
        hardware=torch.cuda.get_device_name() if device.type == "cuda" else cpu,
        seconds=round(result.seconds, 1),
        steps=result.step,
        seed=settings.seed,
        date=date.today().isoformat(),
        settings=settings.model_dump(mode="json"),
        versions={"napari-emseg": __version__, "torch": torch.__version__},
    )
