"""The one decorator of all kernels: numba without the GIL, cached where possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

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
