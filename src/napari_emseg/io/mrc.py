"""MRC, REC, ST and MAP: read with their voxel size and origin, and written."""

import json
from dataclasses import dataclass, replace
from math import prod, sqrt
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import NOWHERE, Origin, VoxelSize
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.formats import SinkOptions
from napari_emseg.io.output import FileSink, Output
from napari_emseg.io.volumes import (
    FileContents,
    Index,
    RawPlanes,
    Volume,
    to_nm,
    voxel_size,
)

_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_NOT_READ = {3: "complex", 4: "complex", 101: "4-bit"}

SUFFIXES = (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali")

IMOD_STAMP = 1146047817
"""Says that IMOD's flags are to be believed."""

SIGNED_BYTES, ORIGIN_AS_STANDARD = 1, 4
"""IMOD's flags; without the second one its origins have the opposite sign."""

HEADER_BYTES = HEADER_DTYPE.itemsize

LABEL = "napari-emseg"
"""Begins the first label of files that we wrote; what was done to values follows."""

UPWARDS = "; rows from the bottom"
SHIFTED = "; bytes 128 less"


def contents(path: Path) -> FileContents:
    """Return the sections of an MRC file; old ones without a mark are read too."""
    header = _header(path)
    shape = tuple(int(header[n]) for n in ("nz", "ny", "nx"))
    start = HEADER_DTYPE.itemsize + int(header["nsymbt"])
    dtype = _dtype(path, header)
    planes = RawPlanes(path, start, dtype, shape, tail=2)
    read: RawPlanes | _Undone = planes
    labels = _labels(header)
    marks = labels[0] if labels and labels[0].startswith(LABEL) else ""
    if marks:
        shifted = SHIFTED in marks and dtype == np.int8
        dtype = np.dtype(np.uint8) if shifted else dtype
        read = _Undone(planes, upwards=UPWARDS in marks, shifted=shifted)
    size = _voxel_size(header)
    volume = Volume("ZYX", shape, dtype, read, size, part=read.part, chunk=planes.chunk)
    volume = replace(volume, origin_nm=_origin(header))
    return FileContents((volume,), provenance=_provenance(labels) if marks else None)


@dataclass(frozen=True)
class _Undone:
    """Reads sections as they were before we wrote them for IMOD."""

    planes: RawPlanes
    upwards: bool
    shifted: bool

    def __call__(self, index: Index) -> NDArray[Any]:
        return self.part(index, slice(None), slice(None))

    def part(self, index: Index, rows: slice, columns: slice) -> NDArray[Any]:
        """Read rows and columns of a section."""
        if self.upwards:
            height = self.planes.plane[0]
            first, stop, _ = rows.indices(height)
            # the same rows counted from the other end; turned round again below
            rows = slice(height - stop, height - first)
        values = self.planes.part(index, rows, columns)
        if self.shifted:
            # adding 128 modulo 256 is flipping the highest bit
            values = values.view(np.uint8) ^ np.uint8(0x80)
        return values[::-1] if self.upwards else values


def rows_run_upwards(source: str | None) -> bool:
    """Tell if a stack has its rows as IMOD stores them, the lowest first.

    Those of MRC files do, unless we turned them round.
    """
    if source is None or Path(source).suffix.lower() not in SUFFIXES:
        return False
    try:
        labels = _labels(_header(Path(source)))
    except OSError:
        return True  # it has gone, so its name must do
    return not (labels and labels[0].startswith(LABEL) and UPWARDS in labels[0])


def _labels(header: np.void) -> list[str]:
    """Return the lines of text in a header."""
    used = header["label"][: max(0, int(header["nlabl"]))]
    return [bytes(label).decode("ascii", "replace").strip("\0 ") for label in used]


def _provenance(labels: list[str]) -> Provenance | None:
    text = "".join(labels)
    try:
        return Provenance.model_validate(json.loads(text[text.index("{") :])["emseg"])
    except (ValueError, KeyError, TypeError, ValidationError):
        return None


def _header(path: Path) -> np.void:
    """Return the header in the byte order in which it makes sense.

    The machine stamp is not asked: many programs write a wrong one.
    """
    with path.open("rb") as file:
        raw = file.read(HEADER_DTYPE.itemsize)
    if len(raw) < HEADER_DTYPE.itemsize:
        msg = "is cut short, an MRC header has 1,024 bytes"
        raise UnreadableError(msg)
    # little-endian first; a header read in the wrong order has impossible lengths
    for order in "<>":
        header: np.void = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]
        shape = [int(header[n]) for n in ("nx", "ny", "nz")]
        known = int(header["mode"]) in (*_MODES, *_NOT_READ)
        if known and all(0 < n < 2**20 for n in shape) and header["nsymbt"] >= 0:
            return header
    msg = "is no MRC file, its header makes no sense"
    raise UnreadableError(msg)


