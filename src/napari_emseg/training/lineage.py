"""What a candidate's card says: parent, data, settings, scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from napari_emseg.core.card import Card, DataSet
from napari_emseg.core.regions import Region
from napari_emseg.training.card import training_of
from napari_emseg.training.holdout import rounds_of
from napari_emseg.training.model_comparison import Comparison
from napari_emseg.training.trainer import TrainResult
from napari_emseg.training.training_data import TrainingData


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
        **({"threshold": None} if result.step else {}),
    }
    variants = tuple(v.model_copy(update=gone) for v in about.variants)
    data = (*about.training_data, *_data_sets(lesson, lesson.learnt))
    return about.model_copy(
        update={
            "summary": f"{parent.name}, fine-tuned on {_names(lesson)}",
            "training_data": tuple(dict.fromkeys(data)),
            "validation_data": (),
            "held_out_data": _data_sets(lesson, lesson.held_out),
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
    lesson: TrainingData, regions: Sequence[Sequence[Region]]
) -> tuple[DataSet, ...]:
    return tuple(
        DataSet(name=known.stack.name, sections=_sections(part))
        for known, part in zip(lesson.sets, regions, strict=True)
        if part
    )


def _sections(regions: Sequence[Region]) -> str:
    sections = sorted({region.z for region in regions})
    return f"parts of {', '.join(map(str, sections))}"


def _rounds(lesson: TrainingData, parent: Card) -> dict[str, dict[str, list[Any]]]:
    """List what was learnt and what judged, by stack, this round and before."""
    found = {}
    parts = zip(lesson.sets, lesson.learnt, lesson.held_out, strict=True)
    for known, learnt, held_out in parts:
        before = rounds_of(parent, known.stack.name)
        found[known.stack.name] = {
            key: [list(r.as_tuple()) for r in dict.fromkeys((*old, *new))]
            for key, old, new in (
                ("learnt", before[0], learnt),
                ("held_out", before[1], held_out),
            )
        }
    return found
