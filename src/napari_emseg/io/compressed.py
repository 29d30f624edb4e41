"""Files packed by gzip or bzip2: unpacked beside, then opened as what they are."""

import bz2
import gzip
import shutil
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.formats import recognise
from napari_emseg.io.scratch import clear_scratch, new_scratch
from napari_emseg.io.volumes import FileContents, Index, Volume

BLOCK = 2**20
"""Bytes that are unpacked at a time."""

MOST_RATIO = 250
"""Times that a file may grow: labels of few cells do so a hundred times."""

SMALL = 2**24
"""Bytes that any file may unpack to, whatever its own size."""

KEPT_FREE = 2**28
"""Bytes of the disk that are left to others."""


def contents(path: Path) -> FileContents:
    """List the volumes of the packed file.

    It is unpacked into the folder for temporary files, since sections can't be found in
    a packed stream, and removed with the last stack that reads from it.
    """
    clear_scratch()
    unpacked = _Unpacked(path)
    found = recognise(unpacked.path).contents(unpacked.path)
    return replace(found, volumes=tuple(_keep(v, unpacked) for v in found.volumes))


class _Unpacked:
    """A temporary copy that lasts as long as this object."""

    def __init__(self, path: Path) -> None:
        folder = new_scratch()
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = folder / path.stem
        try:
            _unpack(path, self.path)
        except BaseException:
            self._remove()
            raise


def _unpack(path: Path, target: Path) -> None:
    """Unpack a file, as long as it is a picture and of a size that can be meant.

    Raises
    ------
    UnreadableError
        If it is packed twice, grows more than `MOST_RATIO` times, or the disk is full.
    """
    with path.open("rb") as file:
        packed = bz2 if file.read(3) == b"BZh" else gzip
    size = path.stat().st_size
    room = max(0, shutil.disk_usage(target.parent).free - KEPT_FREE)
    # looked at while it grows: the size in a gzip's trailer
    # is modulo 2³² and may be a lie
    most = min(room, MOST_RATIO * size + SMALL)
    written = 0
    with packed.open(path, "rb") as source, target.open("wb") as file:
        while block := source.read(BLOCK):
            written += len(block)
            if written > most:
                why = f"grows to more than {MOST_RATIO} times its {size:,} bytes"
                if most == room:
                    why = f"needs more than the {room:,} bytes free in {target.parent}"
                msg = f"{why} when it is unpacked; unpack it yourself if that is right"
                raise UnreadableError(msg)
            file.write(block)
            if written == len(block):  # the first one says what it is
                file.flush()
                _refuse_packed_twice(target)


def _refuse_packed_twice(path: Path) -> None:
    if recognise(path).name == "compressed":
        msg = "is packed twice; unpack it once"
        raise UnreadableError(msg)


@dataclass(frozen=True)
class _ReadUnpacked:
    """Reads planes, and holds the copy that they are read from."""

    read: Callable[[Index], NDArray[Any]]
    unpacked: _Unpacked

    def __call__(self, index: Index) -> NDArray[Any]:
        return self.read(index)


def _keep(volume: Volume, unpacked: _Unpacked) -> Volume:
    levels = tuple(_keep(level, unpacked) for level in volume.levels)
    return replace(volume, read=_ReadUnpacked(volume.read, unpacked), levels=levels)
