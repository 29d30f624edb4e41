"""An output under way: written beside its final name, and renamed when it is whole."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from napari_emseg.core.atomic import (
    clear_leftovers,
    exchange,
    private_part,
    publish,
    release,
    remove_tree,
)

_ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray")
_PRECOMPUTED = "neuroglancer_multiscale_volume"


class Output:
    """The final name of an output, and the private `part` that it is written to.

    What ended runs left of the same output is removed; see `core.atomic`.

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
    OSError
        As `check_output`.
    """

    def __init__(self, path: Path, *, overwrite: bool, bytes_needed: int = 0) -> None:
        check_output(path, overwrite=overwrite, bytes_needed=bytes_needed)
        clear_leftovers(path)
        self.path = path
        self.part = private_part(path)
        self._overwrite = overwrite

    def finish(self) -> Path:
        """Give the part its final name.

        Raises
        ------
        OSError
            If it can't be flushed or renamed, or something took the name meanwhile;
            then the part stays.
        """
        try:
            check_output(self.path, overwrite=self._overwrite)
            if self.path.exists() and (self.path.is_dir() or self.part.is_dir()):
                exchange(self.part, self.path)
            else:
                publish(self.part, self.path)
        finally:
            release(self.part)
        return self.path

    def give_up(self, *, keep: bool) -> Path | None:
        """Leave the part where it is, until the next run, or remove it."""
        release(self.part)
        if keep:
            return self.part
        remove_tree(self.part)
        return None


def check_output(path: Path, *, overwrite: bool, bytes_needed: int = 0) -> None:
    """Check that an output may be written there.

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
    if path.exists():
        _check_existing(path, overwrite=overwrite)
    folder = path.absolute().parent
    if not folder.is_dir():
        msg = f"the folder {folder} does not exist"
        raise FileNotFoundError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"the folder {folder} can't be written to"
        raise PermissionError(msg)
    free = shutil.disk_usage(folder).free
    if bytes_needed > free:
        msg = (
            f"not enough space in {folder}: {path.name} needs "
            f"{bytes_needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are left"
        )
        raise OSError(errno.ENOSPC, msg)


def _check_existing(path: Path, *, overwrite: bool) -> None:
    if not overwrite:
        msg = f"{path} exists already; overwrite it with --overwrite"
        raise FileExistsError(msg)
    if path.is_dir() and not is_volume(path):
        msg = f"{path} is a folder of something else and won't be replaced"
        raise FileExistsError(msg)


def is_zarr(path: Path) -> bool:
    """Tell a Zarr array or group from any other folder."""
    return any((path / mark).exists() for mark in _ZARR_MARKS)


def is_volume(path: Path) -> bool:
    """Tell a folder that is one output (Zarr, precomputed) from any other folder."""
    info = path / "info"
    return is_zarr(path) or (info.is_file() and _PRECOMPUTED in info.read_text())
