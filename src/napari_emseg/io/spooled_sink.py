"""Cells that come before it is known if they fit: they wait in a TIFF beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Provenance, drain
from napari_emseg.core.stack import NOWHERE, Origin, VoxelSize
from napari_emseg.io.errors import IdsDontFitError
from napari_emseg.io.file_sink import FileSink
from napari_emseg.io.formats import OutputKind
from napari_emseg.io.ids import Ids
from napari_emseg.io.output import Output
from napari_emseg.io.tiff_sink import TiffSink


class SpooledSink(FileSink):
    """Takes ids of any size, and stores them in a format of small numbers when closed.

    Until then they lie in the part of `NAME.ids.tif`. If they don't fit they stay whole
    in `NAME.ids.tif`, since they may have taken hours to compute.

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
        kind: OutputKind,
        ids: Ids,
        *,
        voxel_size_nm: VoxelSize | None,
        provenance: Provenance | None,
        overwrite: bool = False,
        origin_nm: Origin = NOWHERE,
    ) -> None:
        # refuses now what would be refused later
        super().__init__(Output(path, overwrite=overwrite), shape, dtype)
        self._path, self._kind, self._ids = path, kind, ids
        self._size, self._made = voxel_size_nm, provenance
        self._origin = origin_nm
        self._overwrite = overwrite
        self._apart = TiffSink(
            path.with_name(f"{path.name}.ids.tif"),
            shape,
            np.dtype(np.uint64 if dtype.itemsize == 8 else np.uint32),
            voxel_size_nm=voxel_size_nm,
            provenance=provenance,
            overwrite=True,
        )

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Keep section `z`, `(y, x)`."""
        self._apart.write(z, section)

    def close(self) -> Path:
        """Store all of it, and return where the result is.

        Raises
        ------
        IdsDontFitError
            If the ids don't fit; it says where they are and what may be done.
        """
        from napari_emseg.io.reading import open_stack
        from napari_emseg.io.writing import iter_save

        apart = self._apart.close()
        self._open = False
        self._output.give_up(keep=False)
        work = iter_save(
            self._path,
            replace(open_stack(apart), origin_nm=self._origin),
            voxel_size_nm=self._size,
            provenance=self._made,
            overwrite=self._overwrite,
            format=self._kind.name,
            ids=self._ids,
        )
        try:
            written = drain(work)
        except IdsDontFitError as e:
            msg = f"{e}. They are whole in {apart}, from where they can be exported"
            kept = apart, self._path, self._kind.name
            raise IdsDontFitError(msg, e.choices, kept) from e
        except ValueError as e:
            msg = f"{e}. They are whole in {apart}"
            raise ValueError(msg) from e
        except OSError as e:
            msg = f"{e.strerror or e}; they are whole in {apart}"
            raise type(e)(e.errno, msg) from e
        apart.unlink()
        return written

    def abort(self, *, keep: bool = False) -> Path | None:
        """Stop early; return the part that holds finished sections if it is kept."""
        if not self._open:
            return None
        self._open = False
        self._output.give_up(keep=False)
        return self._apart.abort(keep=keep)
