"""Write sections into an OME-Zarr with smaller copies for large sections."""

from __future__ import annotations  # zarr 3.1.2 has no Array[Any]

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray

from napari_emseg._installed import TESTED, incompatible
from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import NOWHERE, Origin, VoxelSize
from napari_emseg.io.formats import SinkOptions
from napari_emseg.io.output import Output, SlabSink, slab_depth

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
    raise incompatible("yaozarrs", TESTED["yaozarrs"], e) from e

__all__ = ["MODELS", "prepare_image", "v04", "v05"]


CHUNK = 1024
"""Side of a chunk in px that is one section deep."""

DEEP_CHUNK = (16, 256, 256)
"""For views from the side too, which read a row of chunks instead of all sections."""

_IDS = ("uint32", "uint64")

Shape: TypeAlias = tuple[int, int, int]


class ZarrSink(SlabSink):
    """An OME-Zarr 0.5 whose sections are filled in any order.

    `Zarr04Sink` writes the older form, `Zarr3dSink` chunks for views from the side.

    Sections wider than a chunk get copies of half the size until one chunk holds them:
    means of 2 × 2 px, for ids (uint32, uint64) every second pixel.

    Raises
    ------
    OSError
        As `Output`.
    """

    most: ClassVar[Shape] = (1, CHUNK, CHUNK)
    """Of a chunk."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        options: SinkOptions,
    ) -> None:
        chunk = fitting_chunk(self.most, shape, dtype.itemsize)
        output = Output(path, overwrite=options.overwrite)
        super().__init__(output, shape, dtype, chunk[0], options.provenance)
        self._ids = dtype.name in _IDS
        shapes = pyramid(shape, chunk[1])
        image = describe_levels(
            shapes,
            options.voxel_size_nm,
            path.name,
            centred=not self._ids,
            origin=options.origin_nm,
        )
        made = options.provenance
        notes = {"emseg": made.model_dump()} if made else {}
        with self._output.beginning() as part, _all_chunks(dtype):
            self._levels = self._create(part, image, shapes, dtype, notes, chunk)

    def _create(
        self,
        path: Path,
        image: v05.Image,
        shapes: list[Shape],
        dtype: np.dtype[Any],
        notes: dict[str, Any],
        chunk: Shape,
    ) -> list[zarr.Array[Any]]:
        """Make the group and its empty arrays, the largest first."""
        return create_v05(path, image, shapes, dtype, notes, chunk)

    def _tell(self, made: Provenance) -> None:
        group = zarr.open_group(self._output.part, mode="r+")
        group.attrs["emseg"] = made.model_dump()

    def _store_run(self, z: int, values: NDArray[Any]) -> None:
        """Store sections `(n, y, x)` from z on, and their smaller copies."""
        fill(self._levels, z, values, ids=self._ids)


class Zarr3dSink(ZarrSink):
    """An OME-Zarr 0.5 that is quick to look at from all sides."""

    most = DEEP_CHUNK


class Zarr04Sink(ZarrSink):
    """An OME-Zarr 0.4, which is Zarr 2."""

    def _create(
        self,
        path: Path,
        image: v05.Image,
        shapes: list[Shape],
        dtype: np.dtype[Any],
        notes: dict[str, Any],
        chunk: Shape,
    ) -> list[zarr.Array[Any]]:
        return create_v04(path, image, shapes, dtype, notes, chunk)


@contextmanager
def _all_chunks(dtype: np.dtype[Any]) -> Iterator[None]:
    """Have arrays write chunks of floats without looking whether all of it is 0.

    That takes a quarter of the time, and probabilities hardly ever are.
    """
    with zarr.config.set({"array.write_empty_chunks": dtype.kind == "f"}):
        yield


def create_v05(
    path: Path,
    image: v05.Image,
    shapes: list[Shape],
    dtype: np.dtype[Any],
    notes: dict[str, Any],
    chunk: Shape = ZarrSink.most,
) -> list[zarr.Array[Any]]:
    """Make an OME-Zarr 0.5 and return its empty arrays, the largest first."""
    _, arrays = prepare_image(
        path,
        image,
        [(each, dtype) for each in shapes],
        extra_attributes=notes or None,
        chunks=chunk,
        writer="zarr",
        # probabilities hardly shrink, whatever is tried
        compression="blosc-lz4" if dtype.kind == "f" else "blosc-zstd",
    )
    return list(arrays.values())


def create_v04(
    path: Path,
    image: v05.Image,
    shapes: list[Shape],
    dtype: np.dtype[Any],
    notes: dict[str, Any],
    chunk: Shape = ZarrSink.most,
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
            chunks=tuple(map(min, chunk, shape)),
            dtype=dtype,
            fill_value=0,
            compressors=Blosc("lz4" if dtype.kind == "f" else "zstd", clevel=3),
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        for each, shape in zip(older.multiscales[0].datasets, shapes, strict=True)
    ]


DATASET = "datasource-properties.json"
"""In which webKnossos keeps what a folder's layers are."""

