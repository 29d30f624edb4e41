"""An output under way: written beside its final name, and renamed when it is whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_emseg.core.atomic import (
    DiskFullError,
    clear_leftovers,
    exchange,
    naming_full_disk,
    private_part,
    publish,
    release,
    remove_tree,
)
from napari_emseg.core.lock import Claim
from napari_emseg.core.stack import Stack
from napari_emseg.io.errors import OutputExistsError

_ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray")
_PRECOMPUTED = "neuroglancer_multiscale_volume"


class Output:
    """The final name of an output, and the private `part` that it is written to.

    Nobody else writes the same output until it is finished or given up. What ended runs
    left of it is removed; see `core.atomic`.

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
    OutputBusyError
        If another run is writing it.
    OSError
        As `check_output`.
    """

    def __init__(self, path: Path, *, overwrite: bool, bytes_needed: int = 0) -> None:
        check_output(path, overwrite=overwrite, bytes_needed=bytes_needed)
        self._claim = Claim(path)
        try:
            clear_leftovers(path)
        except OSError:
            self._claim.release()
            raise
        self.path = path
        self.part = private_part(path)
        self._overwrite = overwrite

    @contextmanager
    def beginning(self) -> Iterator[Path]:
        """Begin the part, whose name is given; an error gives it up."""
        try:
            with naming_full_disk(self.path):
                yield self.part
        except BaseException:
            self.give_up(keep=False)
            raise

    def finish(self) -> Path:
        """Give the part its final name.

        Raises
        ------
        OSError
            If it can't be flushed or renamed, or something took the name meanwhile;
            then it is still to be given up.
        """
        check_output(self.path, overwrite=self._overwrite)
        if self.path.exists() and (self.path.is_dir() or self.part.is_dir()):
            exchange(self.part, self.path)
        else:
            publish(self.part, self.path)
        self._release()
        return self.path

    def give_up(self, *, keep: bool) -> Path | None:
        """Leave the part where it is, until the next run, or remove it."""
        try:
            if not keep:
                remove_tree(self.part)
        finally:
            self._release()
        return self.part if keep else None

    def _release(self) -> None:
        release(self.part)
        self._claim.release()


@contextmanager
def claimed_output(path: Path, *, overwrite: bool) -> Iterator[None]:
    """Keep others from writing an output while it is made.

    Raises
    ------
    OutputBusyError
        If another run is writing it.
    OSError
        As `check_output`.
    """
    check_output(path, overwrite=overwrite)
    with Claim(path):
        check_output(path, overwrite=overwrite)  # a run may have ended in between
        yield


def check_output(path: Path, *, overwrite: bool, bytes_needed: int = 0) -> None:
    """Check that an output may be written there.

    Raises
    ------
    OutputExistsError
        If there is something already and `overwrite` is not set.
    FileExistsError
        If it is a folder of something else.
    FileNotFoundError, PermissionError
        If the folder is missing or can't be written to.
    DiskFullError
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
            f"{bytes_needed / 1e9:.2g} GB, {free / 1e9:.2g} GB are left"
        )
        raise DiskFullError(errno.ENOSPC, msg)


def refuse_to_replace(output: Path, inputs: Iterable[Stack]) -> None:
    """Raise a ValueError if an output would replace what a stack is read from.

    Sections are read when they are needed: what took their place would be read as EM.
    A folder counts with all that lies in it.
    """
    wanted = output.resolve()
    if not wanted.exists():
        return
    for stack in inputs:
        for path in _read_from(stack):
            if path.is_relative_to(wanted) or wanted.is_relative_to(path):
                msg = f"{output} is the input; give the output another name"
                raise ValueError(msg)


def _read_from(stack: Stack) -> Iterator[Path]:
    if stack.source:
        yield Path(stack.source).resolve()
    for further in map(Path, stack.metadata.get("files", ())):
        if further.is_absolute():
            yield further.resolve()


def _check_existing(path: Path, *, overwrite: bool) -> None:
    if not overwrite:
        raise OutputExistsError(path)
    if path.is_dir() and not is_volume(path):
        msg = f"{path} is a folder of something else and won't be replaced"
        raise FileExistsError(msg)


def is_zarr(path: Path) -> bool:
    """Tell a Zarr array or group from any other folder."""
    return any((path / mark).exists() for mark in _ZARR_MARKS)


def is_volume(path: Path) -> bool:
    """Tell a folder that is one output (Zarr, precomputed) from any other folder."""
    info = path / "info"
    return is_zarr(path) or (
        info.is_file() and _PRECOMPUTED in info.read_text("utf-8", "replace")
    )
