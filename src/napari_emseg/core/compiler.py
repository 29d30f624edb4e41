"""The one decorator of all kernels: numba without the GIL, cached where possible."""

from collections.abc import Callable, Generator
from typing import ParamSpec, TypeVar, cast

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

    try:
        return cast("Callable[P, R]", numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # "no locator available"
        return cast("Callable[P, R]", numba.njit(nogil=True)(function))


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