_ELEMENTS = {"float32": "float", "float64": "double"}
"""Words of webKnossos for types, where they differ from numpy's."""


@dataclass(frozen=True, slots=True)
class WebknossosLayer:
    """An array and its smaller copies, as webKnossos sees them.

    Parameters
    ----------
    folder
        In which the levels lie: empty, or ending in a slash.
    largest
        The largest id of cells; 0 for a picture.
    """

    name: str
    folder: str
    levels: list[zarr.Array[Any]]
    largest: int = 0

    def described(self, *, older: bool) -> dict[str, Any]:
        """Return its part of the notes; `older` for Zarr 2."""
        z, y, x = self.levels[0].shape
        dtype = self.levels[0].dtype.name
        cells = {"largestSegmentId": self.largest} if self.largest else {}
        return {
            "name": self.name,
            "category": "segmentation" if dtype in _IDS else "color",
            "boundingBox": {"topLeft": [0, 0, 0], "width": x, "height": y, "depth": z},
            "dataFormat": "zarr" if older else "zarr3",
            "mags": [
                {
                    "mag": [2**nth, 2**nth, 1],
                    "path": f"./{self.folder}{nth}",
                    "axisOrder": {"x": 2, "y": 1, "z": 0},
                }
                for nth in range(len(self.levels))
            ],
            "numChannels": 1,
            "elementClass": _ELEMENTS.get(dtype, dtype),
            **cells,
        }


def describe_layers(
    output: Output, layers: list[WebknossosLayer], size: VoxelSize | None
) -> None:
    """Make an OME-Zarr a dataset of webKnossos, too, if its voxel size is known.

    Of types that webKnossos hasn't (masks, half precision) none is made.
    """
    kinds = {layer.levels[0].dtype.name for layer in layers}
    if size is None or size[0] is None or kinds & {"bool", "float16"}:
        return
    older = layers[0].levels[0].metadata.zarr_format == 2
    notes = {
        "id": {"name": output.path.name, "team": ""},
        "scale": {"factor": [size[2], size[1], size[0]], "unit": "nanometer"},
        "dataLayers": [layer.described(older=older) for layer in layers],
        "version": 1,
    }
    text = json.dumps(notes, indent=1)
    (output.part / DATASET).write_text(text, encoding="utf-8")


def fitting_chunk(most: Shape, shape: Shape, itemsize: int) -> Shape:
    """Return the shape of chunks, less deep where sections are large."""
    return slab_depth(shape, itemsize, most[0]), most[1], most[2]


def pyramid(shape: Shape, side: int = CHUNK) -> list[Shape]:
    """Return the shapes of all levels, until a chunk of a side holds a section."""
    shapes = [shape]
    # z keeps its length: sections are shown and corrected one at a time
    while max(shapes[-1][1:]) > side:
        z, y, x = shapes[-1]
        shapes.append((z, -(-y // 2), -(-x // 2)))
    return shapes


def fill(
    levels: list[zarr.Array[Any]], z: int, values: NDArray[Any], *, ids: bool
) -> None:
    """Write sections `(n, y, x)` from z on into all levels; of ids every second pixel.

    One section may also be `(y, x)`.
    """
    values = values.reshape(-1, *values.shape[-2:])
    for nth, level in enumerate(levels):
        if nth:
            # a mean of ids would be the id of another cell
            values = values[:, ::2, ::2] if ids else half(values)
        level[z : z + len(values)] = values


def half(values: NDArray[Any]) -> NDArray[Any]:
    """Return means of 2 × 2 px of sections `(…, y, x)`; an odd border is repeated."""
    *above, y, x = values.shape
    even = values
    if y % 2 or x % 2:
        odd = [(0, 0)] * len(above) + [(0, y % 2), (0, x % 2)]
        even = np.pad(values, odd, mode="edge")
    # sums of integers would overflow
    even = even.astype(np.result_type(values.dtype, np.float32), copy=False)
    rows = even[..., ::2, :] + even[..., 1::2, :]  # several times as fast as a mean
    mean = rows[..., ::2] + rows[..., 1::2]
    mean /= 4
    if values.dtype.kind in "iu":
        np.rint(mean, out=mean)
    half: NDArray[Any] = mean.astype(values.dtype, copy=False)
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
