"""Open an output for sections, or save a whole stack; the name says the format."""

from __future__ import annotations  # zarr 3.1.2 has no Array[Any]

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from napari_emseg.core.atomic import naming_full_disk
from napari_emseg.core.records import Provenance, Record, SectionDone, drain
from napari_emseg.core.sinks import Kept, SectionSink, keep_finished
from napari_emseg.core.stack import (
    NOWHERE,
    LazyArray,
    Origin,
    Stack,
    VoxelSize,
    as_stack,
)
from napari_emseg.io.errors import IdsDontFitError
from napari_emseg.io.fingerprint import require_unchanged
from napari_emseg.io.formats import (
    OUTPUT_KINDS,
    OutputFormat,
    OutputKind,
    SinkOptions,
    output_format,
    output_kind,
)
from napari_emseg.io.output import FileSink, Output, check_output, waiting_path
from napari_emseg.io.reading import open_stack
from napari_emseg.io.stored import (
    BytesSink,
    Ids,
    are_probabilities,
    as_bytes,
    as_unsigned,
    checked_probabilities,
    coding,
    needs_coding,
    told_as_bytes,
    unsigned,
)
from napari_emseg.io.zarr_sink import (
    DEEP_CHUNK,
    WebknossosLayer,
    ZarrSink,
    create_v04,
    create_v05,
    describe_layers,
    describe_levels,
    fill,
    fitting_chunk,
    pyramid,
    v04,
    v05,
)

Stored = Literal["as is", "uint8"]
"""Probabilities as they are, or as bytes round(255 p)."""


