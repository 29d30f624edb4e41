"""What is written beside stacks says of a full disk what to do, and leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_emseg.core.atomic import DiskFullError
from napari_emseg.core.card import Card
from napari_emseg.core.records import drain
from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import save_weights
from napari_emseg.proofreading.table import CellRow, cells_table, write_table
from napari_emseg.segmentation.meshes import saving_meshes
from napari_emseg.training.checkpoint import write_checkpoint
from tests.io.test_full_disk import ROOM, full  # noqa: F401 - a fixture


def rows() -> list[CellRow]:
    """Return more cells than a megabyte has room for."""
    work = cells_table(np.ones((1, 8, 8), np.uint32), None, linked=False)
    (row,) = drain(work)
    return [replace(row, cell=i) for i in range(1, ROOM // 16)]


def table(path: Path) -> None:
    write_table(path, rows())


def meshes(path: Path) -> None:
    cells = np.zeros((8, 150, 150), np.uint32)
    cells[2:-2:2, 5:-5, 5:-5] = 1  # plates, of many triangles
    drain(saving_meshes(Stack(cells, voxel_size_nm=(40.0, 4.0, 4.0)), path))


def weights(path: Path) -> None:
    from napari_emseg.models.zoo import build

    config = {"base": 32, "levels": 3}
    card = Card(name="w", architecture="unet", config=config, pixel_size_nm=(4.0, 4.0))
    save_weights(path, build("unet", config).state_dict(), card)


def checkpoint(path: Path) -> None:
    write_checkpoint(path, {"network": torch.rand(ROOM)})


@pytest.mark.parametrize("write", [table, meshes, weights, checkpoint])
def test_one_line_and_nothing_left(
    full: Path,  # noqa: F811
    write: Callable[[Path], None],
) -> None:
    with pytest.raises(DiskFullError, match="make room") as info:
        write(full / "out")
    assert "\n" not in str(info.value)
    assert str(full / "out") in str(info.value)
    assert list(full.iterdir()) == []
