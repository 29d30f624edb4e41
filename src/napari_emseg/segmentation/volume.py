"""Probabilities of a volume of about isotropic voxels → cells through its sections.

Fragments, boundaries and their strength are those of a section, with a third axis: a
boundary is a face. So what joins two fragments is seen along all of it, and no profile
has to be found again in the next section.

Larger volumes are worked in blocks with a margin around (`blocks`). In three dimensions
flooding depends on what lies far away too often to make windows large enough for
fragments that are those of the whole. So where a fragment lies across a block's border,
the two blocks may draw it otherwise: it becomes two, with little membrane between, and
they are joined like any others. Which volumes are worked in blocks, and in which, is
told by their shape alone, so the result doesn't depend on the machine.
"""

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Progress, Record
from napari_emseg.core.regions import Constraint
from napari_emseg.core.requirements import relabel_sequential
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import LazyArray
from napari_emseg.segmentation.affinities import Affinities, Faces
from napari_emseg.segmentation.blocks import (
    Area,
    BlockTables,
    Joined,
    find_block,
    paint_block,
)
from napari_emseg.segmentation.constraints import pairs_of
from napari_emseg.segmentation.fragments import (
    boundary_map,
    face_strengths,
    find_fragments,
)
from napari_emseg.segmentation.linking import scratch

WHOLE = 2**24
"""Volumes of so many voxels are worked in one piece, which takes 40 bytes for each."""

BLOCK = (128, 256, 256)
"""Sections, rows and columns of a block."""

MARGIN = 48
"""Around a block, px."""


def iter_segment_volume(
    membrane: NDArray[np.float32],
    settings: CellSettings,
    *,
    absent: Collection[int] = (),
    affinities: Affinities | None = None,
    constraints: Sequence[Constraint] = (),
    whole: int = WHOLE,
    block: tuple[int, int, int] = BLOCK,
    margin: int = MARGIN,
) -> Generator[Record, None, NDArray[np.uint32]]:
    """Find the cells of a volume; return ids `(z, y, x)` 1, 2, …, 0 between them.

    Cells touch where there is no broad membrane between. Yields Progress.

    Parameters
    ----------
    membrane
        Probabilities `(z, y, x)`, NaN where there is no picture. It may be on disk.
    absent
        Sections that get no cells, though cells go on behind them: their probabilities
        are stand-ins.
    affinities
        They count as much as membranes where they are known.
    constraints
        What a person said of places. A fragment that holds two that are apart is cut
        between their sections, but not in blocks.
    whole, block, margin
        Larger volumes are worked in blocks of so many voxels with a margin around.
    """
    if membrane.size <= whole:
        yield Progress("fragments", 0, 1)
        exclude = np.isnan(membrane)
        values = np.where(exclude, np.float32(0), membrane)
        faces = None if affinities is None else affinities.volume(len(values), absent)
        found = find_fragments(
            values,
            settings.threshold,
            exclude=exclude,
            faces=faces,
            constraints=constraints,
        )
        yield Progress("fragments", 1, 1)
        cells = found.cells(settings)
        cells[sorted(absent)] = 0
        numbered: NDArray[np.uint32] = relabel_sequential(cells)[0]
        return numbered
    seen = VolumeReader(membrane, affinities, absent)
    joined, places = yield from _join_volume(seen, settings, block, margin, constraints)
    return (yield from _paint_volume(settings, joined, places, absent))


@dataclass(frozen=True, slots=True, eq=False)
class VolumeReader:
    """What is known of a volume, part by part.

    Parameters are those of `iter_segment_volume`.
    """

    membrane: LazyArray
    affinities: Affinities | None
    absent: Collection[int]

    def __call__(self, area: Area) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return how sure boundaries are, and where there is no picture."""
        values = np.array(self.membrane[area], np.float32)
        exclude = np.isnan(values)
        values[exclude] = 0
        if self.affinities is not None:
            values = boundary_map(values, self._faces(self.affinities, area))
        return values, exclude

    def strengths(self, threshold: float) -> Callable[[Area], Faces] | None:
        """Return what tells how strong boundaries between voxels are, by axis.

        None where there are no affinities to tell it by.
        """
        affinities = self.affinities
        if affinities is None:
            return None

        def read(area: Area) -> Faces:
            # the first ones have something before them, too
            wide = tuple(slice(max(0, part.start - 1), part.stop) for part in area)
            membrane = np.nan_to_num(np.array(self.membrane[wide], np.float32))
            own = tuple(
                slice(a.start - w.start, None) for a, w in zip(area, wide, strict=True)
            )
            faces = self._faces(affinities, wide)
            return tuple(
                face[own] for face in face_strengths(membrane, faces, threshold)
            )

        return read

    def _faces(self, affinities: Affinities, area: Area) -> Faces:
        """Return how sure boundaries are between voxels, by axis."""
        z, *sides = area
        found = affinities.sections(z.start, z.stop, (sides[0], sides[1]))
        return affinities.known(found, z.start, self.absent)


def _join_volume(
    seen: VolumeReader,
    settings: CellSettings,
    sides: tuple[int, int, int],
    margin: int,
    constraints: Sequence[Constraint],
) -> Generator[Record, None, tuple[Joined, NDArray[np.uint64]]]:
    """Decide which fragments are one cell; return where each fragment is, too."""
    shape = seen.membrane.shape
    areas, faces = block_areas(shape, sides), seen.strengths(settings.threshold)
    places = scratch(shape, np.uint64)
    tables = BlockTables()
    for done, area in enumerate(areas):
        yield Progress("fragments", done, len(areas))
        found = find_block(
            seen, shape, area, settings, halo=margin, exact=False, faces=faces
        )
        places[area] = found.places
        tables.add(found)  # the voxels stay on disk
    yield Progress("fragments", len(areas), len(areas))
    said = pairs_of(places, constraints)
    return tables.join(settings, said), places


def _paint_volume(
    settings: CellSettings,
    joined: Joined,
    places: NDArray[np.uint64],
    absent: Collection[int],
) -> Generator[Record, None, NDArray[np.uint32]]:
    """Return the cells on disk, section by section, numbered without gaps."""
    n, *sides = places.shape
    cells = scratch((n, *sides))
    inner = tuple(slice(0, side) for side in sides)
    for z in range(n):
        if z not in absent:
            cells[z] = paint_block(places[z], None, joined, inner, settings.threshold)
        yield Progress("cells", z + 1, n)
    return renumber(cells, int(joined.ids.max(initial=0)))


def renumber(cells: NDArray[np.uint32], last: int) -> NDArray[np.uint32]:
    """Give ids up to `last` numbers without gaps, in place, section by section."""
    there = np.zeros(last + 1, bool)
    for section in cells:
        there[section] = True
    there[0] = False
    numbers = np.where(there, np.cumsum(there), 0).astype(np.uint32)
    for section in cells:
        section[...] = numbers[section]
    return cells


def block_areas(shape: tuple[int, ...], sides: tuple[int, int, int]) -> list[Area]:
    """Return blocks that cover a volume; one that is hardly higher isn't cut in z."""
    high = shape[0] if shape[0] <= 1.5 * sides[0] else sides[0]
    parts = (
        [slice(at, min(at + side, n)) for at in range(0, n, side)]
        for n, side in zip(shape, (high, *sides[1:]), strict=True)
    )
    return list(product(*parts))
