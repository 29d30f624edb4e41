"""The one decorator of all kernels: numba without the GIL, cached where possible."""

from collections.abc import Callable, Generator
from contextlib import suppress
from functools import cache
from pickle import PickleError
from typing import Any, ParamSpec, TypeVar, cast

from napari_emseg.core.records import Progress, Record

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile on first call, keep the machine code on disk for the next process.

    numba takes a second to load, so modules with kernels are imported where they are
    used. It writes beside the source file or into the user's cache folder. Where
    neither can be written (a read-only container) it refuses to cache; then each
    process compiles anew.
    """
    import numba

    kernel: Any = numba.njit(nogil=True)(function)
    with suppress(RuntimeError):  # "no locator available"
        kernel._cache = _forgiving_cache()(function)
    return cast("Callable[P, R]", kernel)


DAMAGED = (
    *(OSError, EOFError, PickleError, ValueError, TypeError),
    *(AttributeError, ImportError, LookupError, MemoryError),
)
"""What reading a file of numba's cache may end in that was cut off, or changed."""


@cache
def _forgiving_cache() -> Any:
    """Return numba's cache as one that is worth nothing where its files are damaged.

    By itself numba fails at every call then, and where the disk is full.
    """
    from numba.core import caching

    base: Any = caching.FunctionCache

    class ForgivingCache(base):  # type: ignore[misc]
        def load_overload(self, *args: Any) -> Any:
            try:
                return super().load_overload(*args)
            except DAMAGED:
                with suppress(OSError):
                    self.flush()
                return None

        def save_overload(self, *args: Any) -> None:
            with suppress(*DAMAGED):
                super().save_overload(*args)

    return ForgivingCache


_used: set[str] = set()
"""Work whose kernels this process has had once: they are compiled by then."""


def announce_compiling(
    kernels: str, work: Generator[Record, None, R]
) -> Generator[Record, None, R]:
    """Do work, and say first that its kernels are compiled, if they may have to be.

    Parameters
    ----------
    kernels
        A name of the kernels that `work` has need of.
    """
    if kernels not in _used:
        yield Progress("compiling (first time only)", 0, 0)
    result = yield from work
    _used.add(kernels)
    return result
