"""Save surfaces of cells and draw what was written: the picture in neurites.md.

`python docs/_scripts/make_mesh_picture.py [CELLS]`

CELLS are ids `(z, y, x)` of voxels of 10 nm, such as the drawn cells of FIB-25,
sections 150-249; by default those of the sample, which are thin. Needs trimesh.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from tifffile import imread

from napari_emseg.core.records import drain
from napari_emseg.core.stack import Stack
from napari_emseg.sample import fib25_cells
from napari_emseg.segmentation.meshes import finding_boxes, saving_meshes

PICTURE = Path(__file__).parents[1] / "images" / "neurites-meshes.png"
SIDE, MARGIN = 900, 20
SHOWN = 24
LIGHT = np.array([-0.4, -0.5, -0.75])
TURNED = 55.0, 25.0
"""Degrees about the x axis, then about the vertical."""


def neurites(cells: NDArray) -> list[int]:
    """Return cells that go through most of the stack, but for the very largest."""
    boxes = drain(finding_boxes(cells))
    through = [i for i, box in boxes.items() if box.sections > 0.9 * len(cells)]
    through.sort(key=lambda i: -boxes[i].voxels)
    return through[len(through) // 8 :][:SHOWN]


def turned(points: NDArray) -> NDArray:
    """Turn points x, y, z so that x and y are those of the picture, z into it."""
    a, b = np.radians(TURNED)
    tilt = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    pan = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    return points @ np.array(tilt).T @ np.array(pan).T


def draw(files: list[Path]) -> Image.Image:
    """Draw surfaces, each in a colour of its own, the nearest in front."""
    points, colours = [], []
    for file, colour in zip(files, palette(len(files)), strict=True):
        mesh = trimesh.load(file, process=True)
        normals = turned(np.asarray(mesh.vertex_normals))
        bright = 0.35 + 0.65 * np.clip(normals @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
        points.append(turned(np.asarray(mesh.vertices)))
        colours.append(bright[:, None] * colour)
    at, shade = np.concatenate(points), np.concatenate(colours)
    low, high = at.min(axis=0), at.max(axis=0)
    scale = (SIDE - 2 * MARGIN) / (high - low)[:2].max()
    x, y = ((at - low)[:, :2] * scale + MARGIN).T
    wide = int(np.ceil(10 * scale)) + 1  # corners lie a voxel of 10 nm apart
    # far ones first, so that near ones are painted over them
    order = np.argsort(-at[:, 2])
    canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
    rows, columns = y[order].astype(int), x[order].astype(int)
    values = (255 * shade[order]).astype(np.uint8)
    depth = np.full((SIDE, SIDE), np.inf)
    for down in range(-(wide // 2), wide - wide // 2):
        for across in range(-(wide // 2), wide - wide // 2):
            r = np.clip(rows + down, 0, SIDE - 1)
            c = np.clip(columns + across, 0, SIDE - 1)
            near = np.full((SIDE, SIDE), np.inf)
            last = np.full((SIDE, SIDE), -1)
            last[r, c] = np.arange(len(order))
            there = last >= 0
            near[there] = at[order, 2][last[there]]
            front = near < depth
            depth[front] = near[front]
            canvas[front] = values[last[front]]
    used = int(np.ceil((high - low)[1] * scale)) + 2 * MARGIN
    return Image.fromarray(canvas[: min(used, SIDE)])


def palette(n: int) -> NDArray:
    """Return clear colours."""
    hue = (np.arange(n) * 0.618) % 1
    return np.stack(
        [0.55 + 0.45 * np.cos(2 * np.pi * (hue - k / 3)) for k in range(3)], 1
    )


def main() -> None:
    """Save, read and draw."""
    given = sys.argv[1:]
    cells = imread(given[0]) if given else np.asarray(fib25_cells().data[:])
    stack = Stack(cells, voxel_size_nm=(10, 10, 10))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "meshes"
        drain(saving_meshes(stack, path, ids=neurites(cells)))
        picture = draw(sorted(path.glob("*.ply")))
    picture.quantize(160).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
