"""TIFF in all its forms, read page by page: OME, ImageJ, pyramids, BigTIFF, tiles."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage, TiffPageSeries

from napari_emseg.io.claims import check_shape
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.tiff_pages import (
    JPEG,
    Pages,
    check_ome,
    check_page,
    check_parts,
    chunk_of,
    files_of_ome,
    provenance,
    voxel_size_nm,
)
from napari_emseg.io.volumes import (
    CMYK,
    FileContents,
    Index,
    RawPlanes,
    Volume,
    array_volume,
)

_PAIR = 2
"""Pictures, of which one may be the labels of the other: that is asked."""

_MIN_IS_WHITE = 0
_PALETTE = 3
_INKS = 5


def contents(path: Path) -> FileContents:
    """List the series of a TIFF file and their pyramid levels."""
    tif, series, files = _open(path)
    # Closed with the last volume that reads from it.
    pages = Pages(path, tif)
    volumes = tuple(
        _volume(pages, one, nth) for nth, one in enumerate(series) if _is_whole(one)
    )
    default = 0 if len(volumes) == 1 else None
    if _are_sections(volumes):
        kinds = {one.kind for one in series}
        if len(volumes) > _PAIR and kinds <= {"shaped", "generic", "uniform"}:
            default = 0
        volumes = (_as_sections(volumes), *volumes)
    return FileContents(
        volumes,
        default=default,
        question=_question(series),
        provenance=provenance(tif),
        files=tuple(file for file in files if file.resolve() != path.resolve()),
    )


def _are_sections(volumes: tuple[Volume, ...]) -> bool:
    """Tell if pictures can be the sections of a stack that was saved one by one."""
    alike = {(v.axes, v.shape, v.dtype, v.voxel_size_nm) for v in volumes}
    return len(volumes) > 1 == len(alike) and volumes[0].axes in ("YX", "YXS")


def _as_sections(volumes: tuple[Volume, ...]) -> Volume:
    """Return pictures that are alike as one stack."""
    first = volumes[0]
    chunks = {volume.chunk for volume in volumes}

    def read(index: Index) -> NDArray[Any]:
        return volumes[index[0]].read(())

    def part(index: Index, rows: slice, columns: slice) -> NDArray[Any]:
        one = volumes[index[0]].part
        return read(index)[rows, columns] if one is None else one((), rows, columns)

    return replace(
        first,
        axes=f"Z{first.axes}",
        shape=(len(volumes), *first.shape),
        read=read,
        part=part,
        chunk=first.chunk if len(chunks) == 1 else None,
        key="z",
        words="they are the sections",
        levels=(),
        lossy=any(volume.lossy for volume in volumes),
    )


def spanned_files(path: Path) -> tuple[Path, ...]:
    """Return the files over which an OME-TIFF is spread; none if it is in one.

    Raises
    ------
    OSError, ValueError
        If it is no TIFF, or names files outside of its folder.
    """
    with TiffFile(path) as tif:
        return files_of_ome(tif, path)


def _open(path: Path) -> tuple[TiffFile, list[TiffPageSeries], tuple[Path, ...]]:
    """Open a file and parse its pages; return also the files that it is spread over.

    Raises
    ------
    UnreadableError
        If the chain of pages is broken, of which tifffile only tells its log.
    """
    with _complaints() as complaints:
        tif = TiffFile(path)
        try:
            # finds circles among pages, which going on would not
            check_ome(tif, len(tif.pages))
            files = files_of_ome(tif, path)
            check_parts(tif, path)
            series = _series(tif)
            for one in series:
                check_shape(tuple(one.shape))
                check_page(one.keyframe)
        except BaseException:
            tif.close()
            raise
    # tifffile goes on with the pages that it could read, and a stack would be short
    damage = [c for c in complaints if "TiffPages" in c or "corrupted" in c]
    if damage or not series:
        tif.close()
        cause = damage[0].partition("> ")[2] if damage else "has no pages"
        msg = f"is damaged or cut short: {cause}"
        raise UnreadableError(msg)
    return tif, series, files


def _series(tif: TiffFile) -> list[TiffPageSeries]:
    # The list that newer tifffile returns is empty until it is looked at, and looking
    # at it is what fails where pages are damaged.
    try:
        return list(tif.series)
    except RuntimeError:  # a page unlike the others among many
        tif.is_uniform = False
        return list(tif.series)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect the errors that tifffile logs in this thread, instead of showing them."""
    heard: list[str] = []
    thread = threading.get_ident()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread and record.levelno >= logging.ERROR:
                heard.append(record.getMessage())

    log, ear = logging.getLogger("tifffile"), Ear()
    log.addHandler(ear)
    try:
        yield heard
    finally:
        log.removeHandler(ear)


def _is_whole(series: TiffPageSeries) -> bool:
    """Tell a picture from a thumbnail beside one."""
    return not series.keyframe.is_reduced


def _question(series: list[TiffPageSeries]) -> str:
    if any(one.kind not in ("generic", "uniform") for one in series):
        return "holds several pictures"
    a, b = series[:2] if len(series) > 1 else (series[0], series[0])
    return (
        f"has pages of unlike shape: page {a.keyframe.index} is {a.keyframe.shape} "
        f"{a.dtype}, page {b.keyframe.index} is {b.keyframe.shape} {b.dtype}"
    )


