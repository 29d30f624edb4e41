"""Cells of each section of a stack → cells through the stack."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Progress, Record, SectionDone
from napari_emseg.core.requirements import relabel_sequential
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.sinks import ArraySink, SectionSink
from napari_emseg.core.stack import LazyArray, Stack, as_stack
from napari_emseg.segmentation.linker import NO_PAIRS, Linker, parted_by

DrawnMembrane = Callable[[int], NDArray[np.bool_]]
"""Where membrane was drawn by hand in a section, `(y, x)`."""


@dataclass(frozen=True, slots=True, eq=False)
class LinkResult:
    """What linking gave.

    Parameters
    ----------
    cells
        `(z, y, x)` uint32; None if they went to a sink.
    profiles
        How many there are, counted in each section.
    count
        How many cells they are.
    """

    cells: NDArray[np.uint32] | None = field(repr=False)
    profiles: int
    count: int


def link_stack(
    cells: Stack | LazyArray,
    *,
    settings: CellSettings | None = None,
    excluded: Sequence[int] = (),
    sink: SectionSink | None = None,
    first_id: int = 1,
    drawn: DrawnMembrane | None = None,
) -> Generator[Record, None, LinkResult]:
    """Give profiles of one cell the same id in all sections.

    Reads each section twice and holds three of them, so the stack may be larger than
    memory. Yields Progress while it looks for what belongs together, and SectionDone
    when a section with its new ids is in the sink.

    Parameters
    ----------
    cells
        Ids `(z, y, x)`, 0 between cells. What they say through sections is not used.
    settings
        Least overlap, largest shift, branches.
    excluded
        Sections that are passed over and left without cells; blank ones are anyhow.
    sink
        Gets each section `(y, x)` uint32. It may be what `cells` are read from.
    first_id
        Where ids start.
    drawn
        Profiles on both sides of membrane drawn by hand aren't branches of one cell.

    Raises
    ------
    ValueError
        If there is nothing to link, or ids are negative or no integers.
    OSError
        If a section can't be read.
    """
    stack = as_stack(cells, name="cells")
    if stack.dtype.kind not in "iu":
        msg = f"{stack.name}: ids of cells are integers, not {stack.dtype}"
        raise ValueError(msg)
    return _run(stack, settings or CellSettings(), set(excluded), sink, first_id, drawn)


def scratch(shape: tuple[int, ...], dtype: Any = np.uint32) -> NDArray[Any]:
    """Return zeros on disk, in a file that disappears with them.

    Raises
    ------
    OSError
        If the disk is too full for that.
    """
    # the map holds the file after it was closed; it is removed with the last reference
    with TemporaryFile() as file:
        zeros: NDArray[Any] = np.memmap(file, dtype, "w+", shape=shape)
    return zeros


def _run(
    stack: Stack,
    settings: CellSettings,
    excluded: set[int],
    sink: SectionSink | None,
    first_id: int,
    drawn: DrawnMembrane | None,
) -> Generator[Record, None, LinkResult]:
    n = stack.shape[0]
    linker = Linker(settings)
    for z in range(n):
        labels = _profiles(stack, z, excluded)
        linker.add(labels, parted_by(drawn(z), labels) if drawn else NO_PAIRS)
        yield Progress("link", z + 1, n)
    ids = linker.finish()
    own = None
    if sink is None:
        sink = own = ArraySink(stack.shape, np.dtype(np.uint32))
    for z, new in enumerate(ids):
        new[1:] += np.uint32(first_id - 1)
        # read again rather than kept; the sink may be what it is read from, since a
        # section is written only after that
        sink.write(z, np.take(new, _profiles(stack, z, excluded)))
        yield SectionDone(z, z + 1, n)
    profiles = sum(len(new) - 1 for new in ids)
    count = max(0, max(int(new.max()) for new in ids) - first_id + 1)
    return LinkResult(None if own is None else own.data, profiles, count)


def _profiles(stack: Stack, z: int, excluded: set[int]) -> NDArray[np.uint32]:
    """Return section `z` with cells numbered from 1, the same way each time."""
    if z in excluded:
        return np.zeros(stack.shape[1:], np.uint32)
    section: NDArray[Any] = np.ascontiguousarray(stack.section(z))
    if section.min(initial=0) < 0:
        msg = f"{stack.name}: section {z} has negative ids, down to {section.min()}"
        raise ValueError(msg)
    wide = section.astype(np.uint64 if section.dtype.itemsize > 4 else np.uint32)
    found: NDArray[np.uint32] = relabel_sequential(wide)[0].astype(np.uint32)
    return found
