"""A picture and its cells in one OME-Zarr, as webKnossos and Neuroglancer like them."""

from __future__ import annotations

from collections.abc import Generator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_emseg.core.atomic import naming_full_disk
from napari_emseg.core.records import Provenance, Record, SectionDone
from napari_emseg.core.stack import LazyArray, Stack, as_stack
from napari_emseg.io.fingerprint import require_unchanged
from napari_emseg.io.formats import OutputFormat
from napari_emseg.io.ome_models import v04, v05
from napari_emseg.io.output import Output
from napari_emseg.io.zarr_sink import (
    create_v04,
    create_v05,
    describe_levels,
    fill,
    pyramid,
)


def iter_save_labelled(
    path: str | PathLike[str],
    image: Stack,
    cells: Stack | LazyArray,
    *,
    name: str = "cells",
    provenance: Provenance | None = None,
    overwrite: bool = False,
    format: OutputFormat = "zarr",  # noqa: A002 - the word for it
) -> Generator[Record, None, Path]:
    """Save an OME-Zarr whose image is `image`, and `labels/<name>` the cells.

    Yields SectionDone; the voxel size is the image's, or else the cells'.

    Parameters
    ----------
    cells
        Ids of the image's shape `(z, y, x)`.
    provenance
        Of the cells.
    format
        `zarr` (0.5) or `zarr-0.4`.

    Raises
    ------
    ValueError
        If shapes differ, cells are no whole numbers, or the format has no labels.
    OSError
        As `open_sink`; if a section can't be read.
    """
    labels = as_stack(cells)
    _check(image, labels, format)
    output = Output(Path(path).expanduser(), overwrite=overwrite)
    done = False
    try:
        with naming_full_disk(output.path):
            levels = _create(
                output, image, labels, name, provenance, older="0.4" in format
            )
        depth = image.shape[0]
        with require_unchanged(image, labels):
            for z in range(depth):
                picture, ids = image.section(z), labels.section(z)
                with naming_full_disk(output.path):
                    fill(levels[0], z, picture, ids=False)
                    fill(levels[1], z, ids, ids=True)
                yield SectionDone(z, z + 1, depth)
        with naming_full_disk(output.path):
            output.finish()
        done = True
    finally:
        if not done:
            output.give_up(keep=True)
    return output.path


def _check(image: Stack, labels: Stack, format: OutputFormat) -> None:  # noqa: A002
    if format not in ("zarr", "zarr-0.4"):
        msg = f"picture and cells in one file need zarr or zarr-0.4, not {format}"
        raise ValueError(msg)
    if image.shape != labels.shape:
        msg = f"{labels.name} is {labels.shape} (z, y, x), {image.name} {image.shape}"
        raise ValueError(msg)
    if labels.dtype.kind not in "iu":
        msg = f"{labels.name}: cells are whole numbers, not {labels.dtype}"
        raise ValueError(msg)


def _create(
    output: Output,
    image: Stack,
    labels: Stack,
    name: str,
    provenance: Provenance | None,
    *,
    older: bool,
) -> tuple[list[zarr.Array[Any]], list[zarr.Array[Any]]]:
    """Make the image, the group of labels and the cells; return their levels."""
    make = create_v04 if older else create_v05
    shapes = pyramid(image.shape)
    size = image.voxel_size_nm or labels.voxel_size_nm
    notes = {"emseg": provenance.model_dump()} if provenance else {}
    root = output.part
    at = image.origin_nm
    picture = describe_levels(shapes, size, output.path.name, centred=True, origin=at)
    pixels = make(root, picture, shapes, _plain(image.dtype), {})
    group = zarr.open_group(root / "labels", mode="w-", zarr_format=2 if older else 3)
    if older:
        group.attrs.update(v04.LabelsGroup(labels=[name]).model_dump(mode="json"))
    else:
        listed = v05.LabelsGroup(labels=[name]).model_dump(mode="json")
        group.attrs.update({"ome": listed})
    ids = v05.LabelImage.model_validate(
        {
            "multiscales": describe_levels(
                shapes, size, name, centred=False, origin=at
            ).multiscales,
            "image-label": {"source": {"image": "../../"}},
        }
    )
    return pixels, make(root / "labels" / name, ids, shapes, labels.dtype, notes)


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a type that every viewer takes; masks become bytes."""
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
