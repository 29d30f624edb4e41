"""A stack at work with all that is known of it, and a run over it."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

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
    """

    key: str
    stack: Stack
    editor: AnnotationEditor = field(repr=False)
    excluded: frozenset[int] = frozenset()
    findings: tuple[SectionCheck, ...] | None = None
    reviewed: frozenset[int] = frozenset()

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
        return cells_provenance(settled, made, affinities=names, constraints=said)

    @property
    def provenance(self) -> Provenance | None:
        """How it came to be, if it is a result itself, such as probabilities."""
        made = self.stack.metadata.get("emseg")
        return None if made is None else Provenance.model_validate(made)

    @property
    def is_probabilities(self) -> bool:
        """True if this is no EM but probabilities of membrane."""
        return self.provenance is not None and self.provenance.kind == "membrane"


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
