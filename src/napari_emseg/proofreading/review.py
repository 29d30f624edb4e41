"""Which sections are done: to do, reviewed or excluded."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

Status = Literal["to do", "reviewed", "excluded"]


def status_of(z: int, reviewed: Collection[int], excluded: Collection[int]) -> Status:
    """Return the status of a section; excluded counts first."""
    if z in excluded:
        return "excluded"
    return "reviewed" if z in reviewed else "to do"


def next_section(
    here: int,
    n: int,
    reviewed: Collection[int],
    excluded: Collection[int],
    *,
    step: Literal[1, -1] = 1,
) -> int:
    """Return the next of `n` sections that is to do, once around the stack.

    Parameters
    ----------
    here
        The section to go on from.
    step
        -1 goes backwards.

    Raises
    ------
    ValueError
        If none other is to do.
    """
    for away in range(1, n):
        z = (here + step * away) % n
        if status_of(z, reviewed, excluded) == "to do":
            return z
    msg = "no other section is to do"
    raise ValueError(msg)
