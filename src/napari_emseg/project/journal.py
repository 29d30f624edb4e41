"""Several files changed at once: after a crash all of them are new, or none.

New files are written into a folder `staged.part`, which is renamed to `staged` when all
of them are on the disk. From then on they count: they are moved to their places, at
once or, after a crash, when the project is opened again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from napari_emseg.core.atomic import sync
from napari_emseg.core.paths import (
    UnsafePathError,
    is_link,
    path_inside,
    remove_inside,
)

STAGED = "staged"
SLASH = ","
"""Between the names of folders in the name of a staged file."""

AT = "@"
"""Between the name of a file and the length at which something is appended."""


class Journal:
    """Changes of files in a folder, made together.

    Parameters
    ----------
    allowed
        Pattern of the names of all files that change so. What is staged may come from
        somebody else; of other names, nothing is moved at all.
    """

    def __init__(self, folder: Path, allowed: re.Pattern[str]) -> None:
        self._folder = folder
        self._allowed = allowed
        self._staged = folder / STAGED
        self._part = folder / f"{STAGED}.part"

    def begin(self) -> None:
        """Start anew; what is waiting for its place is moved there first.

        Raises
        ------
        OSError
            If the folder is gone, or can't be written to.
        """
        self.finish()
        remove_inside(self._folder, self._part.name)
        self._part.mkdir()

    def replace(self, name: str, content: bytes) -> None:
        """Give a file another content; `name` is relative, with slashes."""
        write(self._part / name.replace("/", SLASH), content)

    def append(self, name: str, content: bytes, at: int) -> None:
        """Let a file go on with other content from its byte `at`."""
        self.replace(f"{name}{AT}{at}", content)

    def commit(self) -> None:
        """Make all changes since `begin`.

        Raises
        ------
        OSError
            Before this has any effect; see `finish` for after.
        """
        for file in self._part.iterdir():
            sync(file)
        sync(self._part)
        # the moment from which all changes count: one rename, which is done or not
        self._part.rename(self._staged)
        sync(self._folder)

    @property
    def waiting(self) -> bool:
        """True while committed files are not in their places."""
        return os.path.lexists(self._staged)

    def finish(self) -> None:
        """Move committed files to their places.

        Raises
        ------
        UnsafePathError
            If what waits there is not what this program stages; nothing is moved then.
        OSError
            If that can't be done now; it may be tried again.
        """
        if not self.waiting:
            return
        # all are looked at before the first is moved
        for file, target, at in list(self._moves()):
            if at is not None:
                _append(file, target, at)
            else:
                # may be repeated after a crash: what was moved is no longer staged, and
                # appending starts from a fixed length
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        # file systems keep the order of renames: if these are lost, so is the removal
        shutil.rmtree(self._staged)

    def _moves(self) -> Iterator[tuple[Path, Path, int | None]]:
        """Yield what is staged, where it goes, and where it is appended if it is."""
        path_inside(self._folder, STAGED)
        for file in sorted(self._staged.iterdir()):
            name, mark, at = file.name.partition(AT)
            name = name.replace(SLASH, "/")
            target = path_inside(self._folder, name, allowed=self._allowed)
            if is_link(file) or not file.is_file():
                msg = f"{file} is no regular file, and nothing else is saved"
                raise UnsafePathError(msg)
            yield file, target, _length(file, target, at) if mark else None


def write(path: Path, content: bytes) -> None:
    """Write a file; it may not be on the disk yet, see `sync`."""
    with path.open("wb") as file:
        file.write(content)


def _length(file: Path, target: Path, at: str) -> int:
    """Return at which byte of `target` a staged file belongs.

    Raises
    ------
    UnsafePathError
        If that is no number, or beyond the end.
    """
    there = target.stat().st_size if target.exists() else 0
    if not (at.isascii() and at.isdigit() and len(at) < 16 and int(at) <= there):
        msg = f"{file}: {at!r} is no place in {target.name}, which has {there} bytes"
        raise UnsafePathError(msg)
    return int(at)


def _append(file: Path, path: Path, at: int) -> None:
    """Append, in such a way that doing it twice does it once."""
    with path.open("r+b" if path.exists() else "wb") as out:
        out.truncate(at)
        out.seek(at)
        out.write(file.read_bytes())
        out.flush()
        os.fsync(out.fileno())
    file.unlink()
