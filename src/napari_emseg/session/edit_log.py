"""What was corrected before a project was opened, from its list of edits."""

from __future__ import annotations

from collections.abc import Iterable

from napari_emseg.project import EditLine
from napari_emseg.proofreading import Correction


def corrections_in(lines: Iterable[EditLine]) -> tuple[Correction, ...]:
    """Return what was done and not taken back, oldest first."""
    standing: list[EditLine] = []
    for line in lines:
        if not line.undone:
            standing.append(line)
            continue
        same = (i for i, other in enumerate(standing) if _is_one(line, other))
        latest = max(same, default=None)
        if latest is not None:
            del standing[latest]
    return tuple(_correction(line) for line in standing)


def _is_one(line: EditLine, other: EditLine) -> bool:
    return (line.what, line.words, line.areas) == (other.what, other.words, other.areas)


def _correction(line: EditLine) -> Correction:
    areas = {
        z: (slice(y0, y1), slice(x0, x1)) for z, (y0, y1, x0, x1) in line.areas.items()
    }
    return Correction(line.what, line.words, areas, line.author, line.time)
