"""Surfaces of cells in nm, one cell after the other, as PLY, OBJ or STL."""

import json
from collections.abc import Collection, Generator
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.measure import marching_cubes

from napari_emseg.core.atomic import atomic_folder
from napari_emseg.core.errors import UnknownVoxelSizeError
from napari_emseg.core.lock import Claim
from napari_emseg.core.records import Note, Progress, Record
from napari_emseg.core.stack import LazyArray, Stack


@dataclass(slots=True)
class Box:
    """Rows, columns and sections that a cell is in, and how many voxels it has."""

    z: slice
    y: slice
    x: slice
    voxels: int

    def add(self, z: int, y: slice, x: slice, voxels: int) -> None:
        """Grow around the cell's profile in section `z`."""
        self.z = _around(self.z, slice(z, z + 1))
        self.y, self.x = _around(self.y, y), _around(self.x, x)
        self.voxels += voxels

    @property
    def size(self) -> int:
        """Voxels of the whole box."""
        z, y, x = (part.stop - part.start for part in (self.z, self.y, self.x))
        return int(z * y * x)


def _around(one: slice, other: slice) -> slice:
    return slice(min(one.start, other.start), max(one.stop, other.stop))


def finding_boxes(cells: LazyArray) -> Generator[Record, None, dict[int, Box]]:
    """Return the box of each cell of `(z, y, x)`, by id; yields Progress."""
    boxes: dict[int, Box] = {}
    n = int(cells.shape[0])
    for z in range(n):
        section = np.asarray(cells[z])
        ids, index, counts = np.unique(section, return_inverse=True, return_counts=True)
        # `find_objects` takes time and memory by the largest id, so ids are ranks here
        places = ndi.find_objects(index.reshape(section.shape) + 1)
        for i, place, count in zip(ids.tolist(), places, counts.tolist(), strict=True):
            if i == 0 or place is None:
                continue
            y, x = place
            if i in boxes:
                boxes[i].add(z, y, x, count)
            else:
                boxes[i] = Box(slice(z, z + 1), y, x, count)
        yield Progress("looking for cells", z + 1, n)
    return boxes


MeshFormat = Literal["ply", "obj", "stl"]

LARGEST_BOX = 2**27
"""Voxels of a box that are looked at; of larger ones rows and columns are left out."""

Points = NDArray[np.float64]
Faces = NDArray[np.int64]


def saving_meshes(
    cells: Stack,
    folder: str | PathLike[str],
    *,
    ids: Collection[int] = (),
    largest: int = 100,
    format: MeshFormat = "ply",  # noqa: A002 - the word for it
) -> Generator[Record, None, Path]:
    """Write the surface of each cell into a folder; yields Progress and Notes.

    Coordinates are x, y, z in nm; the middle of the first voxel is 0. The surface lies
    half-way between voxels of the cell and others (marching cubes, Lorensen 1987), and
    is closed where the stack ends. The folder gets its name when it is whole.

    Parameters
    ----------
    cells
        Ids `(z, y, x)` with their voxel size, linked through the stack.
    ids
        Which; by default the `largest` ones.

    Raises
    ------
    ValueError
        If the voxel size or a cell is unknown, or trimesh isn't installed.
    FileExistsError
        If there is such a folder already.
    OSError
        If a section can't be read, or the folder not be written.
    """
    size = _checked_size(cells)
    place = Path(folder).expanduser()
    if place.exists():
        msg = f"{place} exists already; remove it, or choose another name"
        raise FileExistsError(msg)
    boxes = yield from finding_boxes(cells.data)
    wanted = _wanted(boxes, ids, largest)
    with Claim(place), atomic_folder(place) as part:
        faces = {}
        for done, i in enumerate(wanted, start=1):
            step = _step(boxes[i])
            if step > 1:
                yield Note(f"cell {i} is large: one row and column in {step} is used")
            points, triangles = _surface(cells, i, boxes[i], step, size)
            _write(part / f"cell_{i}.{format}", points, triangles)
            faces[i] = len(triangles)
            yield Progress("meshes", done, len(wanted))
        _describe(part, cells, faces, format)
    return place


