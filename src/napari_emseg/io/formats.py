"""The table of output formats: one truth for options, dialogs, napari and docs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from napari_emseg.core.records import Provenance
from napari_emseg.core.sinks import SectionSink
from napari_emseg.core.stack import Origin, VoxelSize

OutputFormat = Literal[
    "tiff", "fiji", "mrc", "hdf5", "zarr", "zarr-0.4", "neuroglancer"
]


NO_LIMIT = 2**64 - 1
"""The largest id there is."""


class SinkClass(Protocol):
    """What makes a sink of a format."""

    def __call__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        *,
        voxel_size_nm: VoxelSize | None,
        provenance: Provenance | None,
        overwrite: bool,
        origin_nm: Origin,
    ) -> SectionSink:
        """Open an output."""


@dataclass(frozen=True, slots=True)
class OutputKind:
    """A format that sections are written in.

    Parameters
    ----------
    name
        As in `--format`.
    title
        What people call it.
    opens_in
        Programs it is for.
    suffixes
        Endings of names; the first is proposed. Where formats share one, the first in
        the table is meant.
    dtypes
        Types it holds.
    sink
        `module:Class` in this package.
    cells_only
        It holds ids and no pictures.
    whole_ids
        The largest id it holds as a whole number.
    extra
        Package that it needs, and the project's extra that installs it.
    """

    name: OutputFormat
    title: str
    opens_in: str
    suffixes: tuple[str, ...]
    dtypes: tuple[str, ...]
    sink: str
    cells_only: bool = False
    whole_ids: int = NO_LIMIT
    extra: tuple[str, str] | None = None

    @property
    def words(self) -> str:
        """For a list to choose from: `ImageJ TIFF – Fiji, ImageJ`."""
        return f"{self.title} – {self.opens_in}"

    @property
    def missing(self) -> str:
        """What must be installed before it can be written; empty if nothing."""
        if self.extra is None or find_spec(self.extra[0]) is not None:
            return ""
        return f"{self.title} needs {self.extra[0]}: pip install {self.extra[1]}"

    def sink_class(self) -> SinkClass:
        """Load what writes it.

        Raises
        ------
        ValueError
            If a package that it needs isn't installed.
        """
        if self.missing:
            raise ValueError(self.missing)
        module, _, name = self.sink.partition(":")
        found: Callable[..., SectionSink] = getattr(
            import_module(f"napari_emseg.io.{module}"), name
        )
        return cast("SinkClass", found)


_INTEGERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32")
_ANY = ("bool", *_INTEGERS, "int64", "float16", "float32", "float64")

OUTPUT_KINDS: tuple[OutputKind, ...] = (
    OutputKind(
        "tiff",
        "TIFF",
        "nearly every program",
        (".tif", ".tiff"),
        (*_INTEGERS, "float32"),
        "tiff_sink:TiffSink",
    ),
    OutputKind(
        "fiji",
        "ImageJ TIFF",
        "Fiji, ImageJ",
        (".tif", ".tiff"),
        ("uint8", "uint16", "int16", "float32"),
        "tiff_sink:ImageJSink",
        whole_ids=2**16 - 1,
    ),
    OutputKind(
        "zarr",
        "OME-Zarr 0.5",
        "napari, webKnossos, Neuroglancer",
        (".zarr",),
        _ANY,
        "zarr_sink:ZarrSink",
    ),
    OutputKind(
        "zarr-0.4",
        "OME-Zarr 0.4",
        "webKnossos, Neuroglancer, older programs",
        (".zarr",),
        _ANY,
        "zarr_sink:Zarr04Sink",
    ),
    OutputKind(
        "mrc",
        "MRC",
        "IMOD",
        (".mrc", ".rec", ".st", ".map"),
        ("int8", "uint8", "int16", "uint16", "float32"),
        "mrc:MrcSink",
        whole_ids=2**16 - 1,
    ),
    OutputKind(
        "hdf5",
        "HDF5",
        "ilastik, Fiji, Python",
        (".h5", ".hdf5"),
        (*_INTEGERS, "float32", "float64"),
        "hdf5_sink:Hdf5Sink",
    ),
    OutputKind(
        "neuroglancer",
        "Neuroglancer precomputed",
        "Neuroglancer",
        (".precomputed",),
        ("uint32", "uint64"),
        "neuroglancer_sink:NeuroglancerSink",
        cells_only=True,
        extra=("tensorstore", "napari-emseg[neuroglancer]"),
    ),
)
"""In the order in which they are offered."""


def output_kind(name: OutputFormat) -> OutputKind:
    """Return the row of the table with this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    for kind in OUTPUT_KINDS:
        if kind.name == name:
            return kind
    known = ", ".join(kind.name for kind in OUTPUT_KINDS)
    msg = f"format must be one of {known}; got {name!r}"
    raise ValueError(msg)


def output_format(path: str | PathLike[str]) -> OutputFormat:
    """Return the format that an output's name stands for.

    Raises
    ------
    ValueError
        If it stands for none.
    """
    suffix = Path(path).suffix.lower()
    for kind in OUTPUT_KINDS:
        if suffix in kind.suffixes:
            return kind.name
    known = ", ".join(OUTPUT_SUFFIXES)
    msg = f"can't tell the format of {path} by its name; use one of {known}"
    raise ValueError(msg)


OUTPUT_SUFFIXES = tuple(dict.fromkeys(s for k in OUTPUT_KINDS for s in k.suffixes))
"""Endings of names that stand for a format."""
