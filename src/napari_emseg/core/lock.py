"""Who writes to a folder or an output: one at a time; a kill leaves no lock behind."""

import errno
import os
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from napari_emseg.core.atomic import short_name
from napari_emseg.core.paths import path_inside, read_bounded
from napari_emseg.core.sinks import Closing

LOCK, WHO = "lock", "holder.json"

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


class NoLocksError(OSError):
    """A file system that knows no locks."""


class OutputBusyError(BlockingIOError):
    """An output that another run is writing."""


class Holder(BaseModel):
    """Who has a folder open for writing, for the message to others."""

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
    """The right to write to a folder, held until `release` or the process's end.

    The operating system keeps the lock, so a killed process doesn't.

    Raises
    ------
    BlockingIOError
        If another process has it, with words who.
    NoLocksError
        If the file system knows no locks.
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
            msg = f"it is open for writing already ({describe_holder(folder)})"
            raise BlockingIOError(msg) from e
        except (NotImplementedError, OSError) as e:
            if isinstance(e, OSError) and e.errno not in _NO_LOCKS:
                raise
            msg = f"this file system knows no locks ({e})"
            raise NoLocksError(msg) from e
        try:
            text = Holder(author=author).model_dump_json()
            # for others to read; a part of it would be as if there were none
            who.write_text(text, encoding="utf-8")
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let others write."""
        self._lock.release()


class Claim(Closing):
    """The right to write one output, until it is released or the process ends.

    The lock lies in a hidden folder beside the output, `.NAME.emseg-lock`, which goes
    with it; a killed process leaves the folder, but no lock. On file systems without
    locks everybody gets the right: parts have private names, so that two runs cost
    time and nothing else.

    Raises
    ------
    OutputBusyError
        If another run is writing it, with words which.
    OSError
        If the folder around it can't be written to.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path.with_name(f".{short_name(path)}.emseg-lock")
        self._hold: Hold | None = None
        if self._folder.is_symlink():  # the name is ours, what is behind it isn't
            self._folder.unlink()
        self._folder.mkdir(exist_ok=True)
        try:
            self._hold = Hold(self._folder)
        except (BlockingIOError, FileNotFoundError) as e:  # held, or just given up
            who = describe_holder(self._folder)
            msg = f"{path} is being written by {who}; wait, or choose another name"
            raise OutputBusyError(msg) from e
        except NoLocksError:
            self._remove()
        except OSError:
            self._remove()
            raise

    def close(self) -> None:
        """Let others write it, as at the end of a block."""
        self.release()

    def release(self) -> None:
        """Let others write it; doing so again does nothing."""
        hold, self._hold = self._hold, None
        if hold is None:
            return
        if os.name == "nt":  # where an open file can't be removed
            hold.release()
            self._remove()
        else:  # removed while it is held, so that nobody else's is
            self._remove()
            hold.release()

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def describe_holder(folder: Path) -> str:
    """Return who has a folder open for writing."""
    try:
        holder = Holder.model_validate_json(read_bounded(folder / WHO, 2**16))
    except (OSError, ValidationError):
        return "another process"
    return holder.words
