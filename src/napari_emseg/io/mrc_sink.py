"""Write sections into an MRC file as IMOD reads it: Å, signed bytes, rows upwards."""

from __future__ import annotations

import json
from math import prod, sqrt
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import NOWHERE, Origin, VoxelSize
from napari_emseg.io.file_sink import FileSink
from napari_emseg.io.mrc import (
    HEADER_BYTES,
    IMOD_STAMP,
    LABEL,
    ORIGIN_AS_STANDARD,
    SHIFTED,
    SIGNED_BYTES,
    UPWARDS,
    rows_run_upwards,
)
from napari_emseg.io.output import Output

_MODE_OF = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "uint16": 6}
LABEL_LENGTH, LABELS = 80, 10


class MrcSink(FileSink):
    """An MRC file whose sections are filled in any order.

    uint8 is stored as signed bytes, 128 less, which IMOD shows as 0…255. The first row
    of a section lies at the bottom in IMOD, so rows are turned round, unless the source
    is an MRC file and has them so already. Labels in the header say both, and our
    reader turns back. The origin is that of the first voxel as it is here, whichever
    way rows run.

    Raises
    ------
    ValueError
        If the dtype can't be written.
    OSError
        As `Output`.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        *,
        voxel_size_nm: VoxelSize | None,
        provenance: Provenance | None,
        overwrite: bool = False,
        origin_nm: Origin = NOWHERE,
    ) -> None:
        if dtype.name not in _MODE_OF:
            msg = f"MRC output takes {', '.join(_MODE_OF)}, got {dtype}"
            raise ValueError(msg)
        needed = HEADER_BYTES + prod(shape) * dtype.itemsize
        output = Output(path, overwrite=overwrite, bytes_needed=needed)
        super().__init__(output, shape, dtype)
        self._flip = not (provenance and rows_run_upwards(provenance.source))
        self._values = _Statistics()
        stored = np.dtype(np.int8) if dtype.name == "uint8" else dtype
        labels = self._labels(voxel_size_nm, provenance)
        with output.beginning() as part:
            _lay_out(part, shape, stored, voxel_size_nm, origin_nm, labels)
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
        deviation = sqrt(max(self._squares / self._n - mean**2, 0.0))
        with mrcfile.mmap(path, "r+", permissive=True) as mrc:
            mrc.header.dmin, mrc.header.dmax = self._low, self._high
            mrc.header.dmean, mrc.header.rms = mean, deviation


def _lay_out(
    path: Path,
    shape: tuple[int, int, int],
    stored: np.dtype[Any],
    size: VoxelSize | None,
    origin: Origin,
    labels: list[str],
) -> None:
    """Write the header, and make the file as long as it will be."""
    with path.open("xb") as file:  # mrcfile leaves it open where that can't be
        file.truncate(HEADER_BYTES + prod(shape) * stored.itemsize)
    mode = _MODE_OF[stored.name]
    with mrcfile.new_mmap(path, shape, mrc_mode=mode, overwrite=True) as mrc:
        mrc.set_volume()
        if size is not None:
            z, y, x = (0.0 if length is None else 10 * length for length in size)
            mrc.voxel_size = (x, y, z)
        for axis, at in zip("zyx", origin, strict=True):
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
