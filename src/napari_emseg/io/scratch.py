"""Folders for temporary copies, which are removed even if the program was killed."""

import os
import shutil
import tempfile
from pathlib import Path
from socket import gethostname

import psutil

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
