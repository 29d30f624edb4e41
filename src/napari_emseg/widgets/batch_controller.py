"""A batch on its way, beside whatever else the window does.

It belongs to the viewer and not to the dock, which can be closed and opened meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from napari import Viewer
from napari.utils.notifications import show_error, show_info
from psygnal import Signal
from qtpy.QtCore import QObject

from napari_emseg.batch import (
    BatchConfig,
    BatchEstimate,
    BatchSettings,
    OpenedRecipe,
    Summary,
)
from napari_emseg.batch.queue import BatchQueue
from napari_emseg.batch.where import PlaceSettings
from napari_emseg.core.errors import SettingError, UnusableInputsError
from napari_emseg.core.records import Note, Record
from napari_emseg.io.errors import AmbiguousFileError, OutputExistsError
from napari_emseg.segmentation.edge_classifier import EdgeClassifier
from napari_emseg.widgets import jobs
from napari_emseg.widgets.background import with_torch
from napari_emseg.widgets.run_presenter import format_record

SHOWN_NOTES = 6
"""The latest ones; the rest is counted."""

REMEDIES = {
    "resume": "go on with “Resume”",
    "out": "choose another folder under “Results in”",
    "overwrite": "tick “Replace results” to begin anew",
    "weights": "then open the recipe again",
    "edges": "then open the recipe again",
    "whole": "set “Whole sections up to” to {}",
}
"""How the settings are set in the dock that end an error."""

_all: WeakKeyDictionary[Viewer, BatchController] = WeakKeyDictionary()


def batch_controller_for(viewer: Viewer) -> BatchController:
    """Return the batch of a viewer."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins are handed a proxy
    if viewer not in _all:
        _all[viewer] = BatchController()
    return _all[viewer]


class BatchController(QObject):
    """Runs batches and dry runs of a board, one at a time.

    It keeps what is chosen in the dock: settings, where to run, folder of results.

    Signals: `rows_changed` with the numbers of rows that stand otherwise; `listed` if
    there are other rows; `changed` for all else.
    """

    rows_changed = Signal(list)
    listed = Signal()
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.board = BatchQueue()
        self.settings = BatchSettings()
        self.place = PlaceSettings()
        self.out = ""
        self.recipe: OpenedRecipe | None = None
        self.recipe_edges: EdgeClassifier | None = None
        self.job = jobs.BackgroundJob()
        self.advance: jobs.Advance | None = None
        self.words = ""
        self.error = ""
        self.summary: Summary | None = None
        self._notes: list[str] = []
        self.job.recorded.connect(self._on_recorded)
        self.job.advanced.connect(self._on_advanced)
        self.job.cancelling.connect(self.changed.emit)
        self.job.ended.connect(self._on_ended)

    @property
    def busy(self) -> bool:
        """True while a batch or a dry run is on."""
        return self.job.busy

    def notes(self) -> list[str]:
        """Return the latest of what the run told."""
        more = len(self._notes) - SHOWN_NOTES
        head = [f"({more} earlier notes)"] if more > 0 else []
        return head + self._notes[-SHOWN_NOTES:]

    def start(self, job: BatchConfig, *, retry: bool = False) -> None:
        """Begin, or go on; `retry`: only what failed.

        Raises
        ------
        ValueError
            If there is nothing to do, or something is on already.
        """
        self._check_free()
        work = self.board.starting(job, retry=retry)
        self._clear()
        self.summary = None
        self.job.start(with_torch(work), "Batch")
        self.listed.emit()
        self.changed.emit()

    def dry_run(self, job: BatchConfig) -> None:
        """Find out what a batch would take.

        Raises
        ------
        ValueError
            If there is nothing to do, or something is on already.
        """
        self._check_free()
        work = self.board.iter_dry_run(job)
        self._clear()
        self.job.start(with_torch(work), "Dry run")
        self.changed.emit()

    def refuse(self, error: Exception | None) -> None:
        """Show why something can't be done; nothing if it can."""
        self.error = "" if error is None else format_error(error)
        self.changed.emit()

    def tell(self, words: str) -> None:
        """Show what was done."""
        self.words, self.error = words, ""
        self.changed.emit()

    def _check_free(self) -> None:
        if self.busy:
            msg = f"{self.job.title} is on; wait for its end, or cancel it"
            raise ValueError(msg)

    def _clear(self) -> None:
        self.words, self.error, self._notes, self.advance = "", "", [], None

    def _on_recorded(self, records: Sequence[Record]) -> None:
        notes = [r.message for r in records if isinstance(r, Note)]
        self._notes += notes
        rows = self.board.take(records)
        if rows:
            self.rows_changed.emit(sorted(set(rows)))
        if notes:
            self.changed.emit()

    def _on_advanced(self, advance: jobs.Advance) -> None:
        self.advance = advance
        self.changed.emit()

    def _on_ended(self, outcome: jobs.JobResult) -> None:
        result = outcome.result
        known = isinstance(result, Summary | BatchEstimate)
        self.board.end(result if known else None)
        if isinstance(result, BatchEstimate):
            self.words = "\n".join([result.words, *result.notes])
        elif isinstance(result, Summary):
            self.summary = result
            self.words = format_summary(result)
            show_info(f"Batch: {self.words}")
        elif outcome.cause is not None:
            self.error = format_error(outcome.cause)
            show_error(f"{self.job.title}: {self.error}")
        else:
            self.words = "cancelled; what was finished is kept"
        self.listed.emit()
        self.changed.emit()


def format_summary(summary: Summary) -> str:
    """Return e.g. `3 of 4 inputs done, 1 failed`."""
    rows = summary.rows
    done = sum(row.state == "done" for row in rows)
    said = [f"{done} of {len(rows)} input{'s' * (len(rows) != 1)} done"]
    for state in ("incomplete", "failed"):
        count = sum(row.state == state for row in rows)
        said += [f"{count} {state}"] if count else []
    return ", ".join(said)


def format_error(error: BaseException) -> str:
    """Return an error in words, with what ends it in the dock."""
    if isinstance(error, UnusableInputsError):
        return f"{error.question}: {'; '.join(map(format_error, error.errors))}"
    if isinstance(error, AmbiguousFileError):
        return error.message("open it in 1 Data, which lets you choose")
    text = format_record(error)
    if isinstance(error, OutputExistsError):
        return f"{text}; tick “Replace results” to overwrite it"
    if not isinstance(error, SettingError):
        return text
    ways = [
        REMEDIES[name].format(value)
        for name, value in error.remedies.items()
        if name in REMEDIES
    ]
    return "; ".join([text, *([", or ".join(ways)] if ways else [])])