def open_sink(
    path: str | PathLike[str],
    shape: tuple[int, int, int],
    dtype: np.dtype[Any] | type[np.generic] | str,
    *,
    voxel_size_nm: VoxelSize | None = None,
    provenance: Provenance | None = None,
    overwrite: bool = False,
    format: OutputFormat | None = None,  # noqa: A002 - the word for it
    ids: Ids = "keep",
    stored: Stored = "as is",
    origin_nm: Origin = NOWHERE,
) -> SectionSink:
    """Open an output that takes sections one by one, in any order.

    It is written under a private name beside, and renamed by `close`. Memory doesn't
    grow with the number of sections.

    Parameters
    ----------
    path
        Its ending says the format, unless `format` does.
    shape
        `(z, y, x)`.
    dtype
        Type of the values.
    voxel_size_nm
        `(z, y, x)`, written with its unit.
    provenance
        How the values came to be; `read_provenance` gives it back.
    overwrite
        Replace an existing output, once the new one is whole.
    format
        A name in `OUTPUT_KINDS`; if None by the path's ending, and for `.zarr` by the
        provenance: chunks of linked cells are made for views from the side.
    ids
        For cells in formats that hold small numbers only (`fiji`, `mrc`): `keep` them,
        `renumber` from 1, or store as `float`. All of them are known at the end only,
        so they wait in a TIFF beside, which stays if they don't fit.
    stored
        `uint8` stores probabilities as round(255 p), and says so in the provenance.
    origin_nm
        `(z, y, x)` of the first voxel; TIFF and Neuroglancer's don't keep it.

    Raises
    ------
    ValueError
        If name, shape or dtype won't do, or a package is missing.
    FileExistsError, FileNotFoundError, PermissionError, OSError
        If the output exists, its folder is missing or not writable, or too full.
    """
    kind = output_kind(format or output_format(path, provenance))
    if len(shape) != 3 or min(shape) < 1:
        msg = f"an output needs a non-empty (z, y, x) shape, got {shape}"
        raise ValueError(msg)
    place = Path(path).expanduser()
    size = int(shape[0]), int(shape[1]), int(shape[2])
    if stored == "uint8":
        _check_bytes(np.dtype(dtype), path)
        sink = open_sink(
            path,
            shape,
            np.uint8,
            voxel_size_nm=voxel_size_nm,
            provenance=told_as_bytes(provenance),
            overwrite=overwrite,
            format=kind.name,
            origin_nm=origin_nm,
        )
        return BytesSink(sink)
    options = SinkOptions(voxel_size_nm, provenance, overwrite, origin_nm)
    if needs_coding(kind, np.dtype(dtype)):
        return SpooledSink(place, size, np.dtype(dtype), options, kind, ids)
    kind.check_dtype(np.dtype(dtype))
    return kind.sink_class()(place, size, np.dtype(dtype), options)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What becomes of each section on its way into the file."""

    dtype: np.dtype[Any]
    convert: Callable[[int, NDArray[Any]], NDArray[Any]]
    provenance: Provenance | None


def iter_save(
    path: str | PathLike[str],
    data: Stack | LazyArray,
    *,
    voxel_size_nm: VoxelSize | None = None,
    provenance: Provenance | None = None,
    overwrite: bool = False,
    format: OutputFormat | None = None,  # noqa: A002 - the word for it
    ids: Ids = "keep",
    stored: Stored = "as is",
    on_kept: Callable[[Kept], object] | None = None,
) -> Generator[Record, None, Path]:
    """Save a stack or an array `(z, y, x)` section by section; return its path.

    Yields Progress while ids are looked at, and SectionDone. The stack's own voxel size
    is used where none is given; its origin is stored where a format has a word for it.

    Parameters
    ----------
    path, voxel_size_nm, provenance, overwrite, format, ids, stored
        As `open_sink`.
    on_kept
        Is told where finished sections are if the end isn't reached.

    Raises
    ------
    ValueError
        As `open_sink`; if ids don't fit, or probabilities leave [0, 1].
    OSError
        As `open_sink`; if a section can't be read.
    """
    stack = as_stack(data).with_voxel_size(voxel_size_nm)
    kind = output_kind(format or output_format(path, provenance))
    if provenance is None and stack.source is not None and kind.needs_source:
        provenance = Provenance(kind="em", source=stack.source)
    plan = yield from _planning(stack, kind, provenance, ids, stored)
    sink = open_sink(
        path,
        stack.shape,
        plan.dtype,
        voxel_size_nm=stack.voxel_size_nm,
        provenance=plan.provenance,
        overwrite=overwrite,
        format=kind.name,
        origin_nm=stack.origin_nm,
    )
    depth = stack.shape[0]
    # looked at before the sink closes: a file made of old and new sections gets no name
    with keep_finished(sink, on_kept) as counted, require_unchanged(stack):
        for z in range(depth):
            section = stack.section(z)
            try:
                values = plan.convert(z, section)
            except ValueError:
                sink.abort()  # a part of what can't be written is of no use
                raise
            counted.write(z, values)
            yield SectionDone(z, z + 1, depth)
    return Path(path).expanduser()


def _planning(
    stack: Stack,
    kind: OutputKind,
    provenance: Provenance | None,
    ids: Ids,
    stored: Stored,
) -> Generator[Record, None, _Plan]:
    """Find how values become what the format holds."""
    if needs_coding(kind, stack.dtype):
        code = yield from coding(stack.data, kind, ids)
        made = provenance
        if made is not None and ids != "keep":
            made = made.model_copy(update={"settings": made.settings | {"ids": ids}})
        return _Plan(code.dtype, lambda z, section: code(section), made)
    if stored == "uint8":
        return _bytes_plan(stack, provenance)
    if (dtype := unsigned(kind, stack.dtype)) != stack.dtype:
        return _Plan(dtype, lambda z, s: as_unsigned(s, z, dtype, kind), provenance)
    if are_probabilities(provenance, stack.dtype):

        def look(z: int, section: NDArray[Any]) -> NDArray[Any]:
            return checked_probabilities(section, z, may_be_unknown=True)

        return _Plan(stack.dtype, look, provenance)
    return _Plan(stack.dtype, lambda z, section: section, provenance)


def _bytes_plan(stack: Stack, provenance: Provenance | None) -> _Plan:
    _check_bytes(stack.dtype, stack.name)

    def convert(z: int, section: NDArray[Any]) -> NDArray[Any]:
        return as_bytes(checked_probabilities(section, z, may_be_unknown=False))

    return _Plan(np.dtype(np.uint8), convert, told_as_bytes(provenance))


def _check_bytes(dtype: np.dtype[Any], name: str | PathLike[str]) -> None:
    if dtype.kind != "f":
        msg = f"{name}: only probabilities (float) can become bytes, not {dtype}"
        raise ValueError(msg)


def save_stack(
    path: str | PathLike[str],
    data: Stack | LazyArray,
    *,
    voxel_size_nm: VoxelSize | None = None,
    provenance: Provenance | None = None,
    overwrite: bool = False,
    format: OutputFormat | None = None,  # noqa: A002 - the word for it
    ids: Ids = "keep",
    stored: Stored = "as is",
) -> Path:
    """Save a stack or an array `(z, y, x)`: `iter_save`, run to its end."""
    return drain(
        iter_save(
            path,
            data,
            voxel_size_nm=voxel_size_nm,
            provenance=provenance,
            overwrite=overwrite,
            format=format,
            ids=ids,
            stored=stored,
        )
    )


class SpooledSink(FileSink):
    """Takes ids of any size, and stores them in a format of small numbers when closed.

    Until then they lie in the part of `NAME.ids.tif`. If they don't fit they stay whole
    in `NAME.ids.tif`, since they may have taken hours to compute.

    Raises
    ------
    OSError
        As `Output`.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        options: SinkOptions,
        kind: OutputKind,
        ids: Ids,
    ) -> None:
        from napari_emseg.io.tiff_sink import TiffSink

        check_output(waiting_path(path), overwrite=options.overwrite)
        # refuses now what would be refused later
        output = Output(path, overwrite=options.overwrite)
        super().__init__(output, shape, dtype, options.provenance)
        self._path, self._kind, self._ids = path, kind, ids
        self._options = options
        wide = np.dtype(np.uint64 if dtype.itemsize == 8 else np.uint32)
        self._apart = TiffSink(waiting_path(path), shape, wide, options)

    def _tell(self, made: Provenance) -> None:
        self._options = replace(self._options, provenance=made)
        self._apart.note_settings(made.settings)

    def _store(self, z: int, section: NDArray[Any]) -> None:
        """Keep section `z`, `(y, x)`."""
        self._apart.write(z, section)

    def close(self) -> Path:
        """Store all of it, and return where the result is.

        Raises
        ------
        IdsDontFitError
            If the ids don't fit; it says where they are and what may be done.
        """
        if not self._open:
            return self._path
        apart = self._apart.close()
        self._open = False
        self._output.give_up(keep=False)
        work = iter_save(
            self._path,
            replace(open_stack(apart), origin_nm=self._options.origin_nm),
            voxel_size_nm=self._options.voxel_size_nm,
            provenance=self._options.provenance,
            overwrite=self._options.overwrite,
            format=self._kind.name,
            ids=self._ids,
        )
        try:
            written = drain(work)
        except IdsDontFitError as e:
            kept = apart, self._path, self._kind.name
            raise IdsDontFitError(e.fact, e.ways, kept) from e
        except ValueError as e:
            msg = f"{e}. They are whole in {apart}"
            raise ValueError(msg) from e
        except OSError as e:
            msg = f"{e.strerror or e}; they are whole in {apart}"
            raise type(e)(e.errno, msg) from e
        apart.unlink()
        return written

    def abort(self, *, keep: bool = False) -> Path | None:
        """Stop early; return the part that holds finished sections if it is kept."""
        if not self._open:
            return None
        self._open = False
        self._output.give_up(keep=False)
        return self._apart.abort(keep=keep)


