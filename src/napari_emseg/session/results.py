"""What runs over one stack have given so far, filled in piece by piece."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from platformdirs import user_cache_path

from napari_emseg.core.intensity import padding
from napari_emseg.core.records import ClassifierRef, Provenance
from napari_emseg.core.regions import Area
from napari_emseg.core.stack import LazyArray

SHARE_OF_MEMORY = 0.25
"""An array that would take more than this part of the free memory lives on disk."""


@dataclass(frozen=True, slots=True)
class FoundCells:
    """Where runs have found cells, as it is at a moment.

    Parameters
    ----------
    segmented
        Which areas of which sections have cells.
    linked
        Sections through which an id is one cell.
    edges
        The classifier of edges that they were found by, if a person chose one.
    runs
        Number of the run that found each of `segmented`.
    """

    segmented: dict[int, tuple[Area, ...]]
    linked: frozenset[int]
    edges: ClassifierRef | None = None
    runs: dict[int, tuple[int, ...]] = field(default_factory=dict)


def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return zeros that take memory only where they are written.

    What might not fit into memory is mapped from a temporary file, which disappears
    with the array.

    Raises
    ------
    OSError
        If the disk is too full for that.
    """
    needed = prod(shape) * np.dtype(dtype).itemsize
    if needed <= SHARE_OF_MEMORY * psutil.virtual_memory().available:
        return np.zeros(shape, dtype)
    folder = user_cache_path("napari-emseg", appauthor=False, ensure_exists=True)
    with TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


