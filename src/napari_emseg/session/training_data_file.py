"""What a round learns from, on disk, so that it can go on in another sitting.

It lies beside the round's checkpoint. Stacks aren't copied: they are found again among
those that are open, by a few of their sections.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from napari_emseg.core.atomic import atomic_write, clear_leftovers
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import FinetuneSettings, NewWeightsSettings
from napari_emseg.project.source import compare_source, refer_to
from napari_emseg.project.state import SourceReference
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.sparse_labels import SparseIds, SparseLabels

ABOUT = "about"
"""Name of the array that holds all but the opinions, as JSON."""

Corners = tuple[int, int, int, int, int]


class _Set(BaseModel):
    """What is known of a stack, but for the opinions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stack: SourceReference
    reviewed: tuple[Corners, ...]
    excluded: frozenset[int]
    invert: bool
    partly: tuple[Corners, ...] = ()
    squares: tuple[Corners, ...]
    """In which there are opinions, in the order of the array `opinionsN`."""
    cells: tuple[tuple[int, int, int], ...] = ()
    """Squares in which cells are known through the stack, as the array `cellsN`."""
    through: tuple[Corners, ...] = ()


class _About(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    settings: FinetuneSettings | NewWeightsSettings
    names: tuple[str, ...]
    sets: tuple[_Set, ...]


def write_training_data(
    path: Path,
    sets: Sequence[TrainingSet],
    settings: FinetuneSettings | NewWeightsSettings,
    names: Sequence[str],
) -> None:
    """Write what a round learns from, as a whole or not at all.

    Parameters
    ----------
    names
        Of all classes, by code less one.

    Raises
    ------
    OSError
        If it can't be written, or a stack can't be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    about = _About(
        settings=settings,
        names=tuple(names),
        sets=tuple(_about(known, path.parent) for known in sets),
    )
    arrays: dict[str, NDArray[Any]] = {}
    arrays[ABOUT] = np.frombuffer(about.model_dump_json().encode(), np.uint8)
    for n, known in enumerate(sets):
        squares = [known.opinions.window(b).ravel() for b in known.opinions.blocks]
        arrays[_opinions(n)] = np.concatenate([np.zeros(0, np.uint8), *squares])
        if known.ids is not None:
            arrays[_cells(n)] = known.ids.as_array()
    clear_leftovers(path)
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_training_data(
    path: Path, stacks: Iterable[Stack]
) -> tuple[list[TrainingSet], FinetuneSettings | NewWeightsSettings, tuple[str, ...]]:
    """Read what a round learns from; reads some sections of the stacks.

    Parameters
    ----------
    stacks
        Among which those that were learnt from are looked for.

    Returns
    -------
    What is known of each stack, settings, and names of classes.

    Raises
    ------
    OSError
        If it can't be read.
    ValueError
        If it is damaged, or a stack isn't there.
    """
    about, opinions, ids = _read(path)
    here = list(stacks)
    sets = [
        TrainingSet(
            _found(known.stack, here),
            codes,
            tuple(Region(*corners) for corners in known.reviewed),
            known.excluded,
            known.invert,
            frozenset(Region(*corners) for corners in known.partly),
            ids=cells,
            through=tuple(Region(*corners) for corners in known.through),
        )
        for known, codes, cells in zip(about.sets, opinions, ids, strict=True)
    ]
    return sets, about.settings, about.names


def _read(
    path: Path,
) -> tuple[_About, list[SparseLabels], list[SparseIds | None]]:
    if not path.is_file():
        msg = "what was learnt from is not there any more"
        raise ValueError(msg)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = dict(found)
        about = _About.model_validate_json(arrays[ABOUT].tobytes())
        opinions = [
            _opinions_of(known, arrays[_opinions(n)])
            for n, known in enumerate(about.sets)
        ]
        ids = [
            SparseIds.of(known.stack.shape, known.cells, arrays[_cells(n)])
            if known.cells
            else None
            for n, known in enumerate(about.sets)
        ]
    except (BadZipFile, EOFError, KeyError, TypeError, ValueError, zlib.error) as e:
        msg = f"{path.name}, which holds what was learnt from, is damaged"
        raise ValueError(msg) from e
    return about, opinions, ids


def _opinions(n: int) -> str:
    return f"opinions{n}"


def _cells(n: int) -> str:
    return f"cells{n}"


def _about(known: TrainingSet, folder: Path) -> _Set:
    return _Set(
        stack=refer_to(known.stack, folder),
        reviewed=tuple(region.as_tuple() for region in known.reviewed),
        excluded=known.excluded,
        invert=known.invert,
        partly=tuple(sorted(region.as_tuple() for region in known.partly)),
        squares=tuple(square.as_tuple() for square in known.opinions.blocks),
        cells=() if known.ids is None else known.ids.blocks,
        through=tuple(square.as_tuple() for square in known.through),
    )


def _opinions_of(known: _Set, codes: NDArray[np.uint8]) -> SparseLabels:
    """Put squares back into their places.

    Raises
    ------
    ValueError
        If there are more or fewer codes than the squares have pixels.
    """
    opinions, at = SparseLabels(known.stack.shape), 0
    for square in (Region(*corners) for corners in known.squares):
        part = codes[at : at + square.pixels]
        opinions.put(square, part.reshape(square.shape))
        at += square.pixels
    if at != len(codes):
        msg = f"{len(codes)} codes for {at} px"
        raise ValueError(msg)
    return opinions


def _found(reference: SourceReference, stacks: Iterable[Stack]) -> Stack:
    """Return a stack as it was called and as large as its voxels were.

    Raises
    ------
    ValueError
        If it isn't there.
    """
    for stack in stacks:
        same = stack.shape == reference.shape
        if same and compare_source(reference, stack).state == "same":
            size = reference.voxel_size_nm
            return replace(stack, name=reference.name, voxel_size_nm=size)
    msg = f"{reference.name}, which was learnt from, is not open, or has changed"
    raise ValueError(msg)
