"""Which weights are in use: the same in every panel of a window."""

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QSlider,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_emseg._napari.versions import preference
from napari_emseg.core.regions import RunScope
from napari_emseg.models.weights import (
    Weights,
    list_weights,
    missing_weights,
    own_folder,
)
from napari_emseg.session import Session
from napari_emseg.session.live import Depth, depths_of, iter_measure_depths
from napari_emseg.widgets.background import with_torch
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.formatting import format_duration, format_millions
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.theme import (
    SPACING,
    CollapsibleBox,
    button,
    combo_box,
    follow,
    form_layout,
    row_label,
    set_role,
    text_label,
)


class WeightsBox(QWidget):
    """Offers bundled and own weights, and those that the session uses."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.choice = combo_box()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.choice)
        self._known = list_weights(own_folder())
        for weights in self._known.values():
            self._offer(weights)
        self._tell_missing()
        self._propose()
        self.choice.activated.connect(self._on_chosen)
        follow(self, session.events.weights, self._on_weights)
        follow(self, session.events.source, self._propose)
        self._on_weights()

    def _propose(self) -> None:
        self._session.propose_weights(self._known, preference("runs", "weights") or "")

    def _tell_missing(self) -> None:
        """Name weights that could be here as entries that can't be chosen."""
        for name, how in missing_weights().items():
            if name not in self._known:
                self.choice.addItem(f"{name}: pip install napari-emseg-data")
                entry = self.choice.model().item(self.choice.count() - 1)
                entry.setEnabled(False)
                entry.setToolTip(how)

    def _offer(self, weights: Weights) -> int:
        for nth in range(self.choice.count()):
            there = self.choice.itemData(nth)
            if there is not None and there.path == weights.path:
                return nth
        self.choice.addItem(weights.card.name, weights)
        return self.choice.count() - 1

    def _on_chosen(self, nth: int) -> None:
        self._session.choose_weights(self.choice.itemData(nth))

    def _on_weights(self) -> None:
        weights = self._session.weights
        if weights is not None:
            self.choice.setCurrentIndex(self._offer(weights))


HEADINGS = ("depth", "parameters", "time", "V_Rand")


class DepthDial(QWidget):
    """Chooses `PredictSettings.depth`; hidden for networks that have none.

    `measured` tells that times are known that weren't.
    """

    measured = Signal()

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._depths: list[Depth] = []
        self._job = BackgroundJob(in_activity_dock=False)
        self.dial = QSlider(Qt.Orientation.Horizontal)
        self.words = QLabel()
        self.table = QTableWidget(0, len(HEADINGS))
        self.measure = button(
            "Measure the times here",
            "link",
            "Runs each depth over a small picture; takes some seconds.",
        )
        self.message = text_label(role="error")
        self._lay_out()
        self.dial.valueChanged.connect(self._on_dial)
        self.table.cellClicked.connect(self._on_row)
        self.measure.clicked.connect(self._on_measure)
        self._job.ended.connect(self._on_measured)
        self.hide()

    def _lay_out(self) -> None:
        self.dial.setTickPosition(QSlider.TickPosition.TicksBelow)
        self.dial.setTickInterval(1)
        self.dial.setPageStep(1)
        self.dial.setToolTip("Shallow is fast, deep is accurate. Changes with Run.")
        self.table.setHorizontalHeaderLabels(list(HEADINGS))
        self.table.verticalHeader().hide()
        stretch = QHeaderView.ResizeMode.Stretch
        self.table.horizontalHeader().setSectionResizeMode(stretch)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        row = QHBoxLayout()
        row.setSpacing(SPACING)
        row.addWidget(self.dial, 1)
        row.addWidget(self.words)
        form = form_layout()
        form.addRow(row_label("Depth"), row)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addWidget(CollapsibleBox("Compare depths", self._details(), role="link"))
        layout.addWidget(self.message)
        self.message.hide()

    def _details(self) -> QWidget:
        details = QWidget()
        layout = QVBoxLayout(details)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addWidget(self.measure, 0, Qt.AlignmentFlag.AlignLeft)
        return details

    def show_depths(self, region: RunScope | None) -> None:
        """Show what a run over a region would take; nothing for other networks."""
        session = self._controller.session
        weights, source = session.weights, session.source
        self._depths = []
        if weights is not None:
            stack = None if source is None else source.stack
            settings = session.predict_settings
            self._depths = depths_of(weights, settings, stack, region)
        self.setVisible(bool(self._depths))
        if self._depths:
            self._show()

    def _show(self) -> None:
        there = [depth.depth for depth in self._depths]
        chosen = self._controller.session.predict_settings.depth or max(there)
        blocked = self.dial.blockSignals(True)
        self.dial.setRange(min(there), max(there))
        self.dial.setValue(chosen)
        self.dial.blockSignals(blocked)
        self.words.setText(f"{chosen} of {max(there)}")
        self.table.setRowCount(len(there))
        for row, depth in enumerate(self._depths):
            for column, words in enumerate(_cells(depth)):
                item = QTableWidgetItem(words)
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                item.setToolTip(_tip(depth))
                self.table.setItem(row, column, item)
        self.table.selectRow(there.index(chosen))
        heights = sum(self.table.rowHeight(row) for row in range(len(there)))
        self.table.setFixedHeight(self.table.horizontalHeader().height() + heights + 4)
        unknown = any(not depth.measured for depth in self._depths)
        self.measure.setVisible(unknown and not self._controller.job.busy)

    def _on_row(self, row: int) -> None:
        self.dial.setValue(self._depths[row].depth)

    def _on_dial(self, depth: int) -> None:
        session = self._controller.session
        settings = session.predict_settings.model_copy(update={"depth": depth})
        session.choose_settings(settings)

    def _on_measure(self) -> None:
        session = self._controller.session
        if session.weights is None or self._job.busy or self._controller.job.busy:
            return
        self.message.hide()
        self.measure.setEnabled(False)
        self.measure.setText("measuring …")
        unknown = [depth.depth for depth in self._depths if not depth.measured]
        work = iter_measure_depths(session.weights, session.predict_settings, unknown)
        self._job.start(with_torch(work), "Measure the times")

    def _on_measured(self, outcome: JobResult) -> None:
        self.measure.setEnabled(True)
        self.measure.setText("Measure the times here")
        if outcome.cause is not None:
            self.message.setText(format_record(outcome.cause))
            self.message.show()
            set_role(self.message, "error")
        self.measured.emit()


def _cells(depth: Depth) -> tuple[str, ...]:
    time = "–" if depth.seconds is None else format_duration(depth.seconds)
    if depth.seconds is not None and not depth.measured:
        time = f"≈ {time}"
    score = "–" if depth.v_rand is None else f"{depth.v_rand:.3f}"
    return str(depth.depth), format_millions(depth.parameters), time, score


def _tip(depth: Depth) -> str:
    time = "not measured on this machine yet"
    if depth.measured:
        time = "as measured on this machine"
    elif depth.seconds is not None:
        time = "from another depth's time on this machine, by the card's measurements"
    return f"Time of the run: {time}.\nV_Rand on held-out sections, from the card."