class Results:
    """Membrane probabilities, membranes and cells of a stack, all `(z, y, x)`.

    Arrays are made when they are first asked for. `AnnotationEditor` writes into
    membranes, cells and corrections, runs into all others; whoever shows them looks
    again when a record says that something is new.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.last_id = 0
        """Largest cell id given so far."""
        self.membrane_provenance: Provenance | None = None
        """Of the latest run."""
        self.made: dict[int, Provenance] = {}
        """Of each section that has probabilities, the latest run over it."""
        self.edges: ClassifierRef | None = None
        """The classifier of edges that cells were found by, if a person chose one."""
        self.class_provenance: dict[str, Provenance] = {}
        """Of further classes, by name: the latest run that gave them."""
        self._classes: dict[str, NDArray[np.float32]] = {}
        self._affinities: dict[str, NDArray[np.float32]] = {}
        self._with_affinities: set[int] = set()
        # by section, the areas that were predicted; `_segmented` those in which cells
        # were found, `_linked` sections through which an id is one cell
        self._areas: dict[int, list[Area]] = {}
        self._segmented: dict[int, list[Area]] = {}
        # by section, which run found each of `_segmented`; 0 where that isn't known
        self._runs: dict[int, list[int]] = {}
        self._run = 0
        self._linked: frozenset[int] = frozenset()
        self.lost: dict[int, tuple[Area, ...]] = {}
        """Areas that were predicted in an earlier sitting, and can be again."""

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Of membrane, in [0, 1]; 0 where nothing was predicted."""
        return allocate(self.shape, np.float32)

    @cached_property
    def membranes(self) -> NDArray[np.uint8]:
        """1 where the probability is above the threshold."""
        return allocate(self.shape, np.uint8)

    @cached_property
    def cells(self) -> NDArray[np.uint32]:
        """Ids, 0 on membranes and where nothing was segmented."""
        return allocate(self.shape, np.uint32)

    @cached_property
    def corrections(self) -> NDArray[np.uint8]:
        """0 unlabelled, 1 membrane, 2 inside, k + 1 class k of the weights."""
        return allocate(self.shape, np.uint8)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of further classes that have probabilities, by age."""
        return tuple(self._classes)

    def of_class(self, name: str) -> NDArray[np.float32]:
        """Return probabilities of a further class; 0 where nothing was predicted."""
        if name not in self._classes:
            self._classes[name] = allocate(self.shape, np.float32)
        return self._classes[name]

    @property
    def affinities(self) -> dict[str, NDArray[np.float32]]:
        """Probabilities by which cells are found through the stack, by class.

        Only those of `with_affinities` count, and where they aren't NaN.
        """
        return dict(self._affinities)

    @property
    def with_affinities(self) -> frozenset[int]:
        """Sections whose latest run gave affinities."""
        return frozenset(self._with_affinities)

    def put_affinities(
        self, z: int, area: Area, values: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """Store what a run gave of an area; nothing there means that it gave none."""
        for name in values:
            if name not in self._affinities:
                self._affinities[name] = allocate(self.shape, np.float32)
        there = z in self._with_affinities
        for name, array in self._affinities.items():
            if not there:
                array[z] = np.nan
            array[z][area] = values.get(name, np.nan)
        if values:
            self._with_affinities.add(z)
        elif there and all(np.isnan(a[z]).all() for a in self._affinities.values()):
            self._with_affinities.discard(z)

    @property
    def predicted(self) -> tuple[int, ...]:
        """Sections with probabilities, at least in part; ascending."""
        return tuple(sorted(self._areas))

    @property
    def membranes_in(self) -> dict[int, tuple[Area, ...]]:
        """Which areas of which sections were predicted, also in earlier sittings."""
        there = {z: tuple(areas) for z, areas in self._areas.items()}
        return dict(sorted((self.lost | there).items()))

    def note_predicted(self, z: int, area: Area) -> None:
        """Remember that an area has probabilities."""
        # a new list, since another thread may be reading the old one
        self._areas[z] = [*self._areas.get(z, ()), area]

    def begin_cells(self) -> None:
        """Take cells from now on for those of another run."""
        self._run += 1

    def note_cells(self, z: int, area: Area) -> None:
        """Remember that an area has cells of the run that has begun."""
        self._segmented[z] = [*self._segmented.get(z, ()), area]
        self._runs[z] = [*self._runs.get(z, ()), self._run]

    @property
    def runs(self) -> dict[int, tuple[int, ...]]:
        """Number of the run that found each of `segmented`."""
        return {z: tuple(runs) for z, runs in sorted(self._runs.items())}

    def run_at(self, z: int) -> NDArray[np.int64]:
        """Return which run found the cells of each pixel `(y, x)`, 0 if none known."""
        found = np.zeros(self.shape[1:], np.int64)
        areas, runs = self._segmented.get(z, []), self._runs.get(z, [])
        for area, run in zip(areas, runs, strict=False):
            found[area] = run
        return found

    def settle(self, z: int) -> None:
        """Remember a section that is predicted all over as one area."""
        if z in self._areas and self.unknown(z) is None:
            _, y, x = self.shape
            self._areas[z] = [(slice(0, y), slice(0, x))]

    def forget(self, sections: Iterable[int]) -> None:
        """Forget what runs gave of sections; membranes and cells stay."""
        for z in sections:
            if self._areas.pop(z, None) is not None:
                for values in (self.probabilities, *self._classes.values()):
                    values[z] = 0
            self._with_affinities.discard(z)
            self._segmented.pop(z, None)
            self._runs.pop(z, None)
            self.lost.pop(z, None)
            self.made.pop(z, None)

    def note_links(self, sections: Iterable[int], *, linked: bool) -> None:
        """Remember whether ids are cells through these sections, or profiles.

        A section that is found again alone takes its ids from what was there before.
        """
        found = frozenset(sections)
        if len(found) > 1:
            self._linked = self._linked | found if linked else self._linked - found

    @property
    def found_cells(self) -> FoundCells:
        """Return `segmented` and `linked_sections` as they are, see `bring_back`."""
        return FoundCells(self.segmented, self._linked, self.edges, self.runs)

    def bring_back(self, found: FoundCells, other: FoundCells) -> None:
        """Put back where a run had found cells, in what it changed from `other`."""
        self._linked, self.edges = found.linked, found.edges
        for z in {*found.segmented, *other.segmented}:
            areas = found.segmented.get(z)
            if areas == other.segmented.get(z):
                continue
            if areas is None:
                self._segmented.pop(z, None)
                self._runs.pop(z, None)
            else:
                self._segmented[z] = list(areas)
                self._runs[z] = list(found.runs[z])

    @property
    def segmented(self) -> dict[int, tuple[Area, ...]]:
        """Which areas of which sections have cells of a run."""
        return {z: tuple(areas) for z, areas in sorted(self._segmented.items())}

    @property
    def linked_sections(self) -> frozenset[int]:
        """Sections through which an id is one cell."""
        return self._linked

    def remember(
        self,
        segmented: Mapping[int, Sequence[Area]],
        linked: Iterable[int],
        runs: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        """Know where earlier runs have found cells, and which of them where."""
        self._segmented = {z: list(areas) for z, areas in segmented.items()}
        self._linked = frozenset(linked)
        for z, areas in self._segmented.items():
            told = list((runs or {}).get(z, ()))
            self._runs[z] = told if len(told) == len(areas) else [0] * len(areas)
        self._run = max((n for told in self._runs.values() for n in told), default=0)

    @property
    def linked(self) -> bool:
        """True if an id is one cell through all sections that have cells."""
        return bool(self._segmented) and self._linked.issuperset(self._segmented)

    def unknown(self, z: int) -> NDArray[np.bool_] | None:
        """Mask `(y, x)` of what was not predicted; None if all of it was."""
        return self._outside(self._areas.get(z, []))

    def unknown_cells(self, z: int) -> NDArray[np.bool_] | None:
        """Mask `(y, x)` of what was not segmented; None if all of it was."""
        return self._outside(self._segmented.get(z, []))

    def _outside(self, areas: list[Area]) -> NDArray[np.bool_] | None:
        if any(_covers(area, self.shape[1:]) for area in areas):
            return None
        mask = np.ones(self.shape[1:], bool)
        for area in areas:
            mask[area] = False
        return mask if mask.any() else None


def _covers(area: Area, shape: tuple[int, ...]) -> bool:
    return all(
        part.start == 0 and part.stop == n for part, n in zip(area, shape, strict=True)
    )


class OpenedProbabilities:
    """Opened probabilities `(z, y, x)` as float32 in [0, 1], whatever they are."""

    def __init__(self, data: LazyArray) -> None:
        self._data = data
        self.shape = data.shape
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        values = np.asarray(self._data[key])
        full = np.float32(255 if values.dtype == np.uint8 else 1)
        scaled: NDArray[np.float32] = values.astype(np.float32) / full
        return scaled


class PredictedProbabilities:
    """Predicted probabilities by section; NaN where there are none."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self.shape = results.shape
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        z = int(key)
        section: NDArray[np.float32] = self._results.probabilities[z]
        return _known(section, self._results.unknown(z))


