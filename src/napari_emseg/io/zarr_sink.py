"""Write sections into an OME-Zarr with smaller copies for large sections."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray

from napari_emseg.core.requirements import incompatible
from napari_emseg.core.stack import NOWHERE, Origin, VoxelSize
from napari_emseg.io.formats import SinkOptions
from napari_emseg.io.output import FileSink, Output

TESTED = "0.3.4"

try:
    from yaozarrs import v04, v05
    from yaozarrs.write.v05 import prepare_image

    MODELS = (
        v04.Image,
        v04.LabelImage,
        v04.LabelsGroup,
        v05.Dataset,
        v05.Image,
        v05.LabelImage,
        v05.LabelsGroup,
        v05.Multiscale,
        v05.ScaleTransformation,
        v05.SpaceAxis,
        v05.TranslationTransformation,
    )
except (ImportError, AttributeError) as e:
    raise incompatible("yaozarrs", TESTED, e) from e

__all__ = ["MODELS", "prepare_image", "v04", "v05"]


CHUNK = 1024
"""Side of a chunk in px; a chunk is one section deep, so that any order will do."""

_IDS = ("uint32", "uint64")

Shape: TypeAlias = tuple[int, int, int]


class ZarrSink(FileSink):
    """An OME-Zarr 0.5 whose sections are filled in any order.

    `Zarr04Sink` writes the older form.

    Sections wider than a chunk get copies of half the size until one chunk holds them:
    means of 2 × 2 px, for ids (uint32, uint64) every second pixel.

    Raises
    ------
    OSError
        As `Output`.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        options: SinkOptions,
    ) -> None:
        super().__init__(Output(path, overwrite=options.overwrite), shape, dtype)
        self._ids = dtype.name in _IDS
        shapes = pyramid(shape)
        image = describe_levels(
            shapes,
            options.voxel_size_nm,
            path.name,
            centred=not self._ids,
            origin=options.origin_nm,
        )
        made = options.provenance
        notes = {"emseg": made.model_dump()} if made else {}
        with self._output.beginning() as part:
            self._levels = self._create(part, image, shapes, dtype, notes)

    def _create(
        self,
        path: Path,
        image: v05.Image,
        shapes: list[Shape],
        dtype: np.dtype[Any],
        notes: dict[str, Any],
    ) -> list[zarr.Array[Any]]:
        """Make the group and its empty arrays, the largest first."""
        return create_v05(path, image, shapes, dtype, notes)

    def _store(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`, and its smaller copies."""
        values = section.astype(self.dtype, copy=False)
        fill(self._levels, z, values, ids=self._ids)


class Zarr04Sink(ZarrSink):
    """An OME-Zarr 0.4, which is Zarr 2."""

    def _create(
        self,
        path: Path,
        image: v05.Image,
        shapes: list[Shape],
        dtype: np.dtype[Any],
        notes: dict[str, Any],
    ) -> list[zarr.Array[Any]]:
        return create_v04(path, image, shapes, dtype, notes)


def create_v05(
    path: Path,
    image: v05.Image,
    shapes: list[Shape],
    dtype: np.dtype[Any],
    notes: dict[str, Any],
) -> list[zarr.Array[Any]]:
    """Make an OME-Zarr 0.5 and return its empty arrays, the largest first."""
    _, arrays = prepare_image(
        path,
        image,
        [(each, dtype) for each in shapes],
        extra_attributes=notes or None,
        chunks=(1, CHUNK, CHUNK),
        writer="zarr",
    )
    return list(arrays.values())


def create_v04(
    path: Path,
    image: v05.Image,
    shapes: list[Shape],
    dtype: np.dtype[Any],
    notes: dict[str, Any],
) -> list[zarr.Array[Any]]:
    """Make an OME-Zarr 0.4 and return its empty arrays, the largest first."""
    said = image.model_dump(mode="json", exclude_none=True, by_alias=True)
    said["multiscales"] = [{**m, "version": "0.4"} for m in said["multiscales"]]
    said.pop("version", None)
    model = v04.LabelImage if "image-label" in said else v04.Image
    older: v04.Image = model.model_validate(said)
    group = zarr.open_group(path, mode="w-", zarr_format=2)
    group.attrs.update(
        older.model_dump(mode="json", exclude_none=True, by_alias=True) | notes
    )
    return [
        group.create_array(
            each.path,
            shape=shape,
            chunks=tuple(map(min, (1, CHUNK, CHUNK), shape)),
            dtype=dtype,
            fill_value=0,
            compressors=Blosc(cname="zstd", clevel=3, shuffle=Blosc.SHUFFLE),
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        for each, shape in zip(older.multiscales[0].datasets, shapes, strict=True)
    ]


def pyramid(shape: Shape) -> list[Shape]:
    """Return the shapes of all levels."""
    shapes = [shape]
    # z keeps its length: sections are shown and corrected one at a time
    while max(shapes[-1][1:]) > CHUNK:
        z, y, x = shapes[-1]
        shapes.append((z, -(-y // 2), -(-x // 2)))
    return shapes


def fill(
    levels: list[zarr.Array[Any]], z: int, values: NDArray[Any], *, ids: bool
) -> None:
    """Write section `z` `(y, x)` into all levels; of ids every second pixel."""
    for level in levels:
        level[z] = values
        # a mean of ids would be the id of another cell
        values = values[::2, ::2] if ids else half(values)


def half(values: NDArray[Any]) -> NDArray[Any]:
    """Return means of 2 × 2 px; an odd border is repeated."""
    y, x = values.shape
    even = np.pad(values, ((0, y % 2), (0, x % 2)), mode="edge")
    mean = even.reshape(even.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
    if values.dtype.kind in "iu":
        mean = np.rint(mean)
    half: NDArray[Any] = mean.astype(values.dtype)
    return half


def describe_levels(
    shapes: list[Shape],
    size: VoxelSize | None,
    name: str,
    *,
    centred: bool,
    origin: Origin = NOWHERE,
) -> v05.Image:
    """Return the notes: axes with units, and scale and shift of each level.

    Where the voxel size is unknown the origin is, too.
    """
    known = size or (None, None, None)
    axes = [
        v05.SpaceAxis(name=axis, unit=None if length is None else "nanometer")
        for axis, length in zip("zyx", known, strict=True)
    ]
    z, y, x = (1.0 if length is None else length for length in known)
    top, row, column = (
        0.0 if length is None else at for length, at in zip(known, origin, strict=True)
    )
    moved = any((top, row, column))
    datasets = []
    for nth in range(len(shapes)):
        step = 2**nth
        # OME-Zarr places the middle of the first voxel: the mean of 2 × 2 px lies half
        # a pixel further, while every second pixel of ids stays where it was
        shift = (step - 1) / 2 if centred else 0.0
        moves: list[v05.ScaleTransformation | v05.TranslationTransformation] = [
            v05.ScaleTransformation(scale=[z, y * step, x * step]),
            v05.TranslationTransformation(
                translation=[top, row + y * shift, column + x * shift]
            ),
        ]
        if nth == 0 and not moved:
            moves.pop()
        datasets.append(v05.Dataset(path=str(nth), coordinateTransformations=moves))
    multiscale = v05.Multiscale(name=name, axes=axes, datasets=datasets)
    return v05.Image(multiscales=[multiscale])
