"""Start, Dry run, Cancel, and how a batch goes: the foot of the dock Batch."""

from __future__ import annotations

from html import escape

from qtpy.QtCore import QUrl, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QVBoxLayout, QWidget

from napari_emseg.widgets.batch_controller import BatchController
from napari_emseg.widgets.formatting import format_time_left
from napari_emseg.widgets.theme import SPACING, button, follow, set_role, text_label

DRY = "Say what it will take: sections, time, disk, memory. Nothing is written."


class BatchFoot(QWidget):
    """Buttons and words; Start becomes Cancel while something runs."""

    start = Signal()
    dry_run = Signal()

    def __init__(self, batching: BatchController) -> None:
        super().__init__()
        self._batching = batching
        self._words = "Start"
        self.button = button("Start", "primary")
        self.dry = button("Dry run", tooltip=DRY)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.left = QLabel()
        self.message = text_label()
        self.link = QLabel()
        self.link.setOpenExternalLinks(True)
        self._lay_out()
        self.button.clicked.connect(self._on_click)
        self.dry.clicked.connect(lambda _: self.dry_run.emit())
        follow(self, batching.changed, self.show_state)
        self.show_state()

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.setSpacing(SPACING)
        row.addWidget(self.button)
        row.addWidget(self.dry)
        row.addWidget(self.bar, 1)
        row.addWidget(self.left)
        row.addStretch()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self.message)
        layout.addWidget(self.link)

    def call(self, words: str) -> None:
        """Have the button say Start, or Resume."""
        self._words = words
        self.show_state()

    def show_state(self) -> None:
        """Show how it stands."""
        busy, stopping = self._batching.busy, self._batching.job.stopping
        self.button.setText("Cancel" if busy else self._words)
        set_role(self.button, "cancel" if busy else "primary")
        self.button.setEnabled(not stopping)
        for widget in (self.bar, self.left):
            widget.setVisible(busy)
        self.dry.setVisible(not busy)
        self._show_advance(stopping=stopping)
        self._show_words()
        self._show_link()

    def _show_advance(self, *, stopping: bool) -> None:
        advance = self._batching.advance
        self.bar.setRange(0, 1 if advance is None else advance.total)
        self.bar.setValue(0 if advance is None else advance.done)
        left = "starting" if advance is None else format_time_left(advance.seconds_left)
        self.left.setText("stops soon" if stopping else left)

    def _show_words(self) -> None:
        error, lines = self._batching.error, self._batching.notes()
        if self._batching.words:
            lines = [*lines, self._batching.words]
        self.message.setText(error or "\n".join(lines))
        self.message.setVisible(bool(error or lines))
        set_role(self.message, "error" if error else "hint")

    def _show_link(self) -> None:
        summary = self._batching.summary
        pages = () if summary is None else summary.pages
        page = next((p for p in pages if p.suffix == ".html"), None)
        self.link.setVisible(page is not None)
        if page is not None:
            url = QUrl.fromLocalFile(str(page.absolute())).toString()
            self.link.setText(f'<a href="{escape(url)}">Summary: {page.name}</a>')

    def _on_click(self) -> None:
        if self._batching.busy:
            self._batching.job.cancel()
        else:
            self.start.emit()
