"""Small arrays by name in one file, which appears when it is whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

Table = dict[str, NDArray[Any]]


def keep(path: Path, table: Table) -> None:
    """Write a table, instead of what may be there.

    Raises
    ------
    OSError
        If it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **table)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> Table:
    """Read a table.

    Raises
    ------
    OSError
        If it isn't there.
    """
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
