"""What all sinks that write a file or a folder share: how they end."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from napari_emseg.io.output import Output


class FileSink:
    """An output of sections, in any order, that gets its name when it is closed.

    A format adds how a section is stored (`write`), and says what is left to do at the
    end (`_let_go`).
    """

    def __init__(
        self, output: Output, shape: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._output = output
        self._open = True

    def _let_go(self, *, keep: bool) -> None:
        """Write what waits, unless nothing is kept, and close what is open.

        By default nothing waits and nothing is open.
        """

    def close(self) -> Path:
        """Finish, and return where the result is."""
        self._open = False
        self._let_go(keep=True)
        return self._output.finish()

    def abort(self, *, keep: bool = False) -> Path | None:
        """Stop early; return the part that holds finished sections if it is kept."""
        self._open = False
        self._let_go(keep=keep)
        return self._output.give_up(keep=keep)

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
        if kind is None:
            self.close()
        else:
            self.abort(keep=True)
