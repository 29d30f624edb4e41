"""Small arrays by name in one file, which appears when it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.atomic import atomic_write

Table = dict[str, NDArray[Any]]


def keep(path: Path, table: Table) -> None:
    """Write a table, instead of what may be there.

    Raises
    ------
    OSError
        If it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **table)


def read(path: Path) -> Table:
    """Read a table.

    Raises
    ------
    OSError
        If it isn't there.
    """
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
