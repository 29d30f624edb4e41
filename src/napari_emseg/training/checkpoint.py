"""An unfinished training run on disk: all that is needed to go on from it."""

import errno
import os
from itertools import count
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
import torch

from napari_emseg.core.atomic import atomic_write, clear_leftovers, move, short_name

PARTS = ("step", "settings", "network", "optimiser", "schedule", "average", "best")
"""What every checkpoint holds."""

LATER: dict[str, Any] = {"facts": None, "losses": (), "seconds": 0.0}
"""What those of older versions lack, and what that stands for."""


class DamagedError(ValueError):
    """A file that is damaged, or no checkpoint."""


def write_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Write beside the final name and rename when whole.

    Raises
    ------
    OSError
        If it can't be written; the checkpoint before it stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    with atomic_write(path) as file:
        _save(contents, file)


def set_aside(path: Path) -> Path:
    """Give what is no checkpoint another name, which is returned.

    It is never deleted: any file may be called like a checkpoint.

    Raises
    ------
    OSError
        If it can't be renamed.
    """
    names = (f"{short_name(path)}.not-used{n or ''}" for n in count())
    free = next(p for p in map(path.with_name, names) if not os.path.lexists(p))
    move(path, free)
    return free


def _save(contents: dict[str, Any], file: BinaryIO) -> None:
    """Write contents; torch makes a RuntimeError of a full disk, which is raised as is.

    Given a name instead of a file, it doesn't even tell the reason.
    """
    try:
        torch.save(contents, file)
    except RuntimeError as e:
        if isinstance(e.__context__, OSError):
            raise e.__context__ from e
        raise


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint; nothing that may be in it is run.

    Raises
    ------
    DamagedError
        If it is damaged, or something else.
    """
    # scores of a validation may be numpy numbers
    number: list[Any] = [
        np.float64(0).__reduce__()[0],
        np.dtype,
        np.dtypes.Float64DType,
    ]
    try:
        # `weights_only` builds tensors and what is listed here, and runs nothing else
        with torch.serialization.safe_globals(number):
            saved = torch.load(path, map_location=device, weights_only=True)
        found = {key: saved[key] for key in PARTS}
        return found | {key: saved.get(key, default) for key, default in LATER.items()}
    except (
        *(AttributeError, EOFError, LookupError, RuntimeError, TypeError),
        *(UnpicklingError, ValueError, OSError),
    ) as e:
        if isinstance(e, OSError) and e.errno != errno.EINVAL:  # not of its content
            raise
        msg = f"{path} is damaged, or no checkpoint; delete it to start anew"
        raise DamagedError(msg) from e
