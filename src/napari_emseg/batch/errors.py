"""Errors of tasks: which of them are hopeless, and how they are told."""

from __future__ import annotations

import errno

from napari_emseg.batch.worker import VersionMismatchError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class OutputFullError(OSError):
    """The folder of results takes no more; the message says what to do."""


def stop_if_hopeless(error: BaseException | None) -> None:
    """Raise what no other task would survive: a full disk, another version."""
    if isinstance(error, OutputFullError):
        raise error
    if isinstance(error, OSError) and error.errno in FULL:
        msg = (
            f"{error.strerror or error}: the folder of results takes no more; what is "
            "finished is kept, go on with --resume when there is room"
        )
        raise OutputFullError(error.errno, msg) from error
    if isinstance(error, VersionMismatchError):
        raise error


def is_worker_killed(error: BaseException | None) -> bool:
    """Tell if a task took its workers with it, several times."""
    return type(error).__name__ == "KilledWorker"


def describe_error(error: BaseException | None) -> str:
    """Return an error in words."""
    if is_worker_killed(error):
        return "its worker died each time it was tried (out of memory?)"
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, OSError | ValueError)
        else (f"{type(error).__name__}: {text}")
    )
