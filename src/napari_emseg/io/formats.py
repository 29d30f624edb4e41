"""The table of output formats: one truth for options, dialogs, napari and docs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np

from napari_emseg.core.records import Provenance
from napari_emseg.core.sinks import SectionSink
from napari_emseg.core.stack import Origin, VoxelSize

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
    membranes, cells, voxel_size
        How it stores them, for the table in the docs; `membranes` is empty if it holds
        ids and no pictures.
    whole_ids
        The largest id it holds as a whole number.
    holds_both
        A picture and its cells may be in one output.
    needs_source
        The way of storing depends on the file that a stack comes from.
    readable
        This package can open it again.
    extra
        Package that it needs, and the project's extra that installs it.
    """

    name: str
    title: str
    opens_in: str
    suffixes: tuple[str, ...]
    dtypes: tuple[str, ...]
    sink: str
    membranes: str
    cells: str
    voxel_size: str
    whole_ids: int = NO_LIMIT
    holds_both: bool = False
    needs_source: bool = False
    readable: bool = True
    extra: tuple[str, str] | None = None

    @property
    def cells_only(self) -> bool:
        """True if it holds ids and no pictures."""
        return not self.membranes

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

OUTPUT_KINDS = [
    OutputKind(
        name="tiff",
        title="TIFF",
        opens_in="nearly every program",
        suffixes=(".tif", ".tiff"),
        dtypes=(*_INTEGERS, "float32"),
        sink="tiff_sink:TiffSink",
        membranes="8 to 64 bit, float",
        cells="32 and 64 bit",
        voxel_size="ImageJ's, in nm",
    ),
    OutputKind(
        name="fiji",
        title="ImageJ TIFF",
        opens_in="Fiji, ImageJ",
        suffixes=(".tif", ".tiff"),
        dtypes=("uint8", "uint16", "int16", "float32"),
        sink="tiff_sink:ImageJSink",
        membranes="float, or 8 bit",
        cells="16 bit, up to id 65,535",
        voxel_size="ImageJ's, in nm",
        whole_ids=2**16 - 1,
    ),
    OutputKind(
        name="zarr",
        title="OME-Zarr 0.5",
        opens_in="napari, webKnossos, Neuroglancer",
        suffixes=(".zarr",),
        dtypes=_ANY,
        sink="zarr_sink:ZarrSink",
        membranes="any",
        cells="any",
        voxel_size="scale, in nm",
        holds_both=True,
    ),
    OutputKind(
        name="zarr-0.4",
        title="OME-Zarr 0.4",
        opens_in="webKnossos, Neuroglancer, older programs",
        suffixes=(".zarr",),
        dtypes=_ANY,
        sink="zarr_sink:Zarr04Sink",
        membranes="any",
        cells="any",
        voxel_size="scale, in nm",
        holds_both=True,
    ),
    OutputKind(
        name="mrc",
        title="MRC",
        opens_in="IMOD",
        suffixes=(".mrc", ".rec", ".st", ".map"),
        dtypes=("int8", "uint8", "int16", "uint16", "float32"),
        sink="mrc:MrcSink",
        membranes="float, or 8 bit",
        cells="16 bit, up to id 65,535",
        voxel_size="header, in Å",
        whole_ids=2**16 - 1,
        needs_source=True,
    ),
    OutputKind(
        name="hdf5",
        title="HDF5",
        opens_in="ilastik, Fiji, Python",
        suffixes=(".h5", ".hdf5"),
        dtypes=(*_INTEGERS, "float32", "float64"),
        sink="hdf5_sink:Hdf5Sink",
        membranes="any",
        cells="any",
        voxel_size="`element_size_um`, `resolution`",
    ),
    OutputKind(
        name="neuroglancer",
        title="Neuroglancer precomputed",
        opens_in="Neuroglancer",
        suffixes=(".precomputed",),
        dtypes=("uint32", "uint64"),
        sink="neuroglancer_sink:NeuroglancerSink",
        membranes="",
        cells="32 and 64 bit",
        voxel_size="in nm, needed",
        readable=False,
        extra=("tensorstore", "napari-emseg[neuroglancer]"),
    ),
]
"""In the order in which they are offered; a line here is all that a format needs."""

if TYPE_CHECKING:
    OutputFormat = str
else:  # so that the command line and settings list them
    OutputFormat = Literal[tuple(kind.name for kind in OUTPUT_KINDS)]


def output_suffixes(*, cells: bool = True) -> tuple[str, ...]:
    """Return the endings of names that stand for a format.

    Parameters
    ----------
    cells
        Of cells; else those that pictures can be written in.
    """
    kinds = (kind for kind in OUTPUT_KINDS if cells or not kind.cells_only)
    return tuple(dict.fromkeys(s for kind in kinds for s in kind.suffixes))


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
    known = ", ".join(output_suffixes())
    msg = f"can't tell the format of {path} by its name; use one of {known}"
    raise ValueError(msg)