def _dtype(path: Path, header: np.void) -> np.dtype[Any]:
    mode = int(header["mode"])
    if mode in _NOT_READ:
        msg = f"holds {_NOT_READ[mode]} values (MRC mode {mode})"
        raise UnreadableError(msg)
    if mode == 0 and _is_unsigned(header):
        return np.dtype("u1")
    return np.dtype(_order(header) + _MODES[mode])


def _order(header: np.void) -> str:
    return header.dtype["nx"].str[0]


def _is_unsigned(header: np.void) -> bool:
    """Tell bytes 0…255 from the standard's -128…127.

    IMOD says so in its flags; for others a maximum that int8 can't hold tells.
    """
    flags = _imod_flags(header)
    if flags is not None:
        return not flags & SIGNED_BYTES
    return float(header["dmax"]) > 127


def _imod_flags(header: np.void) -> int | None:
    """Return IMOD's flags; None in files of other programs."""
    extra = header["extra2"].tobytes()
    stamp, flags = np.frombuffer(extra[40:48], _order(header) + "i4")
    return int(flags) if stamp == IMOD_STAMP else None


def _origin(header: np.void) -> Origin:
    """Return `(z, y, x)` of the first voxel from the header, in Å there."""
    flags, found = _imod_flags(header), header["origin"]
    opposite = flags is not None and not flags & ORIGIN_AS_STANDARD
    z, y, x = (float(found[axis]) / (-10 if opposite else 10) for axis in "zyx")
    if not np.isfinite([z, y, x]).all():
        return NOWHERE
    return z + 0.0, y + 0.0, x + 0.0  # no -0


def _voxel_size(header: np.void) -> VoxelSize | None:
    """Return `(z, y, x)` as stored: the cell over its grid in Å, axes in any order."""
    cell, grid = header["cella"], [int(header[n]) for n in ("mx", "my", "mz")]
    sizes = [
        to_nm(float(cell[axis]) / n, "Å") if n > 0 else None
        for axis, n in zip("xyz", grid, strict=True)
    ]
    order = [int(header[n]) for n in ("maps", "mapr", "mapc")]
    if sorted(order) != [1, 2, 3]:
        order = [3, 2, 1]
    z, y, x = (sizes[axis - 1] for axis in order)
    return voxel_size(z, y, x)


_MODE_OF = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "uint16": 6}
LABEL_LENGTH, LABELS = 80, 10
LABELS_AT = 220
"""Byte of the header at which it says how many labels there are; they follow."""


