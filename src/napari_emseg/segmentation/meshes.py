"""Surfaces of cells in nm, one cell after the other, as PLY, OBJ or STL."""

import json
import os
import re
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.measure import marching_cubes

from napari_emseg.core.atomic import atomic_folder, check_replaceable, write_whole
from napari_emseg.core.errors import UnknownVoxelSizeError
from napari_emseg.core.labels import as_labels
from napari_emseg.core.lock import Claim
from napari_emseg.core.paths import path_inside, read_bounded, remove_inside
from napari_emseg.core.records import Note, Progress, Record
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.io.errors import OutputExistsError
from napari_emseg.io.writing import iter_save


@dataclass(slots=True)
class Box:
    """Rows, columns and sections that a cell is in, and how many voxels it has."""

    z: slice
    y: slice
    x: slice
    voxels: int
    sections: int = 1

    def add(self, z: int, y: slice, x: slice, voxels: int) -> None:
        """Grow around the cell's profile in section `z`."""
        self.z = _around(self.z, slice(z, z + 1))
        self.y, self.x = _around(self.y, y), _around(self.x, x)
        self.voxels += voxels
        self.sections += 1

    @property
    def size(self) -> int:
        """Voxels of the whole box."""
        z, y, x = (part.stop - part.start for part in (self.z, self.y, self.x))
        return int(z * y * x)


def _around(one: slice, other: slice) -> slice:
    return slice(min(one.start, other.start), max(one.stop, other.stop))


def finding_boxes(cells: LazyArray) -> Generator[Record, None, dict[int, Box]]:
    """Return the box of each cell of `(z, y, x)`, by id; yields Progress.

    Raises
    ------
    ValueError
        If values are no whole numbers, as those of probabilities are.
    """
    boxes: dict[int, Box] = {}
    n = int(cells.shape[0])
    for z in range(n):
        section = np.asarray(cells[z])
        if section.dtype.kind == "f":
            section = as_labels(section, "cells")
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


MeshFormat = Literal["ply", "obj", "stl", "neuroglancer"]
"""A file for each cell; or Neuroglancer's form, beside the cells themselves."""

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
    overwrite: bool = False,
) -> Generator[Record, None, Path]:
    """Write the surface of each cell into a folder; yields Progress and Notes.

    Coordinates are x, y, z in nm; the middle of the first voxel is 0. The surface lies
    half-way between voxels of the cell and others (marching cubes, Lorensen 1987), and
    is closed where the stack ends. The folder gets its name when it is whole.

    `neuroglancer` writes surfaces, sizes and numbers of sections into a folder in
    Neuroglancer's `precomputed` form, where they belong to the cells: into one that is
    there already and holds these cells, or a new one with the cells in it.

    Parameters
    ----------
    cells
        Ids `(z, y, x)` with their voxel size, linked through the stack.
    ids
        Which; by default the `largest` ones.
    overwrite
        Replace meshes that are there.

    Raises
    ------
    ValueError
        If the voxel size or a cell is unknown, a package isn't installed, or the folder
        holds other cells than these.
    OutputExistsError
        If there are meshes, and they aren't to be replaced.
    FileExistsError
        If there is something else of that name, which is never replaced.
    OSError
        If a section can't be read, or the folder not be written.
    """
    place = Path(folder).expanduser()
    if format == "neuroglancer":
        size = _known_size(cells)
        work = _saving_precomputed(
            cells, place, ids, largest, size, overwrite=overwrite
        )
        return (yield from work)
    size = _checked_size(cells)
    _check_meshes(place, overwrite=overwrite)
    boxes = yield from finding_boxes(cells.data)
    wanted = _wanted(boxes, ids, largest)
    with Claim(place), atomic_folder(place, replace=overwrite) as part:
        faces = {}

        def write(i: int, points: Points, triangles: Faces) -> None:
            _write(part / f"cell_{i}.{format}", points, triangles)
            faces[i] = len(triangles)

        yield from _each_surface(cells, {i: boxes[i] for i in wanted}, size, write)
        _describe(part, cells, faces, format)
        _check_meshes(place, overwrite=overwrite)  # it took its time
    return place


NOTES = "meshes.json"
"""What a folder of meshes says of them."""


def _check_meshes(place: Path, *, overwrite: bool) -> None:
    """Refuse a name that is taken, but for meshes that are to be replaced."""
    if not os.path.lexists(place):
        return
    names = os.listdir(place) if place.is_dir() and not place.is_symlink() else [""]
    ours = re.compile(rf"cell_\d+\.(ply|obj|stl)|{re.escape(NOTES)}")
    if names and (NOTES not in names or not all(map(ours.fullmatch, names))):
        msg = f"{place} exists already, and isn't a folder of meshes; name another one"
        raise FileExistsError(msg)
    if not overwrite:
        raise OutputExistsError(place)
    check_replaceable(place)


def _each_surface(
    cells: Stack,
    boxes: dict[int, Box],
    size: tuple[float, float, float],
    write: Callable[[int, Points, Faces], object],
) -> Generator[Record, None, None]:
    """Find the surface of each cell, and hand it on."""
    for done, (i, box) in enumerate(boxes.items(), start=1):
        step = _step(box)
        if step > 1:
            yield Note(f"cell {i} is large: one row and column in {step} is used")
        write(i, *_surface(cells, i, box, step, size))
        yield Progress("meshes", done, len(boxes))