def iter_save_labelled(
    path: str | PathLike[str],
    image: Stack,
    cells: Stack | LazyArray,
    *,
    name: str = "cells",
    provenance: Provenance | None = None,
    overwrite: bool = False,
    format: OutputFormat = "zarr",  # noqa: A002 - the word for it
    on_kept: Callable[[Kept], object] | None = None,
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
        `zarr` (0.5), `zarr-3d` or `zarr-0.4`.
    on_kept
        As `iter_save`.

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
    written, largest = 0, 0
    try:
        with naming_full_disk(output.path):
            levels = _create(output, image, labels, name, provenance, format)
        depth = image.shape[0]
        step = levels[0][0].chunks[0]
        with require_unchanged(image, labels):
            for first in range(0, depth, step):
                run = range(first, min(first + step, depth))
                pictures = np.stack([image.section(z) for z in run])
                ids = np.stack([labels.section(z) for z in run])
                with naming_full_disk(output.path):
                    fill(levels[0], first, pictures, ids=False)
                    fill(levels[1], first, ids, ids=True)
                largest = max(largest, int(ids.max()))
                for z in run:
                    written += 1
                    yield SectionDone(z, written, depth)
        with naming_full_disk(output.path):
            layers = [
                WebknossosLayer("image", "", levels[0]),
                WebknossosLayer(name, f"labels/{name}/", levels[1], largest),
            ]
            size = image.voxel_size_nm or labels.voxel_size_nm
            describe_layers(output, layers, size)
            output.finish()
    except BaseException:
        part = output.give_up(keep=written > 0)
        if part is not None and on_kept is not None:
            on_kept(Kept(part, written, image.shape[0]))
        raise
    return output.path


def _check(image: Stack, labels: Stack, format: OutputFormat) -> None:  # noqa: A002
    if not output_kind(format).holds_both:
        both = " or ".join(kind.name for kind in OUTPUT_KINDS if kind.holds_both)
        msg = f"picture and cells in one file need {both}, not {format}"
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
    format: OutputFormat,  # noqa: A002 - the word for it
) -> tuple[list[zarr.Array[Any]], list[zarr.Array[Any]]]:
    """Make the image, the group of labels and the cells; return their levels."""
    older = format == "zarr-0.4"
    make = create_v04 if older else create_v05
    most = DEEP_CHUNK if format == "zarr-3d" else ZarrSink.most
    widest = max(image.dtype.itemsize, labels.dtype.itemsize)
    chunk = fitting_chunk(most, image.shape, widest)
    shapes = pyramid(image.shape, chunk[1])
    size = image.voxel_size_nm or labels.voxel_size_nm
    notes = {"emseg": provenance.model_dump()} if provenance else {}
    root = output.part
    at = image.origin_nm
    picture = describe_levels(shapes, size, output.path.name, centred=True, origin=at)
    pixels = make(root, picture, shapes, _plain(image.dtype), {}, chunk)
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
    place = root / "labels" / name
    return pixels, make(place, ids, shapes, labels.dtype, notes, chunk)


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a type that every viewer takes; masks become bytes."""
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