class MrcSink(FileSink):
    """An MRC file whose sections are filled in any order.

    uint8 is stored as signed bytes, 128 less, which IMOD shows as 0…255. The first row
    of a section lies at the bottom in IMOD, so rows are turned round, unless the source
    is an MRC file and has them so already. Labels in the header say both, and our
    reader turns back. The origin is that of the first voxel as it is here, whichever
    way rows run.

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
    ) -> None:
        needed = HEADER_BYTES + prod(shape) * dtype.itemsize
        output = Output(path, overwrite=options.overwrite, bytes_needed=needed)
        made = options.provenance
        super().__init__(output, shape, dtype, made)
        self._size = options.voxel_size_nm
        self._flip = not (made and rows_run_upwards(made.source))
        self._values = _Statistics()
        stored = np.dtype(np.int8) if dtype.name == "uint8" else dtype
        labels = self._labels(options.voxel_size_nm, made)
        with output.beginning() as part:
            _lay_out(part, shape, stored, options, labels)
            self._file = part.open("r+b")

    def _labels(self, size: VoxelSize | None, made: Provenance | None) -> list[str]:
        marks = UPWARDS * self._flip + SHIFTED * (self.dtype.name == "uint8")
        labels = [f"{LABEL}{marks}"]
        if size is None:
            labels.append("voxel size unknown")
        elif size[0] is None:
            labels.append("distance of sections unknown")
        return labels + _provenance_labels(made, LABELS - len(labels))

    def _store(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        values = section.astype(self.dtype, copy=False)
        if self.dtype.name == "uint8":
            values = (values ^ 0x80).view(np.int8)  # 128 less
        if self._flip:
            values = values[::-1]
        size = prod(self.shape[1:]) * self.dtype.itemsize
        self._file.seek(HEADER_BYTES + z * size)
        self._file.write(np.ascontiguousarray(values).data)
        self._values.add(values)

    def _tell(self, made: Provenance) -> None:
        labels = [s.encode("ascii", "replace") for s in self._labels(self._size, made)]
        self._file.seek(LABELS_AT)
        self._file.write(np.int32(len(labels)).tobytes())
        text = b"".join(label.ljust(LABEL_LENGTH, b"\0") for label in labels)
        self._file.write(text.ljust(LABELS * LABEL_LENGTH, b"\0"))

    def _let_go(self, *, keep: bool) -> None:
        self._file.close()
        if keep:
            self._values.write(self._output.part)


class _Statistics:
    """Range, mean and deviation of stored values; IMOD takes its contrast from them."""

    def __init__(self) -> None:
        self._n = 0
        self._sum = self._squares = 0.0
        self._low, self._high = np.inf, -np.inf

    def add(self, values: NDArray[Any]) -> None:
        """Take in a section; NaN counts for nothing."""
        known = values[np.isfinite(values)].astype(np.float64)
        if not known.size:
            return
        self._n += known.size
        self._sum += float(known.sum())
        self._squares += float(np.square(known).sum())
        self._low = min(self._low, float(known.min()))
        self._high = max(self._high, float(known.max()))

    def write(self, path: Path) -> None:
        """Write them into the header."""
        if not self._n:
            return
        mean = self._sum / self._n
        # rounding may leave a little below 0 where all values are equal
        deviation = sqrt(max(self._squares / self._n - mean**2, 0.0))
        with mrcfile.mmap(path, "r+", permissive=True) as mrc:
            mrc.header.dmin, mrc.header.dmax = self._low, self._high
            mrc.header.dmean, mrc.header.rms = mean, deviation


def _lay_out(
    path: Path,
    shape: tuple[int, int, int],
    stored: np.dtype[Any],
    options: SinkOptions,
    labels: list[str],
) -> None:
    """Write the header, and make the file as long as it will be."""
    with path.open("xb") as file:  # mrcfile leaves it open where that can't be
        file.truncate(HEADER_BYTES + prod(shape) * stored.itemsize)
    mode = _MODE_OF[stored.name]
    with mrcfile.new_mmap(path, shape, mrc_mode=mode, overwrite=True) as mrc:
        mrc.set_volume()
        if (size := options.voxel_size_nm) is not None:
            z, y, x = (0.0 if length is None else 10 * length for length in size)
            mrc.voxel_size = (x, y, z)
        for axis, at in zip("zyx", options.origin_nm, strict=True):
            mrc.header.origin[axis] = 10 * at  # Å
        stamps = np.array([IMOD_STAMP, SIGNED_BYTES | ORIGIN_AS_STANDARD], "i4")
        extra = bytearray(mrc.header.extra2.tobytes())
        extra[40:48] = stamps.astype(mrc.header.nx.dtype).tobytes()
        mrc.header.extra2 = np.void(bytes(extra))
        mrc.header.label = b""
        for i, label in enumerate(labels):
            mrc.header.label[i] = label.encode("ascii", "replace")
        mrc.header.nlabl = len(labels)


def _provenance_labels(made: Provenance | None, room: int) -> list[str]:
    """Return the provenance as JSON over several labels; of a long one, the facts."""
    if made is None:
        return []
    for facts in (
        made.model_dump(exclude_defaults=True),
        made.model_dump(include={"kind", "weights", "threshold", "scale", "version"}),
        {"kind": made.kind, "scale": made.scale},
    ):
        # blanks at the ends of labels are lost, so there are none
        text = json.dumps({"emseg": facts}, separators=(",", ":"))
        text = text.replace(" ", "\\u0020")
        cut = range(0, len(text), LABEL_LENGTH)
        if len(cut) <= room:
            return [text[i : i + LABEL_LENGTH] for i in cut]
    return []
