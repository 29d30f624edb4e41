"""Pages of an open TIFF: whole, or no more of their strips and tiles than is wanted."""

from __future__ import annotations

import weakref
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from napari_emseg.io.claims import DEFLATE, check_packed
from napari_emseg.io.claims import JPEG as JPEG_RATIO
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.planes import ROWS, RawPlanes
from napari_emseg.io.tiff_notes import missing_part

JPEG = (6, 7, 33007, 34892)
"""Compressions whose tables may stand in the page's notes."""


class Pages:
    """Reads pages of an open file from any thread; closes it when no longer used."""

    def __init__(self, path: Path, tif: TiffFile) -> None:
        self.path = path
        self.tif = tif
        tif.filehandle.set_lock(True)
        # The file's own lock: values are read under it too, which moves the file.
        self.lock = tif.filehandle.lock
        weakref.finalize(self, tif.close)

    def read(self, series: TiffPageSeries, nth: int) -> NDArray[Any]:
        """Return page `nth` of a series as stored."""
        with self.lock:
            page = self._page(series, nth)
            if page.parent is not self.tif:
                return self._read_elsewhere(page)
            self._check(page, series)
        return np.asarray(page.asarray())

    def read_part(
        self, series: TiffPageSeries, nth: int, rows: slice, columns: slice
    ) -> NDArray[Any]:
        """Return rows and columns of page `nth`, which `chunk_of` says can be cut."""
        with self.lock:
            page = self._page(series, nth)
            if page.parent is not self.tif:
                return self._read_elsewhere(page)[rows, columns]
            self._check(page, series)
        like = page.keyframe or series.keyframe
        y, x = (range(n)[s] for n, s in zip(like.shape, (rows, columns), strict=True))
        if like.is_contiguous:
            return self._rows(page, like, y)[:, columns]
        return self._segments(page, like, y, x)

    def _rows(
        self, page: TiffPage | TiffFrame, like: TiffPage, y: range
    ) -> NDArray[Any]:
        """Read rows that lie one after the other, as they are."""
        dtype = np.dtype(like.dtype).newbyteorder(self.tif.byteorder)
        first = page.dataoffsets[0]
        planes = RawPlanes(self.path, first, dtype, like.shape, tail=2)
        return planes.rows((), slice(y.start, y.stop))

    def _segments(
        self, page: TiffPage | TiffFrame, like: TiffPage, y: range, x: range
    ) -> NDArray[Any]:
        """Decode the strips or tiles that have some of the rows and columns."""
        height, width = like.chunks
        out = np.zeros((len(y), len(x)), like.dtype)
        down = range(y.start // height, -(-y.stop // height))
        across = range(x.start // width, -(-x.stop // width))
        tables = {"jpegtables": page.jpegtables, "jpegheader": like.jpegheader}
        options = tables if like.compression in JPEG else {}
        for row, column in product(down, across):
            index = row * like.chunked[1] + column
            data = self._bytes(page, index)
            decoded = like.decode(data, index, _fullsize=like.is_tiled, **options)[0]
            top, left = row * height, column * width
            if decoded is None:
                out[_cut(y, top, height), _cut(x, left, width)] = like.nodata
                continue
            values = decoded.reshape(-1, decoded.shape[-2])
            seen = values[_seen(y, top, height), _seen(x, left, width)]
            out[_cut(y, top, height), _cut(x, left, width)] = seen
        return out

    def _bytes(self, page: TiffPage | TiffFrame, index: int) -> bytes | None:
        """Read what is stored of a strip or tile; None: nothing."""
        count = page.databytecounts[index]
        if not count:
            return None
        with self.lock:
            self.tif.filehandle.seek(page.dataoffsets[index])
            return bytes(self.tif.filehandle.read(count))

    def _page(self, series: TiffPageSeries, nth: int) -> TiffPage | TiffFrame:
        page = series[nth]
        if page is None:
            part = missing_part(self.tif, nth) or "another one"
            msg = f"page {nth} is missing; the file says it is in {part}"
            if part != "another one":
                msg += ", which can't be read or isn't there under this name"
            raise UnreadableError(msg)
        return page

    def _read_elsewhere(self, page: TiffPage | TiffFrame) -> NDArray[Any]:
        """Read a page of an OME series that spans files, which tifffile closes."""
        handle = page.parent.filehandle
        handle.open()
        try:
            return np.asarray(page.asarray())
        finally:
            handle.close()

    def _check(self, page: TiffPage | TiffFrame, series: TiffPageSeries) -> None:
        size = self.tif.filehandle.size
        ends = zip(page.dataoffsets, page.databytecounts, strict=False)
        if not page.dataoffsets or max(a + n for a, n in ends) > size:
            msg = f"page {page.index} is cut short, the file ends before its values"
            raise UnreadableError(msg)
        # tifffile would fill in zeros.
        stored = min(len(page.dataoffsets), len(page.databytecounts))
        like = page.keyframe or series.keyframe
        needed = 1 if like.is_contiguous else prod(like.chunked)
        if stored < needed:
            msg = f"page {page.index} has {stored} of {needed} strips or tiles only"
            raise UnreadableError(msg)
        check_page(page, like)
        if series.kind == "uniform" and page.aspage().shape != series.keyframe.shape:
            msg = (
                f"page {page.index} is {page.aspage().shape}, "
                f"where {series.keyframe.shape} was expected"
            )
            raise UnreadableError(msg)


_RATIOS = {
    **dict.fromkeys((1, 32771), 1),
    **dict.fromkeys((8, 32946, 34933, 50013), DEFLATE),
    **dict.fromkeys((6, 7, 33007), JPEG_RATIO),
    32773: 64,  # PackBits: 128 bytes of two
    5: 2560,  # LZW: a string of 3,839 bytes in a code of 12 bits
    34925: 7100,  # LZMA
    50000: 43_700,  # Zstandard: 128 KiB in three bytes
}
"""Bytes that a byte of a compression can stand for; of others there is no bound."""


def check_page(page: TiffPage | TiffFrame, like: TiffPage | None = None) -> None:
    """Refuse a page that claims more pixels than its strips or tiles can hold.

    Those of which nothing is stored are sparse, and stand for nothing.

    Raises
    ------
    UnreadableError
        If they can't.
    """
    like = like or page.aspage()
    ratio = _RATIOS.get(like.compression)
    stored = [n for n in page.databytecounts if n > 0]
    if ratio is None or like.dtype is None or not stored:
        return
    bits = max(1, min(8, like.bitspersample))  # fewer than eight become a byte
    claimed = min((like.shape, (len(stored), *like.chunks)), key=prod)
    check_packed(claimed, like.dtype.itemsize, sum(stored) * (8 // bits), ratio)


def chunk_of(series: TiffPageSeries) -> tuple[int, int] | None:
    """Return `(y, x)` of what can be read of a page at once; None: all of it."""
    like = series.keyframe
    if like.samplesperpixel > 1 or like.imagedepth > 1 or len(like.shape) != 2:
        return None
    if series.axes[-2:] != "YX" or tuple(series.shape[-2:]) != like.shape:
        return None
    if like.is_contiguous:
        plain = like.predictor == like.fillorder == 1
        return (min(ROWS, like.shape[0]), like.shape[1]) if plain else None
    if like.is_subsampled or like.chunks[0] >= like.shape[0]:
        return None
    height, width = like.chunks
    return height, min(width, like.shape[1])


def _cut(wanted: range, start: int, length: int) -> slice:
    """Return where a segment's part of what is wanted goes."""
    first = max(wanted.start, start)
    return slice(first - wanted.start, min(wanted.stop, start + length) - wanted.start)


def _seen(wanted: range, start: int, length: int) -> slice:
    """Return what of a segment is wanted."""
    return slice(max(wanted.start - start, 0), min(wanted.stop - start, length))
