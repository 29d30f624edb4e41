"""The runs over the stack at work: what each is of, and which sections it touches."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from napari_emseg.core.regions import RunScope
from napari_emseg.core.settings import CellSettings, CheckSettings, PredictSettings
from napari_emseg.models.weights import Weights
from napari_emseg.session.stack_state import Run, StackState
from napari_emseg.session.threshold_preview import AgglomerationPreview

if TYPE_CHECKING:
    from napari_emseg.inference import Predictor, RunEstimate
    from napari_emseg.segmentation.edge_classifier import EdgeClassifier


class RunChoices(Protocol):
    """What runs are over, and what was chosen for them, such as a `Session`."""

    source: StackState | None
    weights: Weights | None
    predict_settings: PredictSettings
    cell_settings: CellSettings
    check_settings: CheckSettings
    edges: EdgeClassifier | None
    redo_reviewed: bool

    @property
    def at_work(self) -> StackState:
        """The source; raises a ValueError if there is none."""


class RunFactory:
    """What can be run on the stack at work, with what is chosen at that moment.

    Excluded sections are left out of every run; reviewed ones, too, unless they are to
    be done again.

    Parameters
    ----------
    chosen
        Read anew for each run.
    """

    def __init__(self, chosen: RunChoices) -> None:
        self._chosen = chosen
        self._predictor: Predictor | None = None
        self._again: Predictor | None = None
        self._recuts: AgglomerationPreview | None = None

    @property
    def predict_settings(self) -> PredictSettings:
        """What a run of the network goes by now: one view of what has no others."""
        from napari_emseg.inference.scope import why_one_view

        source, settings = self._chosen.source, self._chosen.predict_settings
        if settings.views == 1 or source is None or not why_one_view(source.stack):
            return settings
        return settings.model_copy(update={"views": 1})

    def check(self) -> Run:
        """Return a look at every section; its result is a list of findings.

        Raises
        ------
        ValueError
            If there is no stack.
        """
        from napari_emseg.check import check_stack

        source, settings = self._chosen.at_work, self._chosen.check_settings
        work = check_stack(source.stack, settings=settings)
        region = RunScope(tuple(range(source.stack.shape[0])))
        return Run(f"Check of {source.name}", source, region, settings, work)

    def estimate(self, region: RunScope) -> RunEstimate | None:
        """Say what `predict` would take, in a millisecond and without torch.

        None if there is no stack or no weights, or if the card is too old to tell.

        Raises
        ------
        ValueError
            If `predict` would, too.
        """
        from napari_emseg.inference import estimate
        from napari_emseg.inference.precision import check_precision

        weights = self._chosen.weights
        if self._chosen.source is None or weights is None:
            return None
        if weights.card.geometry is None and "torch" not in sys.modules:
            return None
        source = self._em()
        region = self._to_run(source, region)
        check_precision(self.predict_settings, ask=False)
        return estimate(
            source.stack,
            weights,
            settings=self.predict_settings,
            sections=region.sections,
            roi=region.roi,
            classes=("membrane", *weights.card.further_classes),
            keep=True,
        )

    def predict(self, region: RunScope) -> Run:
        """Return a run of the network over a region.

        Raises
        ------
        ValueError
            If there is no stack or no weights, nothing is left of the region, the voxel
            size is absurd, or it is known that the precision can't be had here.
        """
        from napari_emseg.inference import Predictor
        from napari_emseg.inference.precision import check_precision
        from napari_emseg.session.runs import iter_predict

        source, weights = self._em(), self._chosen.weights
        if weights is None:
            msg = "no weights are chosen; choose some in 2 Membranes"
            raise ValueError(msg)
        if self._predictor is None or self._predictor.weights != weights:
            self._predictor = Predictor(weights)
        region = self._to_run(source, region)
        settings = self.predict_settings
        check_precision(settings, ask=False)
        work = iter_predict(
            self._predictor,
            source,
            region,
            settings=settings,
            threshold=self._chosen.cell_settings.threshold,
            affinities=self._affinities(weights),
        )
        title, known = f"Membranes of {source.name}", self._affinities(weights)
        further = tuple(c for c in weights.card.further_classes if c not in known)
        check = partial(check_precision, settings)
        return Run(title, source, region, settings, work, further, check)

    def _affinities(self, weights: Weights) -> tuple[str, ...]:
        """Return the classes that cells through the stack are found by, if wanted."""
        from napari_emseg.segmentation.affinities import affinity_classes

        if self._chosen.cell_settings.through == "sections":
            return ()
        return affinity_classes(weights.card.classes)

    def predict_again(self, z: int) -> Run | None:
        """Return a run that makes lost probabilities of a section again.

        None where they are known or can't be made: without weights, or of a section
        in which nothing was run.
        """
        from napari_emseg.inference import Predictor
        from napari_emseg.session.runs import iter_predict_again

        source, weights = self._chosen.source, self._chosen.weights
        if source is None or weights is None or source.is_probabilities:
            return None
        results = source.results
        found = {*results.segmented, *results.lost} - source.excluded
        if z in results.predicted or z not in found:
            return None
        settings = self.predict_settings
        # of its own: a run may be started while this one ends
        if self._again is None or self._again.weights != weights:
            self._again = Predictor(weights)
        threshold = self._chosen.cell_settings.threshold
        work = iter_predict_again(
            self._again,
            source,
            z,
            settings,
            threshold,
            affinities=self._affinities(weights),
        )
        title = f"Probabilities of section {z} of {source.name}"
        return Run(title, source, RunScope((z,)), settings, work)

    def segment(self, region: RunScope) -> Run:
        """Return a run that finds the cells of a region.

        Raises
        ------
        ValueError
            If there are no probabilities in the region.
        """
        from napari_emseg.session.runs import iter_segment

        source, settings = self._chosen.at_work, self._chosen.cell_settings
        region = self._to_run(source, region)
        if not source.is_probabilities:
            there = set(source.results.predicted)
            region = replace(
                region, sections=tuple(z for z in region.sections if z in there)
            )
        if not region.sections:
            msg = "there are no membranes here yet; run 2 Membranes first"
            raise ValueError(msg)
        work = iter_segment(source, region, settings, self._chosen.edges)
        return Run(f"Cells of {source.name}", source, region, settings, work)

    def learn_edges(self) -> Run:
        """Return the work of learning which fragments are one cell from corrections.

        The classifier in use learns on, or one from nothing where there is none.

        Raises
        ------
        ValueError
            If there is no stack, or nothing to learn from.
        """
        from napari_emseg.segmentation.edge_classifier import default_classifier
        from napari_emseg.session.edge_learning import learn_edges

        source, settings = self._chosen.at_work, self._chosen.cell_settings
        start = self._chosen.edges or default_classifier()
        work = learn_edges(source, settings, start)
        region = RunScope(tuple(sorted(source.results.linked_sections)))
        return Run(f"Edges of {source.name}", source, region, settings, work)

    def cut(self) -> Run:
        """Return a run that makes membranes anew by the threshold of the settings.

        Raises
        ------
        ValueError
            If there is no stack.
        """
        from napari_emseg.session.runs import iter_recut

        source, settings = self._chosen.at_work, self._chosen.cell_settings
        region = RunScope(source.results.predicted)
        work = iter_recut(source.editor, settings.threshold)
        return Run(f"Threshold of {source.name}", source, region, settings, work)

    def recuts(self) -> AgglomerationPreview:
        """Return a way to try cell settings on a section of the stack at work.

        Raises
        ------
        ValueError
            If there is no stack.
        """
        from napari_emseg.session.threshold_preview import AgglomerationPreview

        source = self._chosen.at_work
        if self._recuts is None or self._recuts.source is not source:
            if self._recuts is not None:
                self._recuts.keep()
            self._recuts = AgglomerationPreview(source, lambda: self._chosen.edges)
        return self._recuts

    def _to_run(self, source: StackState, region: RunScope) -> RunScope:
        """Leave out what is excluded, and what is reviewed unless the user says so."""
        region = region.without(source.excluded)
        if self._chosen.redo_reviewed or not source.reviewed:
            return region
        kept = tuple(z for z in region.sections if z not in source.reviewed)
        if not kept:
            msg = (
                "every section of this run is reviewed, and left as it is; mark one as "
                "to do in 4 Correct, or allow runs over reviewed sections there"
            )
            raise ValueError(msg)
        return replace(region, sections=kept)

    def _em(self) -> StackState:
        source = self._chosen.at_work
        if source.is_probabilities:
            msg = f"{source.name} holds probabilities already; go on with 3 Cells"
            raise ValueError(msg)
        return source
