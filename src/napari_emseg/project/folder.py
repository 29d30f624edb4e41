"""What a project's folder is made of: the names of its files, made and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from napari_emseg.core.atomic import atomic_folder, clear_leftovers
from napari_emseg.edit.edits import Name
from napari_emseg.io.errors import UnreadableError
from napari_emseg.project.chunks import create_array
from napari_emseg.project.journal import write
from napari_emseg.project.state import FORMAT, EditLine, ProjectInfo, ReviewState

M = TypeVar("M", bound=BaseModel)

SUFFIX = ".emseg"
INFO, REVIEW, EDITS = "project.json", "review.json", "edits.jsonl"
ARRAYS: dict[Name, tuple[str, str]] = {
    "cells": ("cells.zarr", "uint32"),
    "corrections": ("corrections.zarr", "uint8"),
}


def named(path: Path | str) -> Path:
    """Return the folder of a project: the name ends in `.emseg`."""
    path = Path(path)
    if path.suffix == SUFFIX:
        return path
    return path.with_name(f"{path.name}{SUFFIX}")


def create_folder(path: Path, info: ProjectInfo) -> None:
    """Make the folder of an empty project; it appears when it is whole.

    Raises
    ------
    ValueError
        If its name doesn't end in `.emseg`.
    FileExistsError, FileNotFoundError, PermissionError
        If there is something already, or the folder around can't be written to.
    """
    if path.suffix != SUFFIX:
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
        raise UnreadableError(msg)
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
    content = path.read_bytes()[: whole_lines(path)]
    try:
        return tuple(EditLine.model_validate_json(x) for x in content.splitlines())
    except ValidationError as e:
        msg = f"{path} is damaged: {e.errors()[0]['msg']}"
        raise UnreadableError(msg) from e


def whole_lines(path: Path) -> int:
    """Return how many bytes of a file end in a whole line."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


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
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError as e:
        msg = f"{path} is missing"
        raise UnreadableError(msg) from e
    except ValidationError as e:
        msg = f"{path} is damaged: {e.errors()[0]['msg']}"
        raise UnreadableError(msg) from e