class _SeriesArray:
    """A series as an array that is indexed by an integer for each axis over pages."""

    def __init__(self, pages: Pages, series: TiffPageSeries, axes: str) -> None:
        self.shape = tuple(series.shape)
        self.dtype = np.dtype(series.dtype)
        self._tone = _tone(series.keyframe)
        self._lead = _axes_over_pages(self.shape, series.keyframe.size)
        self._planes: RawPlanes | None = None
        self._pages = pages
        self._series = series
        if series.dataoffset is not None:
            stored = self.dtype.newbyteorder(pages.tif.byteorder)
            # `find` gives -1 for an axis that isn't there, and
            # -1 % 99 is 98: never the minimum
            self._lead = min(axes.find(a) % 99 for a in "YXS")
            self._planes = RawPlanes(
                pages.path,
                series.dataoffset,
                stored,
                self.shape,
                len(self.shape) - self._lead,
            )

    @property
    def chunk(self) -> tuple[int, int] | None:
        """`(y, x)` of what is read at once of a picture; None: all of it."""
        if self._planes is None:
            return chunk_of(self._series)
        return self._planes.chunk if self._planes.tail == 2 else None

    def __getitem__(self, key: Index) -> NDArray[Any]:
        lead, rest = key[: self._lead], key[self._lead :]
        if self._planes is not None:
            if self._planes.tail == 2 and isinstance(rest[0], slice):
                return self._tone(self._planes.rows(lead, rest[0])[:, rest[1]])
            return self._tone(self._planes(lead)[rest])
        over = self.shape[: self._lead]
        nth = int(np.ravel_multi_index(lead, over)) if over else 0
        whole = rest == (slice(None), slice(None))
        if self.chunk is not None and len(rest) == 2 and not whole:
            return self._tone(self._pages.read_part(self._series, nth, *rest))
        page = self._pages.read(self._series, nth)
        return self._tone(page.reshape(self.shape[self._lead :])[rest])


def _axes_over_pages(shape: tuple[int, ...], page_size: int) -> int:
    """Return how many of the first axes count pages."""
    # the first axes are over pages until what is left fits into one
    return next(n for n in range(len(shape)) if prod(shape[n:]) <= page_size)


def _tone(page: TiffPage) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return what turns stored values into grey values with bright = high."""
    if page.photometric == _PALETTE and page.colormap is not None:
        ramp = page.colormap[0]
        grey = all(np.array_equal(ramp, other) for other in page.colormap[1:])
        # a palette that falls: low values are bright
        if grey and ramp[0] > ramp[-1]:
            return lambda values: (len(ramp) - 1 - values).astype(values.dtype)
    # tifffile marks every mask so, and its ones are ones.
    mask = page.bitspersample == 1 and "tifffile" in page.software
    if page.photometric != _MIN_IS_WHITE or mask:
        return lambda values: values
    if page.dtype is not None and page.dtype.kind == "f":
        return np.negative
    if page.dtype is not None and page.dtype.kind == "u":
        top = 2**page.bitspersample - 1
        return lambda values: values.dtype.type(top) - values
    return np.invert


def _volume(pages: Pages, series: TiffPageSeries, nth: int) -> Volume:
    size = voxel_size_nm(pages.tif, nth)
    full = _level(pages, series)
    levels = []
    for smaller in series.levels[1:]:
        level = _level(pages, smaller)
        if size is not None:
            y, x = (full.sizes[axis] / level.sizes[axis] for axis in "YX")
            level = replace(level, voxel_size_nm=(size[0], size[1] * y, size[2] * x))
        levels.append(level)
    return replace(
        full, voxel_size_nm=size, key=nth, words=series.name, levels=tuple(levels)
    )


def _level(pages: Pages, series: TiffPageSeries) -> Volume:
    # tifffile calls those of a single pixel XYX: the last ones are the picture's
    axes = "".join(
        "Q" if axis in series.axes[nth + 1 :] else axis
        for nth, axis in enumerate(series.axes)
    )
    if series.keyframe.photometric == _INKS:
        raise UnreadableError(CMYK)
    two = series.keyframe.samplesperpixel == 2
    if two and not any(kind in (1, 2) for kind in series.keyframe.extrasamples):
        axes = axes.replace("S", "C")  # two channels, not grey with transparency
    planes = _are_planes(series)
    if planes:
        axes = axes.replace("S", "C")
    array = _SeriesArray(pages, series, axes)
    volume = replace(array_volume(array, axes), chunk=array.chunk, planes=planes)
    lossy = series.keyframe.compression in JPEG and volume.dtype == np.uint8
    return replace(volume, lossy=lossy)


def _are_planes(series: TiffPageSeries) -> bool:
    """Tell sections from the colours of a picture, where planes follow one another.

    tifffile, and all that save by it, mark any array of shape (3, y, x) or (4, y, x) as
    red, green, blue (and alpha); other programs don't write colour of such types.
    """
    page, axes = series.keyframe, series.axes
    if not 0 <= axes.find("S") < axes.find("Y"):
        return False
    if np.dtype(series.dtype) not in (np.uint8, np.uint16):
        return True
    by_tifffile = series.kind == "shaped" or "tifffile" in page.software
    return by_tifffile and prod(series.shape[: axes.find("S")]) == 1