class Uncertainty:
    """How unsure a network is of membrane, in the parts of a stack that are looked at.

    1 - |2 p - 1| of the probability p: 1 where it is 0.5, and 0 where it is 0 or 1, or
    where nothing was predicted.

    Parameters
    ----------
    probabilities
        `(z, y, x)`, in [0, 1] or as whole numbers of the full range of their type.
    """

    ndim = 3

    def __init__(self, probabilities: LazyArray) -> None:
        self._probabilities = probabilities
        self.shape = tuple(probabilities.shape)
        self.dtype = np.dtype(np.float32)
        self.size = prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return int(self.shape[0])

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        if copy is False:
            msg = "uncertainty is computed, so there is always a copy"
            raise ValueError(msg)
        return np.asarray(self[:], dtype)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        """Index by `(z, y, x)`."""
        p = np.asarray(self._probabilities[key])
        if np.issubdtype(p.dtype, np.integer):
            p = p / np.float32(np.iinfo(p.dtype).max)
        unsure = 1 - np.abs(2 * p.astype(np.float32) - 1)
        return np.asarray(np.nan_to_num(np.clip(unsure, 0, 1), nan=0.0), np.float32)


class MaskedProbabilities(PredictedProbabilities):
    """Predicted probabilities by section; NaN where there are none, or no picture."""

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        section = self._results.probabilities[int(key)]
        return _known(super().__getitem__(key), padding(section))


def _known(
    section: NDArray[np.float32], outside: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Return a section with NaN outside."""
    return (
        section if outside is None else np.where(outside, np.float32(np.nan), section)
    )
