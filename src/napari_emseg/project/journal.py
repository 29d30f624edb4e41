"""What changes of a project are written to: a journal of edits, pictures in chunks."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from imagecodecs import ZstdError, zstd_decode, zstd_encode
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, ZstdCodec

from napari_emseg.core.atomic import sync
from napari_emseg.core.paths import (
    UnsafePathError,
    is_link,
    path_inside,
    read_bounded,
    remove_inside,
)
from napari_emseg.core.regions import Area, within
from napari_emseg.io.claims import check_memory
from napari_emseg.io.errors import UnreadableError

STAGED = "staged"
SLASH = ","
"""Between the names of folders in the name of a staged file."""

AT = "@"
"""Between the name of a file and the length at which something is appended."""


class Journal:
    """Changes of files in a folder, made together.

    Parameters
    ----------
    allowed
        Pattern of the names of all files that change so. What is staged may come from
        somebody else; of other names, nothing is moved at all.
    """

    def __init__(self, folder: Path, allowed: re.Pattern[str]) -> None:
        self._folder = folder
        self._allowed = allowed
        self._staged = folder / STAGED
        self._part = folder / f"{STAGED}.part"

    def begin(self) -> None:
        """Start anew; what is waiting for its place is moved there first.

        Raises
        ------
        OSError
            If the folder is gone, or can't be written to.
        """
        self.finish()
        remove_inside(self._folder, self._part.name)
        self._part.mkdir()

    def replace(self, name: str, content: bytes) -> None:
        """Give a file another content; `name` is relative, with slashes."""
        write(self._part / name.replace("/", SLASH), content)

    def append(self, name: str, content: bytes, at: int) -> None:
        """Let a file go on with other content from its byte `at`."""
        self.replace(f"{name}{AT}{at}", content)

    def commit(self) -> None:
        """Make all changes since `begin`.

        Raises
        ------
        OSError
            Before this has any effect; see `finish` for after.
        """
        for file in self._part.iterdir():
            sync(file)
        sync(self._part)
        # the moment from which all changes count: one rename, which is done or not
        self._part.rename(self._staged)
        sync(self._folder)

    @property
    def waiting(self) -> bool:
        """True while committed files are not in their places."""
        return os.path.lexists(self._staged)

    def finish(self) -> None:
        """Move committed files to their places.

        Raises
        ------
        UnsafePathError
            If what waits there is not what this program stages; nothing is moved then.
        OSError
            If that can't be done now; it may be tried again.
        """
        if not self.waiting:
            return
        # all are looked at before the first is moved
        for file, target, at in list(self._moves()):
            if at is not None:
                _append(file, target, at)
            else:
                # may be repeated after a crash: what was moved is no longer staged, and
                # appending starts from a fixed length
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        # file systems keep the order of renames: if these are lost, so is the removal
        shutil.rmtree(self._staged)

    def _moves(self) -> Iterator[tuple[Path, Path, int | None]]:
        """Yield what is staged, where it goes, and where it is appended if it is."""
        path_inside(self._folder, STAGED)
        for file in sorted(self._staged.iterdir()):
            name, mark, at = file.name.partition(AT)
            name = name.replace(SLASH, "/")
            target = path_inside(self._folder, name, allowed=self._allowed)
            if is_link(file) or not file.is_file():
                msg = f"{file} is no regular file, and nothing else is saved"
                raise UnsafePathError(msg)
            yield file, target, _length(file, target, at) if mark else None


def write(path: Path, content: bytes) -> None:
    """Write a file; it may not be on the disk yet, see `sync`."""
    with path.open("wb") as file:
        file.write(content)


def _length(file: Path, target: Path, at: str) -> int:
    """Return at which byte of `target` a staged file belongs.

    Raises
    ------
    UnsafePathError
        If that is no number, or beyond the end.
    """
    there = target.stat().st_size if target.exists() else 0
    if not (at.isascii() and at.isdigit() and len(at) < 16 and int(at) <= there):
        msg = f"{file}: {at!r} is no place in {target.name}, which has {there} bytes"
        raise UnsafePathError(msg)
    return int(at)


def _append(file: Path, path: Path, at: int) -> None:
    """Append, in such a way that doing it twice does it once."""
    with path.open("r+b" if path.exists() else "wb") as out:
        out.truncate(at)
        out.seek(at)
        out.write(file.read_bytes())
        out.flush()
        os.fsync(out.fileno())
    file.unlink()


CHUNK = 512
"""Side of a chunk in px; a chunk is one section deep, as edits are."""

LEVEL = 1
"""Of compression: labels shrink fifty times at the quickest."""

META_BYTES = 2**16
"""An array's own description is smaller."""

Place = tuple[int, int, int]
"""Section, row and column of a chunk, counted in chunks."""


def create_array(folder: Path, shape: tuple[int, int, int], dtype: str) -> None:
    """Make an empty Zarr 3 array whose chunks `Chunked` writes."""
    zarr.create_array(
        folder,
        shape=shape,
        dtype=dtype,
        chunks=(1, CHUNK, CHUNK),
        fill_value=0,
        dimension_names=("z", "y", "x"),
        serializer=BytesCodec(
            endian="little" if np.dtype(dtype).itemsize > 1 else None
        ),
        compressors=ZstdCodec(level=LEVEL),
    )


