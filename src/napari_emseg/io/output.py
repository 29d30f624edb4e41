"""An output under way: written beside its final name, and renamed when it is whole."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

_ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray")
_PRECOMPUTED = "neuroglancer_multiscale_volume"


class Output:
    """The final name of an output and the `.part` beside it.

    Parameters
    ----------
    path
        Final name.
    overwrite
        Replace an existing output, once the new one is whole.
    bytes_needed
        What it will take on disk, 0 if unknown.

    Raises
    ------
    FileExistsError
        If there is something already, and `overwrite` is not set or it's a folder of
        something else.
    FileNotFoundError, PermissionError
        If the folder is missing or can't be written to.
    OSError
        If there isn't enough space left.
    """

    def __init__(self, path: Path, *, overwrite: bool, bytes_needed: int = 0) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self._check_existing(overwrite=overwrite)
        self._check_folder(bytes_needed)
        remove(self.part)

    def _check_existing(self, *, overwrite: bool) -> None:
        if not self.path.exists():
            return
        if not overwrite:
            msg = f"{self.path} exists already; overwrite it with --overwrite"
            raise FileExistsError(msg)
        if self.path.is_dir() and not is_volume(self.path):
            msg = f"{self.path} is a folder of something else and won't be replaced"
            raise FileExistsError(msg)

    def _check_folder(self, bytes_needed: int) -> None:
        folder = self.path.absolute().parent
        if not folder.is_dir():
            msg = f"the folder {folder} does not exist"
            raise FileNotFoundError(msg)
        if not os.access(folder, os.W_OK | os.X_OK):
            msg = f"the folder {folder} can't be written to"
            raise PermissionError(msg)
        free = shutil.disk_usage(folder).free
        if bytes_needed > free:
            msg = (
                f"not enough space in {folder}: {self.path.name} needs "
                f"{bytes_needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are left"
            )
            raise OSError(errno.ENOSPC, msg)

    def finish(self) -> Path:
        """Give the part its final name."""
        if self.path.is_dir():
            old = self.path.with_name(self.path.name + ".old")
            remove(old)
            self.path.rename(old)
            self.part.rename(self.path)
            remove(old)
        else:
            self.part.replace(self.path)
        return self.path

    def give_up(self, *, keep: bool) -> Path | None:
        """Leave the part where it is, or remove it."""
        if keep:
            return self.part
        remove(self.part)
        return None


def is_zarr(path: Path) -> bool:
    """Tell a Zarr array or group from any other folder."""
    return any((path / mark).exists() for mark in _ZARR_MARKS)


def is_volume(path: Path) -> bool:
    """Tell a folder that is one output (Zarr, precomputed) from any other folder."""
    info = path / "info"
    return is_zarr(path) or (info.is_file() and _PRECOMPUTED in info.read_text())


def remove(path: Path) -> None:
    """Remove an unfinished output of ours, if there is one.

    Raises
    ------
    FileExistsError
        If it is a folder of something else.
    """
    if path.is_dir() and not path.is_symlink():
        if any(path.iterdir()) and not is_volume(path):
            msg = f"{path} is in the way: a folder of something else"
            raise FileExistsError(msg)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
