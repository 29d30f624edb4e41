"""Files packed by gzip or bzip2: unpacked beside, then opened as what they are."""

from __future__ import annotations

import bz2
import gzip
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_emseg.io.reading import recognise
from napari_emseg.io.volumes import Contents, Index, Volume


def contents(path: Path) -> Contents:
    """List the volumes of the packed file.

    It is unpacked into the folder for temporary files, since sections can't be found in
    a packed stream, and removed with the last stack that reads from it.
    """
    unpacked = _Unpacked(path)
    found = recognise(unpacked.path).contents(unpacked.path)
    return replace(found, volumes=tuple(_keep(v, unpacked) for v in found.volumes))


class _Unpacked:
    """A temporary copy that lasts as long as this object."""

    def __init__(self, path: Path) -> None:
        folder = tempfile.mkdtemp(prefix="emseg-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder) / path.stem
        with path.open("rb") as file:
            packed = bz2 if file.read(3) == b"BZh" else gzip
        with packed.open(path, "rb") as source, self.path.open("wb") as target:
            shutil.copyfileobj(source, target)


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