def iter_surface(
    cells: Stack, cell: int
) -> Generator[Record, None, tuple[Points, Faces]]:
    """Return the surface of one cell, to be shown over its stack; yields Progress.

    Corners `(n, 3)` are z, y, x in voxels, as layers count them; triangles `(m, 3)`.

    Raises
    ------
    ValueError
        If there is no such cell.
    OSError
        If a section can't be read.
    """
    box, n = None, int(cells.shape[0])
    for z in range(n):
        inside = np.asarray(cells.data[z]) == cell
        if cell > 0 and inside.any():
            y, x = ndi.find_objects(inside.astype(np.uint8))[0]
            box = box or Box(slice(z, z + 1), y, x, 0)
            box.add(z, y, x, int(inside.sum()))
        yield Progress("looking for the cell", z + 1, n)
    if box is None:
        msg = f"there is no cell {cell}"
        raise ValueError(msg)
    points, triangles = _surface(cells, cell, box, _step(box), (1.0, 1.0, 1.0))
    # other axes first: what was seen from outside would be seen from inside
    return np.ascontiguousarray(points[:, ::-1]), triangles[:, ::-1]


def _checked_size(cells: Stack) -> tuple[float, float, float]:
    if find_spec("trimesh") is None:
        msg = "meshes need trimesh: pip install napari-emseg[meshes]"
        raise ValueError(msg)
    size = cells.voxel_size_nm
    if size is None or size[0] is None:
        msg = (
            f"{cells.name}: meshes are in nm, and the voxel size (or its z) is unknown"
        )
        raise UnknownVoxelSizeError(msg)
    return size[0], size[1], size[2]


def _wanted(boxes: dict[int, Box], ids: Collection[int], largest: int) -> list[int]:
    missing = sorted(set(ids) - set(boxes))
    if missing:
        msg = f"there is no cell {missing[0]}; the cells have {len(boxes):,} ids"
        raise ValueError(msg)
    if not boxes:
        msg = "there are no cells to make meshes of"
        raise ValueError(msg)
    by_size = sorted(boxes, key=lambda i: (-boxes[i].voxels, i))
    return sorted(ids) or by_size[:largest]


def _step(box: Box) -> int:
    """Return how many rows and columns become one, so that the box fits."""
    return max(1, int(np.ceil((box.size / LARGEST_BOX) ** 0.5)))


def _surface(
    cells: Stack, cell: int, box: Box, step: int, size: tuple[float, float, float]
) -> tuple[Points, Faces]:
    """Return corners `(n, 3)` x, y, z in nm, and triangles `(m, 3)` seen from outside.

    Reads the cell's box, section by section.
    """
    rows, columns = slice(*_ends(box.y), step), slice(*_ends(box.x), step)
    inside = [
        np.asarray(cells.data[z, rows, columns]) == cell
        for z in range(box.z.start, box.z.stop)
    ]
    # a border of background closes the surface at the ends of the stack; the first
    # corner then lies one spacing before the box
    solid = np.pad(np.stack(inside), 1).astype(np.float32)
    spacing = (size[0], size[1] * step, size[2] * step)
    corners, triangles, _, _ = marching_cubes(solid, 0.5, spacing=spacing)
    first = np.array([box.z.start, box.y.start, box.x.start]) * size
    points = (corners + first - np.array(spacing))[:, ::-1]
    return _outward(
        np.ascontiguousarray(points, np.float64), triangles.astype(np.int64)
    )


def _ends(part: slice) -> tuple[int, int]:
    return part.start, part.stop


def _outward(points: Points, triangles: Faces) -> tuple[Points, Faces]:
    """Turn triangles so that the volume that they enclose is above 0."""
    a, b, c = (points[triangles[:, k]] for k in range(3))
    # Six times the volume, as a sum of signed tetrahedra with a corner at 0. Reversing
    # z, y, x to x, y, z has mirrored the surface and so turned its triangles.
    enclosed = float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum())
    return points, triangles if enclosed >= 0 else triangles[:, ::-1]


def _write(path: Path, points: Points, triangles: Faces) -> None:
    import trimesh

    mesh = trimesh.Trimesh(points, triangles, process=False)
    content: Any = mesh.export(file_type=path.suffix[1:])  # by a name it stays open
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _describe(part: Path, cells: Stack, faces: dict[int, int], format: str) -> None:  # noqa: A002
    facts = {
        "source": cells.source or cells.name,
        "unit": "nanometer",
        "axes": "xyz",
        "voxel_size_nm": cells.voxel_size_nm,
        "cells": {
            f"cell_{i}.{format}": {"id": i, "faces": n} for i, n in faces.items()
        },
    }
    text = json.dumps(facts, indent=2) + "\n"
    (part / "meshes.json").write_text(text, encoding="utf-8")
