"""One run on its way: its layers are added, kept up to date, and told of."""

import logging
from collections.abc import Generator, Sequence
from threading import Event
from typing import Any, Literal

from napari.utils.notifications import show_error, show_info
from numpy.typing import NDArray

from napari_emseg.core.errors import OtherPrecisionError, UnknownVoxelSizeError
from napari_emseg.core.records import Note, Provenance, Record, SectionDone, TileDone
from napari_emseg.core.settings import CellSettings
from napari_emseg.session import Run
from napari_emseg.widgets.background import warmed_up
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.layers import Kind, ResultLayers, likelihood

Stage = Literal["membranes", "cells"]

SHOWN: dict[Stage, tuple[Kind, ...]] = {
    "membranes": ("membranes", "membrane probability"),
    "cells": ("membranes", "cells"),
}
"""Result layers of each stage, lowest first."""

ANNOUNCED = 3
"""Notes of one run that napari announces; the panel has them all."""

_log = logging.getLogger(__name__)


class RunPresenter:
    """What is shown of a run; `work` is what its job has to do.

    It keeps the layers that it was started with, whatever is chosen meanwhile.
    """

    def __init__(
        self,
        run: Run,
        stage: Stage,
        layers: ResultLayers,
        job: BackgroundJob,
        *,
        said: str = "",
    ) -> None:
        self._said = said
        self.run = run
        self.stage = stage
        self._layers = layers
        self._job = job
        self._of_class = {likelihood(name): name for name in run.classes}
        self._kinds = (*SHOWN[stage], *self._of_class)
        self._announced = 0
        self._layers_are_there = Event()
        self._has_results = False

    @property
    def work(self) -> Generator[Record, None, Any]:
        """The run's, after what has to be loaded for it."""
        torch = self.stage == "membranes"
        there = self._layers_are_there
        return warmed_up(
            self.run.work,
            there,
            torch=torch,
            check=self.run.check,
            is_result=self._is_result,
        )

    def _is_result(self, record: Record) -> bool:
        """Tell if there is something to show after a record; asked in any thread."""
        if self.stage == "membranes":
            return isinstance(record, TileDone) and not record.damaged
        found = self.run.source.results
        return isinstance(record, SectionDone) and bool(found.segmented)

    def on_records(self, records: Sequence[Record]) -> list[str]:
        """Show what is new; return what there is to tell."""
        if not self._has_results and any(map(self._is_result, records)):
            self._has_results = True
            self._layers.show(
                self._arrays(),
                while_=lambda: self._job.busy and not self._job.closing,
                then=self._layers_are_there.set,
            )
        sections = {r.z for r in records if isinstance(r, (TileDone, SectionDone))}
        self._layers.refresh(set(self._kinds), sections)
        notes = [
            r.message
            for r in records
            if isinstance(r, Note)
            and r.message.removeprefix("rescaled ") not in self._said
        ]
        for note in notes:
            self._announced += 1
            if self._announced <= ANNOUNCED:
                show_info(f"{self.run.title}: {note}")
        return notes

    def on_end(self, outcome: JobResult, *, shown: bool = True) -> str:
        """Show all there is, and write down how it came; return an error in words.

        Parameters
        ----------
        shown
            The stack is still in the window, and the window stays.
        """
        if self._has_results and shown and not self._layers_are_there.is_set():
            # a run that was cancelled doesn't wait until all are there; those that
            # were there once may have been removed since
            self._layers.show_now(self._arrays())
        self._layers.refresh_all()
        if self._has_results:
            for kind in self._kinds:
                self._layers.describe(kind, self._provenance(kind))
        if outcome.cause is None:
            return ""
        message = format_record(outcome.cause)
        show_error(f"{self.run.title}: {message}")
        return message

    def _arrays(self) -> dict[Kind, NDArray[Any]]:
        return {kind: self._array(kind) for kind in self._kinds}

    def _array(self, kind: Kind) -> NDArray[Any]:
        results = self.run.source.results
        if kind in self._of_class:
            return results.of_class(self._of_class[kind])
        if kind == "cells":
            return results.cells
        return results.membranes if kind == "membranes" else results.probabilities

    def _provenance(self, kind: Kind) -> Provenance | None:
        source, settings = self.run.source, self.run.settings
        if kind in self._of_class:
            return source.results.class_provenance.get(self._of_class[kind])
        if kind == "cells" and isinstance(settings, CellSettings):
            return source.cells_provenance(settings, len(self.run.region.sections))
        return source.provenance or source.results.membrane_provenance


def format_record(error: BaseException) -> str:
    """Say an error for the panel; those that nobody foresaw are logged in full."""
    text = str(error).strip()
    if isinstance(error, UnknownVoxelSizeError):
        return f"{text}; enter it in 1 Data"
    if isinstance(error, OtherPrecisionError):
        return f"{text}; choose another precision in 2 Membranes, under Advanced"
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    if isinstance(error, MemoryError):
        return text or "not enough memory; choose a smaller region or a smaller tile"
    _log.error("a run failed", exc_info=error)
    return f"{type(error).__name__}: {text or 'no message'} (details are in the log)"
