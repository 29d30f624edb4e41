"""Drawn stacks: dark membranes between cells that are known, for tests and examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.spatial import KDTree

from napari_emseg.core.stack import Stack, VoxelSize

INSIDE_GREY, MEMBRANE_GREY = 180.0, 60.0


def synthetic(
    shape: tuple[int, int, int] = (4, 128, 128),
    *,
    seed: int = 0,
    cell_size: float = 24.0,
    membrane_width: float = 4.0,
    drift: float = 1.5,
    noise: float = 0.05,
    voxel_size_nm: VoxelSize = (50.0, 4.0, 4.0),
) -> tuple[Stack, NDArray[np.uint32]]:
    """Draw neurites cut across: Voronoi cells with wavy walls that drift through z.

    Parameters
    ----------
    shape
        `(z, y, x)`.
    cell_size
        Mean distance of neighbouring cells' centres, px.
    membrane_width
        Width of the dark walls, px.
    drift
        Standard deviation of a cell's movement from section to section, px.
    noise
        Standard deviation of the noise; 1 is the range of uint8.

    Returns
    -------
    stack
        Grey values, uint8, membranes dark.
    cells
        `(z, y, x)` uint32 ids, 0 on membranes. An id is the same cell in all sections,
        and one 4-connected piece in each.

    Raises
    ------
    ValueError
        If a cell would be no wider than its walls.
    """
    if not 0 < membrane_width < cell_size:
        msg = (
            f"cell_size must be above membrane_width, and both above 0; "
            f"got {cell_size} and {membrane_width}"
        )
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    where = _wavy_positions(shape[1:], cell_size, rng)
    centres = _scattered((shape[1], shape[2]), cell_size, rng)
    cells = np.empty(shape, np.uint32)
    for z in range(shape[0]):
        cells[z] = _section(where, centres, membrane_width)
        centres = centres + rng.normal(0, drift, centres.shape)
    grey = np.where(cells > 0, np.float32(INSIDE_GREY), np.float32(MEMBRANE_GREY))
    grey = ndi.gaussian_filter(grey, (0, 0.7, 0.7))
    grey += rng.normal(0, 255 * noise, shape).astype(np.float32)
    data = np.clip(grey.round(), 0, 255).astype(np.uint8)
    return Stack(data, name="synthetic", voxel_size_nm=voxel_size_nm), cells


def _wavy_positions(
    shape: tuple[int, int], cell_size: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Positions `(y, x, 2)` of pixels, bent smoothly so that walls aren't straight."""
    position = np.moveaxis(np.indices(shape, np.float64), 0, -1).copy()
    for axis in range(2):
        bend = ndi.gaussian_filter(rng.normal(size=shape), cell_size / 3)
        position[..., axis] += bend * (cell_size / 16 / max(bend.std(), 1e-12))
    return position


def _scattered(
    shape: tuple[int, int], cell_size: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Centres `(n, 2)` on a jittered grid that reaches beyond the picture."""
    line = [np.arange(-cell_size, n + 2 * cell_size, cell_size) for n in shape]
    grid = np.stack(np.meshgrid(*line, indexing="ij"), axis=-1).reshape(-1, 2)
    jittered: NDArray[np.float64] = (
        grid + rng.uniform(-0.3, 0.3, grid.shape) * cell_size
    )
    return jittered


def _section(
    where: NDArray[np.float64], centres: NDArray[np.float64], membrane_width: float
) -> NDArray[np.uint32]:
    """Cells `(y, x)`: the nearest centre, 0 where the second is hardly farther."""
    distance, nearest = KDTree(centres).query(where, k=2)
    # next to a wall halfway between two centres, the difference grows by two per px
    inside = distance[..., 1] - distance[..., 0] > membrane_width
    cells = np.where(inside, nearest[..., 0] + 1, 0).astype(np.uint32)
    return _main_pieces(cells)


def _main_pieces(cells: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Keep the largest 4-connected piece of each cell."""
    pieces, n = ndi.label(cells > 0)
    size = np.bincount(pieces.ravel(), minlength=n + 1)
    owner = np.zeros(n + 1, np.uint32)
    owner[pieces] = cells
    largest: dict[int, int] = {}
    for piece in sorted(range(1, n + 1), key=lambda piece: int(size[piece])):
        largest[int(owner[piece])] = piece
    keep = np.zeros(n + 1, bool)
    keep[list(largest.values())] = True
    return np.where(keep[pieces], cells, 0).astype(np.uint32)
