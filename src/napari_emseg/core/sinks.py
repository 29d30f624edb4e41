"""Where finished sections go, one by one and in any order."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class SectionSink(Protocol):
    """Takes sections as they become ready; used by one thread at a time.

    `shape` is `(z, y, x)`. As a context manager it closes at the end, and aborts on an
    error, keeping the part that holds finished sections.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`; sections never written read as 0.

        Raises
        ------
        IndexError, ValueError
            If there is no such section, or it has another shape.
        OSError
            If it can't be written, e.g. for want of space.
        """

    def note_settings(self, facts: Mapping[str, object]) -> None:
        """Correct what the result says of the settings that it was made with.

        For what is known at the end only, before `close`.
        """

    def close(self) -> Path | None:
        """Finish, and return where the result is (None: not a file)."""

    def abort(self, *, keep: bool = False) -> Path | None:
        """Stop early; return the part that holds finished sections if it is kept."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Closing(ABC):
    """A context manager that closes at its end."""

    @abstractmethod
    def close(self) -> object:
        """Finish."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ClosingSink(Closing):
    """A sink that closes at its end, and aborts if anything went wrong by then."""

    @abstractmethod
    def close(self) -> Path | None:
        """Finish, and return where the result is."""

    @abstractmethod
    def abort(self, *, keep: bool = False) -> Path | None:
        """Stop early; return the part if it is kept."""

    def note_settings(self, facts: Mapping[str, object]) -> None:
        """Do nothing, where results say nothing of settings."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort(keep=True)
            return
        try:
            self.close()
        except BaseException:
            self.abort(keep=True)  # keeps what could be finished, and names no result
            raise


class ArraySink(ClosingSink):
    """Keeps sections in memory, for callers who want an array."""

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.data = np.zeros(shape, self.dtype)

    @classmethod
    def on(cls, data: NDArray[Any]) -> Self:
        """Return one that keeps sections in an array that is there."""
        sink = cls((0, 0, 0), data.dtype)
        sink.shape, sink.data = data.shape, data
        return sink

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        self.data[checked(self, z, section)] = section

    def close(self) -> None:
        """Do nothing: the result is `data`."""

    def abort(self, *, keep: bool = False) -> None:
        """Do nothing: finished sections are in `data`."""


class PassingSink(ClosingSink):
    """Passes sections on to another sink; to be made something of on their way."""

    def __init__(self, sink: SectionSink) -> None:
        self._sink = sink
        self.shape = sink.shape
        self.dtype = sink.dtype

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        self._sink.write(z, section)

    def note_settings(self, facts: Mapping[str, object]) -> None:
        """Correct what the result says of its settings."""
        self._sink.note_settings(facts)

    def close(self) -> Path | None:
        """Finish, and return where the result is."""
        return self._sink.close()

    def abort(self, *, keep: bool = False) -> Path | None:
        """Stop early; return the part if it is kept."""
        return self._sink.abort(keep=keep)


class CountingSink(PassingSink):
    """Passes sections on to another sink and counts them."""

    def __init__(self, sink: SectionSink) -> None:
        super().__init__(sink)
        self.written = 0

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        super().write(z, np.asarray(section))
        self.written += 1


@dataclass(frozen=True, slots=True)
class Kept:
    """Finished sections of an output that was interrupted, and the part they lie in."""

    part: Path
    sections: int
    total: int


@contextmanager
def keep_finished(
    sink: SectionSink, on_kept: Callable[[Kept], object] | None = None
) -> Iterator[CountingSink]:
    """Close the sink at the end; if that isn't reached, keep what is finished.

    Without a finished section nothing is left behind.

    Parameters
    ----------
    on_kept
        Is told what is kept, if anything is.
    """
    counted = CountingSink(sink)
    try:
        yield counted
        sink.close()
    except BaseException:
        part = sink.abort(keep=counted.written > 0)
        if part is not None and on_kept is not None:
            on_kept(Kept(part, counted.written, sink.shape[0]))
        raise


def checked(sink: SectionSink, z: int, section: NDArray[Any]) -> int:
    """Return z if the sink has such a section of this shape.

    Raises
    ------
    IndexError, ValueError
        Otherwise.
    """
    if not 0 <= z < sink.shape[0]:
        msg = f"no section {z} in an output of sections 0..{sink.shape[0] - 1}"
        raise IndexError(msg)
    if section.shape != sink.shape[1:]:
        msg = f"section {z} is {section.shape} px (y, x), expected {sink.shape[1:]}"
        raise ValueError(msg)
    return z
