"""Several files changed at once: after a crash all of them are new, or none.

New files are written into a folder `staged.part`, which is renamed to `staged` when all
of them are on the disk. From then on they count: they are moved to their places, at
once or, after a crash, when the project is opened again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from napari_emseg.core.atomic import sync

STAGED = "staged"
SLASH = ","
"""Between the names of folders in the name of a staged file."""

AT = "@"
"""Between the name of a file and the length at which something is appended."""


class Journal:
    """Changes of files in a folder, made together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
        if self._part.exists():
            shutil.rmtree(self._part)
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
        self._part.rename(self._staged)
        sync(self._folder)

    @property
    def waiting(self) -> bool:
        """True while committed files are not in their places."""
        return self._staged.exists()

    def finish(self) -> None:
        """Move committed files to their places.

        Raises
        ------
        OSError
            If that can't be done now; it may be tried again.
        """
        if not self._staged.exists():
            return
        for file in sorted(self._staged.iterdir()):
            target = self._folder / file.name.replace(SLASH, "/")
            if AT in target.name:
                _append(file, target)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        # file systems keep the order of renames: if these are lost, so is the removal
        shutil.rmtree(self._staged)


def write(path: Path, content: bytes) -> None:
    """Write a file; it may not be on the disk yet, see `sync`."""
    with path.open("wb") as file:
        file.write(content)


def _append(file: Path, target: Path) -> None:
    """Append, in such a way that doing it twice does it once."""
    name, _, at = target.name.rpartition(AT)
    path = target.with_name(name)
    with path.open("r+b" if path.exists() else "wb") as out:
        out.truncate(int(at))
        out.seek(int(at))
        out.write(file.read_bytes())
        out.flush()
        os.fsync(out.fileno())
    file.unlink()
