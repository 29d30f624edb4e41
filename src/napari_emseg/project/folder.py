"""What a project's folder is made of: the names of its files, made and read."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from napari_emseg.core.atomic import atomic_folder, atomic_write, clear_leftovers
from napari_emseg.core.paths import path_inside, read_bounded, size_of_regular
from napari_emseg.io.errors import OtherFolderError, UnreadableError
from napari_emseg.models.weights import (
    SUFFIX,
    Weights,
    check_numbers,
    load_weights,
    read_weights,
)
from napari_emseg.project.journal import create_array, write
from napari_emseg.project.state import FORMAT, EditLine, ProjectInfo, ReviewState
from napari_emseg.proofreading.edits import Name
from napari_emseg.segmentation.edge_classifier import (
    EdgeClassifier,
    read_edges,
    save_edges,
)

M = TypeVar("M", bound=BaseModel)

PROJECT_SUFFIX = ".emseg"
INFO, REVIEW, EDITS = "project.json", "review.json", "edits.jsonl"
ARRAYS: dict[Name, tuple[str, str]] = {
    "cells": ("cells.zarr", "uint32"),
    "corrections": ("corrections.zarr", "uint8"),
}


SAVED = re.compile(
    r"project\.json|review\.json|edits\.jsonl"
    r"|(cells|corrections)\.zarr/c(/[0-9]{1,9}){3}"
)
"""Names of the files that a save changes."""

WRITTEN = (INFO, REVIEW, EDITS, "cells.zarr", "corrections.zarr", "weights")
"""What is in a folder that is written to; where one is a link, nothing is."""

MOST_BYTES = 2**28
"""Of `project.json`, `review.json`, and a line of `edits.jsonl`."""

BLOCK = 2**16
"""Bytes that are read at once where a file is read from its end."""


def named(path: Path | str) -> Path:
    """Return the folder of a project: the name ends in `.emseg`."""
    path = Path(path)
    if path.suffix == PROJECT_SUFFIX:
        return path
    return path.with_name(f"{path.name}{PROJECT_SUFFIX}")


def is_project(path: Path | str) -> bool:
    """Tell a project's folder by its name, or by what is in it."""
    folder = Path(path).expanduser()
    named_so = folder.suffix == PROJECT_SUFFIX
    return folder.is_dir() and (named_so or (folder / INFO).is_file())


def create_folder(path: Path, info: ProjectInfo) -> None:
    """Make the folder of an empty project; it appears when it is whole.

    Raises
    ------
    ValueError
        If its name doesn't end in `.emseg`.
    FileExistsError, FileNotFoundError, PermissionError
        If there is something already, or the folder around can't be written to.
    """
    if path.suffix != PROJECT_SUFFIX:
        msg = f"the name of a project ends in .emseg, got {path.name}"
        raise ValueError(msg)
    if path.exists():
        msg = f"{path} exists already; open it, or choose another name"
        raise FileExistsError(msg)
    clear_leftovers(path)
    with atomic_folder(path) as part:
        write(part / INFO, as_json(info))
        for name, dtype in ARRAYS.values():
            create_array(part / name, info.source.shape, dtype)
        (part / "weights").mkdir()
        write(part / REVIEW, as_json(ReviewState()))
        write(part / EDITS, b"")


def read_info(folder: Path) -> ProjectInfo:
    """Read `project.json`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    UnreadableError
        If it is no project, damaged, or of a later program.
    """
    if not folder.is_dir():
        msg = f"no such project: {folder}"
        raise FileNotFoundError(msg)
    if not (folder / INFO).exists():
        msg = f"{folder} is no project: it has no {INFO}"
        raise OtherFolderError(msg)
    info = parsed(folder / INFO, ProjectInfo)
    if info.format > FORMAT:
        msg = (
            f"{folder} was made by a later version ({info.version}); "
            f"update napari-emseg to open it"
        )
        raise UnreadableError(msg)
    return info


def read_edits(folder: Path) -> tuple[EditLine, ...]:
    """Return what was done, in its order; a line that was cut short is left out."""
    path = folder / EDITS
    return tuple(_valid(EditLine, line, path) for line in _lines(path))


def whole_lines(path: Path) -> int:
    """Return how many bytes of a file end in a whole line."""
    if not path.exists():
        return 0
    end = size_of_regular(path)
    with path.open("rb") as file:
        # from the end: the file may be long, and only its last line can be broken
        while end > 0:
            begin = max(0, end - BLOCK)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0


def _lines(path: Path) -> Iterator[bytes]:
    """Yield whole lines of a file.

    Raises
    ------
    UnreadableError
        If it is missing, or a line has no end.
    """
    if not path.exists():
        msg = f"{path} is missing"
        raise UnreadableError(msg)
    size_of_regular(path)
    with path.open("rb") as file:
        while (line := file.readline(MOST_BYTES)).endswith(b"\n"):
            yield line
        # `readline` gave up there; a shorter rest without line end is what a crash left
        if len(line) == MOST_BYTES:
            msg = f"{path} is damaged: a line of more than {MOST_BYTES} bytes"
            raise UnreadableError(msg)


def as_json(model: BaseModel) -> bytes:
    """Return the content of a file."""
    return (json.dumps(model.model_dump(mode="json"), indent=1) + "\n").encode()


def parsed(path: Path, model: type[M]) -> M:
    """Read a file.

    Raises
    ------
    UnreadableError
        If it is missing or damaged.
    """
    try:
        content = read_bounded(path, MOST_BYTES)
    except FileNotFoundError as e:
        msg = f"{path} is missing"
        raise UnreadableError(msg) from e
    return _valid(model, content, path)


def _valid(model: type[M], content: bytes, path: Path) -> M:
    """Read an object from a file.

    Raises
    ------
    UnreadableError
        If it is damaged, or has values that can't be; with the first of them.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        why = " ".join(first["msg"].removeprefix("Value error, ").split())
        msg = f"{path} is damaged: {where + ': ' if where else ''}{why}"
        raise UnreadableError(msg[:500]) from e


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


def keep_edges(project: Path, edges: EdgeClassifier) -> None:
    """Write a classifier of edges into a project's folder, unless it is there.

    Raises
    ------
    OSError
        If it can't be written.
    """
    path = edges_path(project, edges.sha256)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        save_edges(edges, path)


def kept_edges(project: Path, sha256: str) -> EdgeClassifier:
    """Read a classifier of edges that a project keeps.

    Raises
    ------
    OSError
        If it can't be read.
    ValueError
        If it is damaged.
    """
    path = edges_path(project, sha256)
    found = read_edges(path)
    if found.sha256 != sha256:
        msg = f"{path} is damaged: its checksum is another one"
        raise ValueError(msg)
    return found


def edges_path(project: Path, sha256: str) -> Path:
    """Return where a project keeps a classifier of edges."""
    return path_inside(project, f"{FOLDER}/edges-{sha256[:16]}.json")


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
        # depth first: a parent is placed before its
        # children; checksums can't form a circle
        if parent is not None and parent.sha256 not in ordered and parent != weights:
            place(parent)
        ordered[weights.sha256] = weights

    for weights in found.values():
        place(weights)
    return tuple(ordered.values())
