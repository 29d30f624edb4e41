"""The state of one sitting, evented: panels are functions of it.

Only the GUI thread (or whoever else is in charge) writes to a session. Runs get a
snapshot of it and write into results only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from psygnal import SignalGroupDescriptor

from napari_emseg.core.settings import CellSettings, CheckSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.session.known import Given
from napari_emseg.session.region import Region
from napari_emseg.session.results import Results
from napari_emseg.session.source import Run, Source

if TYPE_CHECKING:
    from napari_emseg.check import SectionCheck
    from napari_emseg.inference import Predictor, RunEstimate
    from napari_emseg.models.weights import Weights
    from napari_emseg.session.handwork import HandWork
    from napari_emseg.session.keeping import Keeping
    from napari_emseg.session.learning import Learning
    from napari_emseg.session.recutting import Recuts


@dataclass(eq=False)
class Session:
    """What is at work in one window; every field tells of its changes by `events`."""

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    source: Source | None = None
    refusal: str = ""
    """Why no stack is at work, if one was asked for."""
    weights: Weights | None = None
    predict_settings: PredictSettings = field(default_factory=PredictSettings)
    cell_settings: CellSettings = field(default_factory=CellSettings)
    check_settings: CheckSettings = field(default_factory=CheckSettings)
    redo_reviewed: bool = False
    """Runs go over reviewed sections, too; what was done by hand stays all the same."""

    def __post_init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._predictor: Predictor | None = None
        self._recuts: Recuts | None = None
        self._learning: Learning | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """All stacks that were put to work and not forgotten."""
        return tuple(self._sources.values())

    @property
    def learning(self) -> Learning:
        """What is learnt from corrections, and the weights that came of it."""
        from napari_emseg.session.learning import Learning

        if self._learning is None:
            self._learning = Learning(self)
        return self._learning

    def select(self, key: str, stack: Stack) -> Source:
        """Put a stack to work; what was said of it and made from it comes back."""
        known = self._sources.get(key)
        if known is None or known.stack.shape != stack.shape:
            self._stop_keeping(known)
            known = Source(key, stack, Results(stack.shape))
        source = replace(known, stack=stack)
        self._put(source)
        return source

    def deselect(self, refusal: str = "") -> None:
        """Put no stack to work; `refusal` says why, if one was asked for."""
        self.refusal = refusal
        self.source = None

    def forget(self, key: str) -> None:
        """Drop all that is known of a stack; its project is saved and closed.

        Raises
        ------
        OSError
            If it can't be saved.
        """
        known = self._sources.pop(key, None)
        if self.source is not None and self.source.key == key:
            self.deselect()
        self._stop_keeping(known)

    def take(self, source: Source) -> None:
        """Put a source to work with all that is known of it, as from a project."""
        source.results.hand.reviewed = source.reviewed
        self._put(source)

    def keep(self, key: str, keeping: Keeping | None) -> Keeping | None:
        """Let a project keep what is done to a stack; return the one before."""
        known = self._sources.get(key)
        if known is None:
            return None
        before, known = known.keeping, replace(known, keeping=keeping)
        self._sources[key] = known
        if self.source is not None and self.source.key == key:
            self.source = known
        return before

    def _stop_keeping(self, source: Source | None) -> None:
        if source is not None and source.keeping is not None:
            source.keeping.close()

    def exclude(self, z: int, *, excluded: bool = True) -> None:
        """Leave a section out of all runs, or take it back in.

        Raises
        ------
        ValueError
            If there is no stack, or its project is read-only.
        """
        source = self._writable()
        change = source.excluded.union if excluded else source.excluded.difference
        self._put(replace(source, excluded=frozenset(change({z}))))

    def review(self, z: int, *, reviewed: bool = True) -> None:
        """Mark a section as reviewed, or as to do again.

        Raises
        ------
        ValueError
            If there is no stack, or its project is read-only.
        """
        source = self._writable()
        change = source.reviewed.union if reviewed else source.reviewed.difference
        source = replace(source, reviewed=frozenset(change({z})))
        source.results.hand.reviewed = source.reviewed
        self._put(source)

    def correcting(self) -> HandWork:
        """Return the hand work on the stack at work.

        Raises
        ------
        ValueError
            If there is no stack.
        """
        source = self._source()
        hand = source.results.hand
        hand.given = Given(source.stack.data) if source.is_probabilities else None
        return hand

    def note_findings(self, key: str, findings: Sequence[SectionCheck]) -> None:
        """Keep what a check of a stack found."""
        known = self._sources.get(key)
        if known is None:
            return
        known = replace(known, findings=tuple(findings))
        self._sources[key] = known
        if self.source is not None and self.source.key == key:
            self.source = known

    def choose_weights(self, weights: Weights | None) -> None:
        """Use other weights; the threshold becomes the one in their card.

        A depth or heads that they don't have are forgotten.
        """
        if weights is not None and not weights.card.depths:
            self.predict_settings = self.predict_settings.model_copy(
                update={"depth": None, "heads": "last"}
            )
        self.weights = weights
        threshold = self._own_threshold()
        if threshold is not None:
            self.cell_settings = self.cell_settings.model_copy(
                update={"threshold": threshold}
            )

    def choose_settings(self, settings: PredictSettings) -> None:
        """Use other settings; a threshold that comes with a depth comes along.

        Unless the user has chosen another one.
        """
        own = self._own_threshold()
        self.predict_settings = settings
        if own is not None and self.cell_settings.threshold == own:
            self.cell_settings = self.cell_settings.model_copy(
                update={"threshold": self._own_threshold()}
            )

    def _own_threshold(self) -> float | None:
        """Return the threshold that validation fixed for the chosen way to run."""
        if self.weights is None:
            return None
        s = self.predict_settings
        known = self.weights.card.variant(s.depth, s.heads, tta=s.tta)
        fixed = None if known is None else known.threshold
        return self.weights.card.threshold if fixed is None else fixed

    def check(self) -> Run:
        """Return a look at every section; its result is a list of findings.

        Raises
        ------
        ValueError
            If there is no stack.
        """
        from napari_emseg.check import check_stack

        source = self._source()
        work = check_stack(source.stack, settings=self.check_settings)
        region = Region(tuple(range(source.stack.shape[0])))
        return Run(f"Check of {source.name}", source, region, self.check_settings, work)

    def estimate(self, region: Region) -> RunEstimate | None:
        """Say what `predict` would take, in a millisecond and without torch.

        None if there is no stack or no weights, or if the card is too old to tell.

        Raises
        ------
        ValueError
            If `predict` would, too.
        """
        from napari_emseg.inference import estimate

        if self.source is None or self.weights is None:
            return None
        if self.weights.card.geometry is None and "torch" not in sys.modules:
            return None
        source = self._em()
        region = self._to_run(source, region)
        return estimate(
            source.stack,
            self.weights,
            settings=self.predict_settings,
            sections=region.sections,
            roi=region.roi,
            classes=("membrane", *self.weights.card.further_classes),
            keep=True,
        )

    def predict(self, region: Region) -> Run:
        """Return a run of the network over a region.

        Raises
        ------
        ValueError
            If there is no stack or no weights, nothing is left of the region, or the
            voxel size is absurd.
        """
        from napari_emseg.inference import Predictor
        from napari_emseg.session.runs import predicting

        source = self._em()
        if self.weights is None:
            msg = "no weights are chosen; choose some in 2 Membranes"
            raise ValueError(msg)
        if self._predictor is None or self._predictor.weights != self.weights:
            self._predictor = Predictor(self.weights)
        region = self._to_run(source, region)
        work = predicting(
            self._predictor,
            source,
            region,
            settings=self.predict_settings,
            threshold=self.cell_settings.threshold,
        )
        return Run(
            f"Membranes of {source.name}",
            source,
            region,
            self.predict_settings,
            work,
            self.weights.card.further_classes,
        )

    def segment(self, region: Region) -> Run:
        """Return a run that finds the cells of a region.

        Raises
        ------
        ValueError
            If there are no probabilities in the region.
        """
        from napari_emseg.session.runs import segmenting

        source = self._source()
        region = self._to_run(source, region)
        if not source.is_probabilities:
            there = set(source.results.predicted)
            region = replace(
                region, sections=tuple(z for z in region.sections if z in there)
            )
        if not region.sections:
            msg = "there are no membranes here yet; run 2 Membranes first"
            raise ValueError(msg)
        work = segmenting(source, region, self.cell_settings)
        return Run(f"Cells of {source.name}", source, region, self.cell_settings, work)

    def cut(self) -> Run:
        """Return a run that makes membranes anew by the threshold of the settings."""
        from napari_emseg.session.runs import cutting

        source = self._source()
        region = Region(source.results.predicted)
        work = cutting(source.results, self.cell_settings.threshold)
        return Run(
            f"Threshold of {source.name}", source, region, self.cell_settings, work
        )

    def recuts(self) -> Recuts:
        """Return a way to try cell settings on a section of the stack at work.

        Raises
        ------
        ValueError
            If there is no stack.
        """
        from napari_emseg.session.recutting import Recuts

        source = self._source()
        if self._recuts is None or self._recuts.source is not source:
            if self._recuts is not None:
                self._recuts.keep()
            self._recuts = Recuts(source)
        return self._recuts

    @property
    def at_work(self) -> Source:
        """The stack at work.

        Raises
        ------
        ValueError
            If none is chosen.
        """
        return self._source()

    def _source(self) -> Source:
        if self.source is None:
            msg = "no stack is chosen; open one or choose an image layer in 1 Data"
            raise ValueError(msg)
        return self.source

    def _writable(self) -> Source:
        source = self._source()
        if source.keeping is not None and source.keeping.read_only:
            raise ValueError(source.results.hand.refusal)
        return source

    def _to_run(self, source: Source, region: Region) -> Region:
        """Leave out what is excluded, and what is reviewed unless the user says so."""
        region = region.without(source.excluded)
        if self.redo_reviewed or not source.reviewed:
            return region
        kept = tuple(z for z in region.sections if z not in source.reviewed)
        if not kept:
            msg = (
                "every section of this run is reviewed, and left as it is; mark one as "
                "to do in 4 Correct, or allow runs over reviewed sections there"
            )
            raise ValueError(msg)
        return replace(region, sections=kept)

    def _em(self) -> Source:
        source = self._source()
        if source.is_probabilities:
            msg = f"{source.name} holds probabilities already; go on with 3 Cells"
            raise ValueError(msg)
        return source

    def _put(self, source: Source) -> None:
        self._sources[source.key] = source
        self.refusal = ""
        self.source = source
