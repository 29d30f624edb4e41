"""Settings and weights that were chosen: into a project, and out of it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from napari_emseg.core.settings import Settings
from napari_emseg.models.weights import Weights, list_weights, own_folder
from napari_emseg.project import Project, ProjectInfo
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.session import Session

S = TypeVar("S", bound=Settings)

MACHINE = ("device", "runtime", "tile", "batch", "half_precision", "threads")
"""Settings that suit a machine, and not a stack."""


def settings_of(session: Session, hand: AnnotationEditor) -> dict[str, dict[str, Any]]:
    """Return the settings of each stage, as a project keeps them."""
    return {
        "predict": session.predict_settings.model_dump(
            mode="json", exclude=set(MACHINE)
        ),
        "cells": session.cell_settings.model_dump(mode="json"),
        "check": session.check_settings.model_dump(mode="json"),
        "correct": hand.settings.model_dump(mode="json"),
    }


def restore(
    session: Session, hand: AnnotationEditor, project: Project
) -> tuple[str, ...]:
    """Choose what was chosen when a project was closed; return what can't be."""
    info = project.info
    notes = []
    if info.weights is not None:
        weights = chosen_weights(info, project.lineage())
        if weights is None:
            notes.append(
                f"the weights {info.weights} that were used are not here; choose "
                f"others in 2 Membranes"
            )
        else:
            session.choose_weights(weights)
    known = info.settings
    session.choose_settings(_with(session.predict_settings, known.get("predict", {})))
    session.cell_settings = _with(session.cell_settings, known.get("cells", {}))
    session.check_settings = _with(session.check_settings, known.get("check", {}))
    hand.settings = _with(hand.settings, known.get("correct", {}))
    return tuple(notes)


def chosen_weights(info: ProjectInfo, shelf: Iterable[Weights]) -> Weights | None:
    """Return the weights that a project names: its own, or those of the program."""
    known = [*shelf, *list_weights(own_folder()).values()]
    same = (w for w in known if w.card.name == info.weights)
    return next((w for w in same if w.sha256 == info.weights_sha256), None)


def _with(settings: S, values: Mapping[str, Any]) -> S:
    """Return settings with other values; those that aren't known any more stay out."""
    for name, value in values.items():
        if name not in type(settings).model_fields:
            continue
        try:
            settings = type(settings).model_validate(
                settings.model_dump() | {name: value}
            )
        except ValidationError:
            continue
    return settings
