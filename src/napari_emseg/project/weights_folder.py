"""Weights that belong to a project, and from which each was made."""

from __future__ import annotations

import shutil
from pathlib import Path

from napari_emseg.core.atomic import atomic_write
from napari_emseg.core.paths import path_inside
from napari_emseg.io.errors import UnreadableError
from napari_emseg.models.weights import (
    SUFFIX,
    Weights,
    check_numbers,
    load_weights,
    read_weights,
)

FOLDER = "weights"


def keep_weights(project: Path, weights: Weights | str | Path) -> Weights:
    """Copy weights into a project's folder, and return them from there.

    The same weights are kept once; others of the same name get a number.

    Raises
    ------
    OSError
        If they can't be copied.
    ValueError
        If they hold NaN.
    """
    given = load_weights(weights)
    check_numbers(given.path)
    folder = path_inside(project, FOLDER)
    for known in shelved(project):
        if known.sha256 == given.sha256:
            return known
    stem, nth = given.path.stem, 1
    target = folder / f"{stem}{SUFFIX}"
    while target.exists():
        nth += 1
        target = folder / f"{stem}-{nth}{SUFFIX}"
    folder.mkdir(exist_ok=True)
    with given.path.open("rb") as source, atomic_write(target) as file:
        shutil.copyfileobj(source, file)
    return read_weights(target)


def shelved(project: Path) -> tuple[Weights, ...]:
    """Return all weights of a project, parents before their children.

    Files that are damaged are left out.
    """
    found: dict[str, Weights] = {}
    for path in sorted((project / FOLDER).glob(f"*{SUFFIX}")):
        try:
            weights = read_weights(path)
        except (UnreadableError, ValueError):
            continue
        found[weights.sha256] = weights
    ordered: dict[str, Weights] = {}

    def place(weights: Weights) -> None:
        parent = found.get(weights.card.parent_sha256 or "")
        if parent is not None and parent.sha256 not in ordered and parent != weights:
            place(parent)
        ordered[weights.sha256] = weights

    for weights in found.values():
        place(weights)
    return tuple(ordered.values())
