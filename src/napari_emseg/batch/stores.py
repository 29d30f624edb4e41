"""Arrays of an input under way: made once, then published under their final names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from napari_emseg.batch.completion_log import CompletionLog, stamp
from napari_emseg.batch.context import (
    CELLS,
    EMPTY,
    PLACES,
    PROFILES,
    Context,
)
from napari_emseg.core.atomic import atomic_write, remove_tree
from napari_emseg.core.records import Provenance
from napari_emseg.io.zarr_sink import CHUNK, create_v05, describe_levels, pyramid

SCRATCH = {PROFILES: "uint32", PLACES: "uint64", EMPTY: "bool"}


def make_scratch(
    context: Context, ledger: CompletionLog, base: str, *names: str
) -> None:
    """Make arrays that only the batch itself reads, unless they are there."""
    for name in names:
        if _is_made(context, ledger, base, name):
            continue
        zarr.create_array(
            context.path(name),
            shape=context.size,
            dtype=SCRATCH[name],
            chunks=_chunks(context),
            fill_value=0,
        )
        ledger.record(stamp(base, "made", name), {})


def make_result(
    context: Context,
    ledger: CompletionLog,
    base: str,
    name: str,
    dtype: str,
    provenance: Provenance,
) -> None:
    """Make the OME-Zarr of a result, unless it is there."""
    if _is_made(context, ledger, base, name):
        return
    shapes = pyramid(context.size)
    image = describe_levels(
        shapes,
        context.voxel_size_nm,
        context.given.name,
        centred=name != CELLS,
        origin=context.origin_nm,
    )
    notes = {"emseg": provenance.model_dump(mode="json")}
    create_v05(context.path(name), image, shapes, np.dtype(dtype), notes)
    ledger.record(stamp(base, "made", name), {})


def note_failures(path: Path, warnings: tuple[str, ...]) -> None:
    """Say in a result what is missing in it."""
    group = zarr.open_group(path, mode="r+")
    made = Provenance.model_validate(group.attrs["emseg"])
    settings = {k: v for k, v in made.settings.items() if k != "missing"}
    if warnings:
        settings["missing"] = list(warnings)
    told = made.model_copy(update={"settings": settings})
    group.attrs["emseg"] = told.model_dump(mode="json")


def _is_made(context: Context, ledger: CompletionLog, base: str, name: str) -> bool:
    path = context.path(name)
    if os.path.lexists(path):
        if stamp(base, "made", name) in ledger and _opens(context, name):
            return True
        remove_tree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return False


def _opens(context: Context, name: str) -> bool:
    """Tell if the notes of an array are whole; its chunks are looked at by parts."""
    try:
        context.array(name)
        if (context.path(name) / "0").exists():
            context.levels(name)
            zarr.open_group(context.path(name), mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _chunks(context: Context) -> tuple[int, int, int]:
    return 1, min(CHUNK, context.shape[0]), min(CHUNK, context.shape[1])


Table = dict[str, NDArray[Any]]


def keep(path: Path, table: Table) -> None:
    """Write a table, instead of what may be there.

    Raises
    ------
    OSError
        If it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **table)


def read(path: Path) -> Table:
    """Read a table.

    Raises
    ------
    OSError
        If it isn't there.
    """
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
