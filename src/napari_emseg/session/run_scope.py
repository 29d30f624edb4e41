"""Where a run goes: some sections, in the order of work, and a rectangle of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

Area = tuple[slice, slice]
"""Rows and columns with both their ends."""


@dataclass(frozen=True, slots=True)
class RunScope:
    """Sections in the order of work; `roi` None means all of each."""

    sections: tuple[int, ...]
    roi: Area | None = None

    def without(self, excluded: Collection[int]) -> RunScope:
        """Return this region without some sections.

        Raises
        ------
        ValueError
            If nothing is left.
        """
        kept = tuple(z for z in self.sections if z not in excluded)
        if not kept:
            names = ", ".join(str(z) for z in sorted(self.sections)[:5])
            msg = (
                f"every section of this run is excluded ({names}); include one in Data"
            )
            raise ValueError(msg)
        return replace(self, sections=kept)


def from_here(sections: Iterable[int], here: int) -> tuple[int, ...]:
    """Order sections: from `here` to the end, then on from the start.

    Neighbours stay together, since they often share a chunk of a file.
    """
    ascending = sorted(set(sections))
    later = [z for z in ascending if z >= here]
    return (*later, *(z for z in ascending if z < here))
