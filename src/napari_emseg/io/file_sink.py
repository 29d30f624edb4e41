"""What all sinks that write a file or a folder share: how they end."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.atomic import naming_full_disk
from napari_emseg.core.sinks import checked
from napari_emseg.io.output import Output


class FileSink:
    """An output of sections, in any order, that gets its name when it is closed.

    A format adds how a section is stored (`_store`), and says what is left to do at the
    end (`_let_go`).
    """

    readable_early: ClassVar[bool] = True
    """Whether a part can be read whose end couldn't be written."""

    def __init__(
        self, output: Output, shape: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._output = output
        self._open = True

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        with naming_full_disk(self._output.path):
            self._store(checked(self, z, section), section)

    def _store(self, z: int, section: NDArray[Any]) -> None:
        """Store a section that fits."""
        raise NotImplementedError

    def _let_go(self, *, keep: bool) -> None:
        """Write what waits, unless nothing is kept, and close what is open.

        By default nothing waits and nothing is open.
        """

    def close(self) -> Path:
        """Finish, and return where the result is.

        Raises
        ------
        OSError
            If that can't be done, e.g. for want of space; then `abort` is left to do.
        """
        with naming_full_disk(self._output.path):
            self._let_go(keep=True)
            finished = self._output.finish()
        self._open = False
        return finished

    def abort(self, *, keep: bool = False) -> Path | None:
        """Stop early; return the part that holds finished sections if it is kept.

        After `close` there is nothing to stop.
        """
        if not self._open:
            return None
        self._open = False
        try:
            self._let_go(keep=keep)
        except OSError:  # what waits can't be written; the reason is known by now
            keep = keep and self.readable_early
        finally:
            kept = self._output.give_up(keep=keep)
        return kept

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._open:
            return
        if kind is not None:
            self.abort(keep=True)
            return
        try:
            self.close()
        finally:
            if self._open:
                self.abort(keep=True)
