"""A stack at work with all that is known of it, and a run over it."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any, Self
from weakref import ref

import numpy as np

from napari_emseg.check import SectionCheck
from napari_emseg.core import regions
from napari_emseg.core.records import Provenance, Record
from napari_emseg.core.regions import RunScope
from napari_emseg.core.settings import CellSettings, Settings
from napari_emseg.core.stack import Stack
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.results import Results


@dataclass(frozen=True, slots=True, eq=False)
class StackState:
    """A stack at work, and what the user said of it.

    Parameters
    ----------
    key
        Which one it is among all that were at work, e.g. the id of its layer.
    stack
        With the voxel size that counts.
    editor
        Of the results: what runs gave, and what a person did to them.
    excluded
        Sections that no run touches.
    findings
        What is worth a look; None as long as sections weren't checked.
    reviewed
        Sections that a person is done with; runs leave them alone.
    made_of
        Returns the data that results and corrections are of, as long as they exist,
        if others were put in their place since.
    """

    key: str
    stack: Stack
    editor: AnnotationEditor = field(repr=False)
    excluded: frozenset[int] = frozenset()
    findings: tuple[SectionCheck, ...] | None = None
    reviewed: frozenset[int] = frozenset()
    made_of: Callable[[], Any] | None = field(default=None, repr=False)

    def with_stack(self, stack: Stack) -> Self:
        """Return the same with another description of its stack, or other data.

        What was made from the data before stays, and `warning` says so; findings don't.
        """
        if _same_data(self.stack, stack):
            return replace(self, stack=stack)
        if self.made_of is not None and self.made_of() is stack.data:
            return replace(self, stack=stack, findings=None, made_of=None)
        before = self.made_of or (_weak(self.stack.data) if self.is_worked_on else None)
        return replace(self, stack=stack, findings=None, made_of=before)

    @property
    def is_worked_on(self) -> bool:
        """True if runs or a person have made something of the data."""
        results, history = self.results, self.editor.history
        made = results.predicted or results.segmented or results.lost
        return bool(made or self.reviewed or history.corrections())

    @property
    def warning(self) -> str:
        """What to know before results or corrections are used; empty if nothing."""
        if self.made_of is None:
            return ""
        return (
            f"The data of {self.name} were replaced; results and corrections made "
            "before are of the earlier data."
        )

    @property
    def name(self) -> str:
        """The stack's."""
        return self.stack.name

    @property
    def results(self) -> Results:
        """What runs gave."""
        return self.editor.results

    @property
    def reviewed_regions(self) -> tuple[regions.Region, ...]:
        """Where everything counts: whole sections, and regions of the others.

        Regions come in the order in which they were reviewed, after the sections.
        """
        _, y, x = self.stack.shape
        whole = (regions.Region.whole(z, (y, x)) for z in sorted(self.reviewed))
        parts = self.editor.regions if self.editor.begun else ()
        return (*whole, *(part for part in parts if part.z not in self.reviewed))

    def settled(self, settings: CellSettings, sections: int) -> CellSettings:
        """Return settings that say how cells of so many sections are found."""
        from napari_emseg.segmentation import settle_through

        known = bool(self.results.with_affinities)
        size = self.stack.voxel_size_nm
        return settle_through(settings, size, sections, affinities=known)

    def cells_provenance(self, settings: CellSettings, sections: int) -> Provenance:
        """Say how cells of so many sections came to be."""
        from napari_emseg.segmentation import cells_provenance

        settled, results = self.settled(settings, sections), self.results
        by = results.affinities if results.with_affinities else {}
        made = self.provenance or results.membrane_provenance
        names = () if settled.through == "sections" else tuple(by)
        said = 0 if settled.through == "sections" else len(self.editor.constraints)
        return cells_provenance(
            settled,
            made,
            affinities=names,
            constraints=said,
            excluded=self.excluded,
            edges=results.edges,
        )

    @property
    def provenance(self) -> Provenance | None:
        """How it came to be, if it is a result itself, such as probabilities."""
        return Provenance.of(self.stack)

    @property
    def is_probabilities(self) -> bool:
        """True if this is no EM but probabilities of membrane."""
        return self.provenance is not None and self.provenance.kind == "membrane"


def _same_data(one: Stack, other: Stack) -> bool:
    """Tell if stacks of one shape have the same values, as far as that is quick."""
    if one.data is other.data:
        return True
    in_memory = type(one.data) is type(other.data) is np.ndarray
    depth = one.shape[0]
    # a single section is wrapped anew each time; more of them may be on a slow disk
    if depth > 1 and not in_memory:
        return False
    try:
        pairs = ((one.section(z), other.section(z)) for z in range(depth))
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    except (OSError, ValueError):
        return False


def _weak(data: Any) -> Callable[[], Any]:
    """Return what finds data again without keeping them in memory."""
    try:
        return ref(data)
    except TypeError:  # not every array can be found again
        return lambda: None


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run that is ready to start: `work` yields records and fills the results.

    `classes` are those that it gives beside membrane and inside. `check` raises a
    ValueError where this machine can't do it; it may take seconds, and comes before
    anything is shown or loaded.
    """

    title: str
    source: StackState
    region: RunScope
    settings: Settings
    work: Generator[Record, None, Any] = field(repr=False)
    classes: tuple[str, ...] = ()
    check: Callable[[], None] | None = field(default=None, repr=False)
