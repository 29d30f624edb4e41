"""A finished training run in, what its weights' card says out."""

import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_emseg._installed import __version__
from napari_emseg.core.card import Card, DataSet, TrainingRecord
from napari_emseg.core.labels import format_sections
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import TrainSettings
from napari_emseg.models.zoo import network_class
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.holdout import rounds_of
from napari_emseg.training.measures import Comparison
from napari_emseg.training.trainer import TrainResult
from napari_emseg.training.training_data import TrainingData


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


def card_of_candidate(
    about: Card,
    result: TrainResult,
    lesson: TrainingData,
    device: torch.device,
    comparison: Comparison | None,
    *,
    parent: Card,
) -> Card:
    """Fill in what a round of learning knows.

    The parent's data stay named, since the candidate learnt from them too; its scores
    and the thresholds of its other ways go, since they are not the candidate's.
    """
    training = training_of(result, lesson.settings, device)
    rounds = {
        **parent.training.settings.get("corrections", {}),
        **_rounds(lesson, parent),
    }
    training = training.model_copy(
        update={"settings": {**training.settings, "corrections": rounds}}
    )
    gone: dict[str, Any] = {
        "scores": {},
        # thresholds of other ways were those of the parent's
        # numbers; without a step they still are
        **({"threshold": None} if result.step else {}),
    }
    variants = tuple(v.model_copy(update=gone) for v in about.variants)
    learnt = _data_sets(lesson, lesson.learnt, besides=lesson.held_out)
    data = (*about.training_data, *learnt)
    return about.model_copy(
        update={
            "summary": f"{parent.name}, fine-tuned on {_names(lesson)}",
            "training_data": tuple(dict.fromkeys(data)),
            "validation_data": (),
            "held_out_data": _data_sets(lesson, lesson.held_out, besides=lesson.learnt),
            "scores": {} if comparison is None else comparison.scores,
            "notes": (
                *about.notes,
                *_moved(parent, about),
                *_against(parent, comparison),
            ),
            "variants": variants,
            "training": training,
        }
    )


def _moved(parent: Card, about: Card) -> tuple[str, ...]:
    if about.threshold == parent.threshold:
        return ()
    before = f"{parent.threshold:g} of {parent.name}"
    return (f"membrane above {about.threshold:g}, by what was learnt, not {before}",)


def _against(parent: Card, comparison: Comparison | None) -> tuple[str, ...]:
    if comparison is None:
        return ("stopped before it was compared with its parent",)
    return (f"against {parent.name}: {comparison.words}",)


def _names(lesson: TrainingData) -> str:
    return ", ".join(dict.fromkeys(known.stack.name for known in lesson.sets))


def _data_sets(
    lesson: TrainingData,
    regions: Sequence[Sequence[Region]],
    *,
    besides: Sequence[Sequence[Region]],
) -> tuple[DataSet, ...]:
    """Name the sections of some regions of each set; others are in `besides`."""
    return tuple(
        DataSet(name=known.stack.name, sections=_sections(known, part, others))
        for known, part, others in zip(lesson.sets, regions, besides, strict=True)
        if part
    )


WHOLE = 0.97
"""Share of a section that is known if all of it was reviewed: gaps in walls aren't."""


def _sections(
    known: TrainingSet, regions: Sequence[Region], others: Sequence[Region]
) -> str:
    """Return `0-2`, `parts of 3, 5`, or both: a section is whole if all is known."""
    size = known.stack.shape[1], known.stack.shape[2]
    shared = {region.z for region in others}
    sections = {region.z for region in regions}
    whole = {
        z
        for z in sections - shared
        if np.mean(known.opinions.window(Region.whole(z, size)) > 0) > WHOLE
    }
    found = [_numbers(whole)] if whole else []
    if parts := sections - whole:
        found.append(f"parts of {_numbers(parts)}")
    return ", ".join(found)


def _numbers(sections: Collection[int]) -> str:
    return format_sections(sorted(sections)).split(maxsplit=1)[1]


def _rounds(lesson: TrainingData, parent: Card) -> dict[str, dict[str, list[Any]]]:
    """List what was learnt and what judged, by stack, this round and before."""
    found = {}
    parts = zip(lesson.sets, lesson.learnt, lesson.held_out, strict=True)
    for known, learnt, held_out in parts:
        before = rounds_of(parent, known.stack.name)
        found[known.stack.name] = {
            # all rounds so far, since a region that was learnt
            # once can never judge a descendant
            key: [list(r.as_tuple()) for r in dict.fromkeys((*old, *new))]
            for key, old, new in (
                ("learnt", before[0], learnt),
                ("held_out", before[1], held_out),
            )
        }
    return found