def _saving_precomputed(
    cells: Stack,
    place: Path,
    ids: Collection[int],
    largest: int,
    size: tuple[float, float, float],
    *,
    overwrite: bool,
) -> Generator[Record, None, Path]:
    """Write surfaces and properties into a precomputed folder, its notes last."""
    if os.name == "nt":
        msg = (
            "Neuroglancer finds a mesh by a file name with a colon, which Windows "
            "hasn't; write meshes for it on another system"
        )
        raise ValueError(msg)
    boxes = yield from finding_boxes(cells.data)
    wanted = _wanted(boxes, ids, largest)
    if not place.exists():
        yield from iter_save(place, cells, format="neuroglancer")
    said = _precomputed(place, cells, size, overwrite=overwrite)
    half = np.array(size[::-1]) / 2
    with Claim(place):
        if MESHES in said:  # while there are none, the notes name none
            said = {k: v for k, v in said.items() if k not in (MESHES, PROPERTIES)}
            write_whole(place / "info", json.dumps(said).encode())
        for name in (MESHES, PROPERTIES):  # what a killed run left
            remove_inside(place, name)
        with atomic_folder(place / MESHES) as part:

            def write(i: int, points: Points, triangles: Faces) -> None:
                # voxels are numbered by their corner there, and by their middle here
                _write_fragment(part, i, points + half, triangles)

            _write_json(part / "info", {"@type": "neuroglancer_legacy_mesh"})
            yield from _each_surface(cells, {i: boxes[i] for i in wanted}, size, write)
        with atomic_folder(place / PROPERTIES) as part:
            _write_json(part / "info", _properties(boxes))
        said |= {MESHES: MESHES, PROPERTIES: PROPERTIES}
        write_whole(place / "info", json.dumps(said).encode())
    return place


MESHES, PROPERTIES = "mesh", "segment_properties"
"""Folders in a precomputed one, and the keys by which its notes name them."""

MOST_INFO = 2**20
"""Bytes of a precomputed folder's notes; they have about two thousand."""

MOST_LISTED = 100_000
"""So many cells have properties, the largest first; browsers read all of them."""


def _precomputed(
    place: Path, cells: Stack, size: tuple[float, float, float], *, overwrite: bool
) -> dict[str, Any]:
    """Return the notes of a precomputed folder, if it is of such cells.

    Raises
    ------
    ValueError
        If it is of others, or none.
    OutputExistsError
        If it has surfaces, and they aren't to be replaced.
    """
    try:
        said = json.loads(read_bounded(path_inside(place, "info"), MOST_INFO))
        scale = said["scales"][0]
        shape, resolution = scale["size"], scale["resolution"]
        same = shape == list(cells.shape[::-1]) and np.allclose(
            resolution, size[::-1], rtol=1e-6
        )
    except (FileNotFoundError, LookupError, TypeError, ValueError, RecursionError) as e:
        msg = f"{place} holds no cells in Neuroglancer's form; name a new folder"
        raise ValueError(msg) from e
    if not same or said.get("type") != "segmentation":
        msg = (
            f"{place} holds other cells: {shape} voxels (x, y, z) of {resolution} nm, "
            f"and these are {list(cells.shape[::-1])} of {list(size[::-1])} nm"
        )
        raise ValueError(msg)
    if MESHES in said and not overwrite:
        raise OutputExistsError(place / str(said[MESHES]))
    found: dict[str, Any] = said
    return found


def _write_fragment(part: Path, cell: int, points: Points, triangles: Faces) -> None:
    """Write a surface as Neuroglancer's single-resolution form has it."""
    head = np.array([len(points)], "<u4").tobytes()
    body = points.astype("<f4").tobytes() + triangles.astype("<u4").tobytes()
    (part / f"{cell}.fragment").write_bytes(head + body)
    _write_json(part / f"{cell}:0", {"fragments": [f"{cell}.fragment"]})


def _properties(boxes: dict[int, Box]) -> dict[str, Any]:
    """Return the size of each cell and its sections, for Neuroglancer's lists."""
    by_size = sorted(boxes, key=lambda i: (-boxes[i].voxels, i))[:MOST_LISTED]
    listed = sorted(by_size)
    columns = {
        "voxels": ("Voxels of the cell", [boxes[i].voxels for i in listed]),
        "sections": ("Sections that it lies in", [boxes[i].sections for i in listed]),
    }
    return {
        "@type": "neuroglancer_segment_properties",
        "inline": {
            "ids": [str(i) for i in listed],
            "properties": [
                {
                    "id": name,
                    "type": "number",
                    "data_type": "uint32",
                    "description": words,
                    "values": [min(n, 2**32 - 1) for n in values],
                }
                for name, (words, values) in columns.items()
            ],
        },
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


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
    return _known_size(cells)


def _known_size(cells: Stack) -> tuple[float, float, float]:
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
    (part / NOTES).write_text(text, encoding="utf-8")
