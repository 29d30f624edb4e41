"""Who writes to a project: one window at a time; a crash leaves no lock behind."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from napari_emseg.core.atomic import write_whole
from napari_emseg.core.paths import path_inside, read_bounded

LOCK, WHO = "lock", "holder.json"


class Holder(BaseModel):
    """Who has a project open for writing, for the message to others."""

    author: str = ""
    host: str = Field(default_factory=platform.node)
    process: int = Field(default_factory=os.getpid)
    since: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def words(self) -> str:
        """For a person."""
        who = self.author or f"process {self.process}"
        return f"{who} on {self.host}, since {self.since:%Y-%m-%d %H:%M} UTC"


class Hold:
    """The right to write to a project, held until `release` or the process's end.

    The operating system keeps the lock, so a killed process doesn't.

    Raises
    ------
    BlockingIOError
        If another window has it, with words who.
    OSError
        If the folder can't be written to.
    """

    def __init__(self, folder: Path, author: str = "") -> None:
        # a lock file is emptied when it is opened, so it mustn't be a link
        lock, who = path_inside(folder, LOCK), path_inside(folder, WHO)
        self._lock = FileLock(lock, thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except Timeout as e:
            msg = f"it is open for writing already ({_who(folder)})"
            raise BlockingIOError(msg) from e
        except NotImplementedError as e:
            msg = f"this file system knows no locks ({e})"
            raise OSError(msg) from e
        try:
            text = Holder(author=author).model_dump_json()
            write_whole(who, text)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let others write."""
        self._lock.release()


def _who(folder: Path) -> str:
    try:
        holder = Holder.model_validate_json(read_bounded(folder / WHO, 2**16))
    except (OSError, ValidationError):
        return "by somebody"
    return holder.words
