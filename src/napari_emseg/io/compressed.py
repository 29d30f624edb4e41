"""Files packed by gzip or bzip2: unpacked beside, then opened as what they are."""

import bz2
import gzip
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from socket import gethostname
from typing import Any

import psutil
from numpy.typing import NDArray

from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.formats import recognise
from napari_emseg.io.volumes import FileContents, Index, Volume

_PREFIX = "napari-emseg-unpacked"
"""Of their names; machine, process, its start and random letters follow."""


def new_scratch() -> Path:
    """Make a folder whose name says which process it belongs to."""
    own = psutil.Process()
    marks = (_PREFIX, _machine(), str(own.pid), str(_started(own)), "")
    return Path(tempfile.mkdtemp(prefix="~".join(marks)))


def clear_scratch() -> None:
    """Remove the folders of processes that ended without doing so, such as by a kill.

    Only those that are surely ours: real folders of this user, made on this machine by
    a process that is gone. Links are not followed.
    """
    root = Path(tempfile.gettempdir())
    for folder in root.glob(f"{_PREFIX}~{_machine()}~*"):
        try:
            if _is_left_over(folder):
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError):
            continue


def _is_left_over(folder: Path) -> bool:
    _, _, pid, started, _ = folder.name.split("~")
    status = folder.lstat()
    if folder.is_symlink() or not folder.is_dir():
        return False
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        return False
    try:
        return _started(psutil.Process(int(pid))) != int(started)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _started(process: psutil.Process) -> int:
    """Return when a process began, in s: a number may be given to another later."""
    return int(process.create_time())


def _machine() -> str:
    """Return this machine's name: folders of temporary files may be shared."""
    return "".join(c for c in gethostname() if c.isalnum() or c == "-") or "here"


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
