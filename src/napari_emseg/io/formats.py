"""The tables of formats that are read and written, for options, dialogs and docs."""

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
from napari_emseg.core.stack import NOWHERE, Origin, VoxelSize
from napari_emseg.io.claims import check_regular
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.volumes import FileContents

NO_LIMIT = 2**64 - 1
"""The largest id there is."""


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """What is said of an output beside its values; see `open_sink`."""

    voxel_size_nm: VoxelSize | None = None
    provenance: Provenance | None = None
    overwrite: bool = False
    origin_nm: Origin = NOWHERE


SinkClass = Callable[
    [Path, tuple[int, int, int], np.dtype[Any], SinkOptions], SectionSink
]
"""What makes a sink of a format, of a type that the table says it holds."""


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

    def check_dtype(self, dtype: np.dtype[Any]) -> None:
        """Check that values of a type can be stored.

        Raises
        ------
        ValueError
            If not, with the formats that take them.
        """
        if dtype.name not in self.dtypes:
            takes = f"{self.title} output takes {', '.join(self.dtypes)}"
            msg = f"{takes}, got {dtype.name}; {self._way_out(dtype)}"
            raise ValueError(msg)

    def _way_out(self, dtype: np.dtype[Any]) -> str:
        """Say what takes this type: a format for the same program, if there is one."""
        others = [k for k in OUTPUT_KINDS if dtype.name in k.dtypes and k.membranes]
        if not others:
            return "convert the values"
        for program in self.opens_in.split(", "):
            if same := [k for k in others if program in k.opens_in.split(", ")]:
                return f"write {_listed(same)}, which {program} opens too"
        return f"write {_listed(others)}"

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
        found = getattr(import_module(f"napari_emseg.io.{module}"), name)
        return cast("SinkClass", found)


def _listed(kinds: list[OutputKind]) -> str:
    return " or ".join(f"{kind.title} ({kind.suffixes[0]})" for kind in kinds)


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
        name="zarr-3d",
        title="OME-Zarr 0.5 for 3-D",
        opens_in="as zarr, quick from the side",
        suffixes=(".zarr",),
        dtypes=_ANY,
        sink="zarr_sink:Zarr3dSink",
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


def output_format(
    path: str | PathLike[str], provenance: Provenance | None = None
) -> OutputFormat:
    """Return the format that an output's name stands for.

    Parameters
    ----------
    provenance
        Of what is to be written: cells that are linked through the stack are looked at
        from all sides, which `.zarr` then stands for.

    Raises
    ------
    ValueError
        If it stands for none.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".zarr" and _are_linked(provenance):
        return "zarr-3d"
    for kind in OUTPUT_KINDS:
        if suffix in kind.suffixes:
            return kind.name
    known = ", ".join(output_suffixes())
    msg = f"can't tell the format of {path} by its name; use one of {known}"
    raise ValueError(msg)


def _are_linked(provenance: Provenance | None) -> bool:
    """Tell if cells have one id through the stack."""
    if provenance is None or provenance.kind != "cells":
        return False
    made = provenance.settings.get("cells")
    return isinstance(made, dict) and made.get("link") is True


HEAD = 2056
"""Bytes from a file's start by which its format is known."""


