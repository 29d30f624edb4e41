"""Arrays of an input under way: made once, then published under their final names."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from napari_emseg.batch.completion_log import Facts, stamp
from napari_emseg.batch.context import Context, Part
from napari_emseg.batch.step import StepResult
from napari_emseg.batch.tasks import TaskBuilder
from napari_emseg.core.atomic import atomic_write, remove_tree
from napari_emseg.core.records import Provenance, drain
from napari_emseg.io import open_stack
from napari_emseg.io.formats import OutputFormat
from napari_emseg.io.writing import iter_save
from napari_emseg.io.zarr_sink import CHUNK, create_v05, describe_levels, half, pyramid


def make_scratch(course: TaskBuilder, name: str, dtype: str, more: int = 0) -> None:
    """Make an array that only the batch itself reads, unless it is there.

    Parameters
    ----------
    more
        Sections beside those of the results.
    """
    context = course.context
    if _is_made(course, name):
        return
    zarr.create_array(
        context.path(name),
        shape=(len(context.sections) + more, *context.shape),
        dtype=dtype,
        chunks=_chunks(context),
        fill_value=0,
    )
    course.ledger.record(stamp(course.base, "made", name), {})


def make_result(
    course: TaskBuilder, result: StepResult, dtype: str, provenance: Provenance
) -> None:
    """Make the OME-Zarr of a result, unless it is there."""
    context, name = course.context, result.name
    if _is_made(course, name):
        return
    shapes = pyramid(context.size)
    image = describe_levels(
        shapes,
        context.voxel_size_nm,
        context.given.name,
        centred=not result.ids,
        origin=context.origin_nm,
    )
    notes = {"emseg": provenance.model_dump(mode="json")}
    create_v05(context.path(name), image, shapes, np.dtype(dtype), notes)
    course.ledger.record(stamp(course.base, "made", name), {})


def complete_provenance(
    path: Path, warnings: tuple[str, ...], versions: tuple[str, ...]
) -> None:
    """Say in a result what is missing in it, and which versions made it."""
    group = zarr.open_group(path, mode="r+")
    made = Provenance.model_validate(group.attrs["emseg"])
    settings = {k: v for k, v in made.settings.items() if k != "missing"}
    if warnings:
        settings["missing"] = list(warnings)
    version = ", ".join(versions) or made.version
    told = made.model_copy(update={"settings": settings, "version": version})
    group.attrs["emseg"] = told.model_dump(mode="json")


def note_settings(path: Path, changes: dict[str, Any]) -> None:
    """Say in a result of which settings more is known by now."""
    group = zarr.open_group(path, mode="r+")
    made = Provenance.model_validate(group.attrs["emseg"])
    told = made.model_copy(update={"settings": made.settings | changes})
    group.attrs["emseg"] = told.model_dump(mode="json")


def _is_made(course: TaskBuilder, name: str) -> bool:
    context = course.context
    path = context.path(name)
    if os.path.lexists(path):
        known = stamp(course.base, "made", name) in course.ledger
        if known and _opens(context, name):
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


IDS = "ids.npy"
"""The id of each profile of an input, section by section."""


def keep_ids(
    context: Context, ids: NDArray[np.unsignedinteger[Any]], first_id: int
) -> str:
    """Store ids that count from 1, from `first_id` on, in place; return their type.

    Raises
    ------
    OSError
        If they can't be written.
    """
    last = int(ids.max(initial=0))
    wide = np.uint64 if first_id + last > 2**32 else np.uint32
    ids = ids.astype(wide, copy=False)  # one of 360 million profiles takes 1.4 GB
    ids += wide(first_id - 1)
    keep_array(context.path(IDS), ids)
    return np.dtype(wide).name


def keep_array(path: Path, values: NDArray[Any]) -> None:
    """Write an array, instead of what may be there, to be mapped into memory.

    Raises
    ------
    OSError
        If it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        np.save(file, values)


def column(path: Path, name: str) -> NDArray[Any]:
    """Read one array of a table.

    Raises
    ------
    OSError
        If it isn't there.
    """
    with np.load(path, allow_pickle=False) as file:
        found: NDArray[Any] = file[name]
    return found


@dataclass(frozen=True, slots=True)
class Downsample:
    """Store a block of a scale level, from the level before it."""

    context: Context
    result: StepResult
    level: int
    part: Part

    def run(self) -> Facts:
        """Read, shrink and write."""
        levels = self.context.levels(self.result.name)
        before, here = levels[self.level - 1], levels[self.level]
        if self.part.area is None:
            msg = f"{self.part.words} is no block"
            raise ValueError(msg)
        rows, columns = self.part.area
        place, (height, width) = self.part.first, before.shape[1:]
        # squares of 2 × 2 px never cross the border of a block: it begins at twice a
        # pixel of the smaller copy
        values: NDArray[np.generic] = np.asarray(
            before[
                place,
                2 * rows.start : min(2 * rows.stop, height),
                2 * columns.start : min(2 * columns.stop, width),
            ]
        )
        small = values[::2, ::2] if self.result.ids else half(values)
        here[place, rows, columns] = small
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return self.context.chunks(
            self.result.name, self.part.places, self.part.area, self.level
        )


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Write a result in another format. Facts: `path`."""

    source: str
    target: str
    format: OutputFormat

    def run(self) -> Facts:
        """Write it beside its name, and rename it."""
        stack = open_stack(self.source)
        target = Path(self.target)
        from napari_emseg.core.records import Provenance

        drain(
            iter_save(
                target,
                stack,
                provenance=Provenance.of(stack),
                overwrite=True,
                format=self.format,
            )
        )
        return {"path": str(target)}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return []