class Chunked:
    """An array in a Zarr, with changes that are not written yet.

    Chunks are files; reading and writing them by hand takes no event loop, and so also
    works while the program ends.

    Parameters
    ----------
    folder
        Of the Zarr.
    shape, dtype
        As it was made.

    Raises
    ------
    UnreadableError
        If it is missing, damaged, or not as `create_array` made it.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: str) -> None:
        self._folder = folder
        _check_metadata(folder, shape, dtype)
        self.shape = shape
        self.dtype = np.dtype(dtype)
        # whole chunks `(CHUNK, CHUNK)`, also at the border, as Zarr has them; they are
        # read before files are, so that unsaved changes are seen
        self._changed: dict[Place, NDArray[Any]] = {}

    @property
    def nbytes_changed(self) -> int:
        """Memory of chunks that are to be written."""
        return sum(chunk.nbytes for chunk in self._changed.values())

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        z, area = self._resolved(key)
        rows, columns = area
        values = (rows.stop - rows.start) * (columns.stop - columns.start)
        check_memory(values * self.dtype.itemsize, f"a section of {self._folder}")
        out = np.zeros(
            (rows.stop - rows.start, columns.stop - columns.start), self.dtype
        )
        for place, part in self._chunks(z, area):
            chunk = self._read(place)
            if chunk is not None:
                out[within(part, area)] = chunk[within(part, _extent(place))]
        return out

    def __setitem__(self, key: Any, value: Any, /) -> None:
        z, area = self._resolved(key)
        rows, columns = area
        shape = rows.stop - rows.start, columns.stop - columns.start
        values = np.broadcast_to(np.asarray(value, self.dtype), shape)
        for place, part in self._chunks(z, area):
            new = values[within(part, area)]
            inside = within(part, _extent(place))
            chunk = self._read(place)
            old = np.zeros((CHUNK, CHUNK), self.dtype) if chunk is None else chunk
            if not np.array_equal(old[inside], new):
                # what was read from a file lies in read-only memory
                if place not in self._changed:
                    old = old.copy()
                old[inside] = new
                self._changed[place] = old

    def changed(self) -> Iterator[tuple[str, bytes]]:
        """Yield the chunks that are to be written: name in the folder, and content."""
        for (z, row, column), chunk in self._changed.items():
            content = np.ascontiguousarray(chunk, self.dtype.newbyteorder("<"))
            yield f"c/{z}/{row}/{column}", bytes(zstd_encode(content.tobytes(), LEVEL))

    def written(self) -> None:
        """Forget changes; they are in the files."""
        self._changed.clear()

    def _read(self, place: Place) -> NDArray[Any] | None:
        """Return a chunk `(y, x)`; None where there is nothing but 0."""
        if place in self._changed:
            return self._changed[place]
        path = self._folder.joinpath("c", *map(str, place))
        wanted = CHUNK * CHUNK * self.dtype.itemsize
        try:
            # what can't be compressed takes a little more than it is
            packed = read_bounded(path, 2 * wanted)
        except FileNotFoundError:
            return None
        try:
            content = zstd_decode(packed, out=wanted)
        except ZstdError as e:
            msg = f"{path} is damaged: {e}"
            raise UnreadableError(msg) from e
        if len(content) != wanted:
            msg = f"{path} is damaged: {len(content)} bytes instead of {wanted}"
            raise UnreadableError(msg)
        # read-only, and not copied: callers that change it copy first
        values = np.frombuffer(content, self.dtype.newbyteorder("<"))
        return values.reshape(CHUNK, CHUNK)

    def _resolved(self, key: Any) -> tuple[int, Area]:
        _, height, width = self.shape
        z, *area = key if isinstance(key, tuple) else (key,)
        rows, columns = (*area, slice(None), slice(None))[:2]
        y, x = rows.indices(height), columns.indices(width)
        return int(z), (slice(y[0], y[1]), slice(x[0], x[1]))

    @staticmethod
    def _chunks(z: int, area: Area) -> Iterator[tuple[Place, Area]]:
        """Yield the chunks that an area touches, and the part of it in each."""
        rows, columns = area
        for row in range(rows.start // CHUNK, -(-rows.stop // CHUNK)):
            for column in range(columns.start // CHUNK, -(-columns.stop // CHUNK)):
                y, x = _extent((z, row, column))
                yield (
                    (z, row, column),
                    (
                        slice(max(rows.start, y.start), min(rows.stop, y.stop)),
                        slice(max(columns.start, x.start), min(columns.stop, x.stop)),
                    ),
                )


def _check_metadata(folder: Path, shape: tuple[int, int, int], dtype: str) -> None:
    """Check that an array is as `create_array` made it; chunks are read as such.

    Raises
    ------
    UnreadableError
        With what is another way.
    """
    path = folder / "zarr.json"
    try:
        found = json.loads(read_bounded(path, META_BYTES))
        made = {
            "format": found["zarr_format"],
            "type of node": found["node_type"],
            "shape": found["shape"],
            "dtype": found["data_type"],
            "chunks": found["chunk_grid"]["configuration"]["chunk_shape"],
            "names of chunks": found["chunk_key_encoding"]["name"],
            "codecs": [codec["name"] for codec in found["codecs"]],
        }
    except FileNotFoundError as e:
        msg = f"{path} is missing"
        raise UnreadableError(msg) from e
    except (LookupError, RecursionError, TypeError, ValueError) as e:
        msg = f"{path} is damaged: it describes no array ({e})"
        raise UnreadableError(msg[:500]) from e
    wanted = {
        "format": 3,
        "type of node": "array",
        "shape": list(shape),
        "dtype": dtype,
        "chunks": [1, CHUNK, CHUNK],
        "names of chunks": "default",
        "codecs": ["bytes", "zstd"],
    }
    for name, value in wanted.items():
        if made[name] != value:
            msg = f"{path} is damaged: {name} must be {value}, got {made[name]!r}"
            raise UnreadableError(msg[:500])


def _extent(place: Place) -> Area:
    """Return the rows and columns of a chunk, beyond the picture's border, too."""
    _, row, column = place
    return (
        slice(row * CHUNK, (row + 1) * CHUNK),
        slice(column * CHUNK, (column + 1) * CHUNK),
    )