class FormatModule(Protocol):
    """What a module such as `io.tiff` has; imported when such a file is opened."""

    def contents(self, path: Path) -> FileContents:
        """List the volumes of a file without reading their values."""


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file: its names, how its content is known, and who reads it."""

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[bytes], bool]
    module: str

    def contents(self, path: Path) -> FileContents:
        """List the volumes of a file without reading their values."""
        module = import_module(f"napari_emseg.io.{self.module}")
        return cast("FormatModule", module).contents(path)


def _begins(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


def _is_hdf5(head: bytes) -> bool:
    return any(head[at : at + 8] == b"\x89HDF\r\n\x1a\n" for at in (0, 512, 1024, 2048))


def _is_mrc(head: bytes) -> bool:
    return head[208:211] == b"MAP"


def _is_dm(head: bytes) -> bool:
    dm3 = head[:4] == b"\0\0\0\3" and head[8:12] in (b"\0\0\0\0", b"\0\0\0\1")
    dm4 = head[:4] == b"\0\0\0\4" and head[12:16] in (b"\0\0\0\0", b"\0\0\0\1")
    return dm3 or dm4


FORMATS: tuple[Format, ...] = (
    Format(
        "TIFF",
        (".tif", ".tiff"),
        _begins(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "tiff",
    ),
    Format(
        "picture",
        (".png", ".jpg", ".jpeg"),
        _begins(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"),
        "picture",
    ),
    Format("HDF5", (".h5", ".hdf5", ".hdf", ".he5", ".emd"), _is_hdf5, "hdf5"),
    Format("MRC", (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali"), _is_mrc, "mrc"),
    Format("DM", (".dm3", ".dm4"), _is_dm, "dm"),
    Format("npy", (".npy",), _begins(b"\x93NUMPY"), "npy"),
    Format("OME-Zarr", (".ozx", ".zarr.zip"), _begins(b"PK\3\4"), "omezarr"),
    Format("compressed", (".gz", ".bz2"), _begins(b"\x1f\x8b", b"BZh"), "compressed"),
)
ZARR = Format("OME-Zarr", (".zarr",), lambda head: False, "omezarr")
FOLDER = Format("folder", (), lambda head: False, "folder")

KINDS = ("TIFF", "PNG", "JPEG", "MRC", "DM3/DM4", "HDF5", "OME-Zarr", "npy")
SECTION_SUFFIXES = frozenset(
    s for f in FORMATS if f.module != "omezarr" for s in f.suffixes
)
"""Names of files that a folder of sections takes for sections."""
SUFFIXES = tuple(s for f in (*FORMATS, ZARR) for s in f.suffixes)
"""Names of files that `open_stack` reads, as a hint; the content decides."""


def recognise(path: Path) -> Format:
    """Return the format of an existing file or folder, by its content.

    Raises
    ------
    UnreadableError
        If it is empty, not what its name says, or of no known format.
    """
    check_regular(path)
    if path.is_dir():
        marks = (".zattrs", ".zgroup", ".zarray", "zarr.json")
        marked = any((path / mark).exists() for mark in marks)
        if marked or path.suffix.lower() in ZARR.suffixes:
            return ZARR
        _refuse_n5(path)
        return FOLDER
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        msg = "is empty (0 bytes)"
        raise UnreadableError(msg)
    for known in FORMATS:
        if known.recognises(head):
            return known
    return _by_name(path, head)


def _refuse_n5(folder: Path) -> None:
    """Refuse a folder that is N5, or lies in one."""
    notes = folder / "attributes.json"
    inside = any(place.suffix.lower() == ".n5" for place in (folder, *folder.parents))
    if not inside and notes.is_file():
        head = notes.read_bytes()[:HEAD]
        inside = b'"blockSize"' in head or b'"n5"' in head
    if inside:
        msg = (
            "is N5, which isn't read; Fiji opens it by File › Import › "
            "HDF5/N5/Zarr/OME-NGFF, and saves it as OME-Zarr or HDF5"
        )
        raise UnreadableError(msg)


def _by_name(path: Path, head: bytes) -> Format:
    """Return the format of a file that bears no mark: an old MRC, or an error."""
    suffix = path.suffix.lower()
    named = next((f for f in FORMATS if suffix in f.suffixes), None)
    if named is not None and named.name == "MRC":
        return named
    begins = f"it begins with {head[:8]!r}"
    if named is not None:
        msg = f"is no {named.name} file in spite of its name; {begins}"
    else:
        msg = f"is of no known format ({begins}); known are {', '.join(KINDS)}"
    raise UnreadableError(msg)
