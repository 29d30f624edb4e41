"""Start, Stop, Resume, how far it is, and what it tells: of a round of learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from napari import Viewer
from napari.utils.theme import get_theme
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_emseg._napari.versions import is_dark
from napari_emseg.core.records import EpochDone
from napari_emseg.session.learning import Learning
from napari_emseg.session.rounds import BROKEN_OFF, Round
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.run import JobControls
from napari_emseg.widgets.theme import button, follow, set_role, text_label
from napari_emseg.widgets.training import TrainingController

if TYPE_CHECKING:
    from pyqtgraph import PlotWidget


START = "Learn from your corrections, beside whatever you do meanwhile."
STOP = "End training here. The best so far is kept and compared."
RESUME = "Go on with the round that was stopped, with what it learnt from."


class TrainRow(JobControls):
    """Starts and stops rounds, and shows how far they are.

    Parameters
    ----------
    new
        Tells if new weights are wanted.
    """

    def __init__(
        self, training: TrainingController, learning: Learning, new: Callable[[], bool]
    ) -> None:
        self.stop = button("Stop", "cancel", STOP)
        self.resume = button("Resume", tooltip=RESUME)
        self.progress = text_label(role="plain")
        super().__init__(
            "Start",
            tooltip=START,
            beside=(self.stop, self.resume),
            left=self.progress,
        )
        self.start = self.button
        self._training, self._learning, self._new = training, learning, new
        self._ready = True
        self.start.clicked.connect(self._on_start)
        self.stop.clicked.connect(training.stop)
        self.resume.clicked.connect(self._on_resume)
        follow(self, training.changed, self._on_state)
        follow(self, learning.changed, self._on_state)
        self._on_state()

    def set_ready(self, ready: bool, why: str = "") -> None:
        """Allow Start or not; `why` not is its tooltip."""
        self._ready = ready
        self.start.setToolTip(START if ready else why)
        self._on_state()

    def _on_start(self, *_: Any) -> None:
        self._try(lambda: self._training.start(new=self._new()))

    def _on_resume(self, *_: Any) -> None:
        self._try(self._training.resume)

    def _try(self, begin: Callable[[], None]) -> None:
        try:
            begin()
        except (OSError, ValueError) as e:
            self.say(str(e), "error")

    def _on_state(self) -> None:
        training = self._training
        busy = training.busy
        self.start.setEnabled(self._ready and not busy)
        self.stop.setEnabled(busy and not self._gives_up)
        stopped = None if busy else self._learning.resumable
        self.resume.setVisible(stopped is not None)
        self.bar.setVisible(busy)
        self.progress.setVisible(busy)
        elsewhere = "" if training.shown else f"{training.job.title}: "
        self.progress.setText(f"{elsewhere}{training.words}")
        at = training.progress
        self.show_share(*((0, 0) if at is None else (at.done, at.total)))
        if training.error and training.shown:
            self.say(training.error, "error")
        elif stopped is not None and stopped.outcome == BROKEN_OFF:
            self.say(
                f"{stopped.name} was {BROKEN_OFF}; Resume goes on with it.", "note"
            )
        else:
            self.say("\n".join(training.notes if training.shown else ()), "note")

    @property
    def _gives_up(self) -> bool:
        """True if nothing is left to be stopped."""
        return self._training.job.stopping


COLUMNS = ("weights", "state", "from", "learnt from")
ROWS = 6
"""So many are seen without scrolling."""

BACK = (
    "Use the weights of the chosen row again; without one, those that the present ones "
    "were made from."
)


class RoundsList(QWidget):
    """Lists rounds, latest first; what a round came to is its tooltip."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._learning: Learning = controller.learning
        self.table = QTableWidget(0, len(COLUMNS))
        self.roll_back = button("Roll back", tooltip=BACK)
        self.said = text_label()
        self._lay_out()
        self.roll_back.clicked.connect(self._on_roll_back)
        self.table.itemSelectionChanged.connect(self._on_state)
        follow(self, self._learning.changed, self._on_changed)
        follow(self, controller.session.events.weights, self._on_changed)
        self._on_changed()

    def _lay_out(self) -> None:
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addWidget(FlowRow(self.roll_back))
        layout.addWidget(self.said)

    @property
    def chosen(self) -> str | None:
        """Name of the round of the chosen row."""
        rows = self.table.selectionModel().selectedRows()
        return None if not rows else str(self.table.item(rows[0].row(), 0).text())

    def _on_changed(self) -> None:
        chosen = self.chosen
        rounds = list(reversed(self._learning.rounds))
        blocked = self.table.blockSignals(True)
        self.table.clearSelection()
        self.table.setRowCount(len(rounds))
        for row, round_ in enumerate(rounds):
            self._fill(row, round_)
            if round_.name == chosen:
                self.table.selectRow(row)
        self.table.blockSignals(blocked)
        if self._learning.ledger.trouble:
            self.said.setText(self._learning.ledger.trouble)
            set_role(self.said, "error")
        height = self.table.rowHeight(0) if rounds else 0
        shown = min(len(rounds), ROWS)
        self.table.setFixedHeight(
            self.table.horizontalHeader().height() + shown * height + 4
        )
        self._on_state()

    def _fill(self, row: int, round_: Round) -> None:
        state = "rolled back" if round_.rolled_back else round_.state
        state = "in use" if self._learning.in_use(round_) else state
        told = (round_.name, state, round_.parent or "new", round_.learnt_from)
        about = f"{round_.began.astimezone():%Y-%m-%d %H:%M}\n{round_.outcome}"
        for column, words in enumerate(told):
            item = QTableWidgetItem(words)
            item.setToolTip(f"{words}\n{about}\n{round_.output}")
            self.table.setItem(row, column, item)

    def _on_state(self) -> None:
        chosen = self._learning.ledger.find(self.chosen or "")
        usable = chosen is not None and chosen.weights is not None
        back = usable if chosen is not None else self._learning.before is not None
        self.roll_back.setEnabled(back and not self._is_used(chosen))

    def _is_used(self, chosen: Round | None) -> bool:
        return chosen is not None and self._learning.in_use(chosen)

    def _on_roll_back(self, *_: Any) -> None:
        chosen = self._learning.ledger.find(self.chosen or "")
        try:
            if chosen is not None and chosen.state != "accepted":
                weights = self._learning.accept(chosen.name)
            else:
                weights = self._learning.roll_back(self.chosen)
        except (OSError, ValueError) as e:
            self.said.setText(str(e))
            set_role(self.said, "error")
            return
        self.said.setText(f"{weights.card.name} is in use: {weights.path}")
        set_role(self.said, "hint")


HEIGHT = 110
WIDTH = 40
"""Of the numbers beside an axis, px."""

COLOURS = {
    "dark": {"loss": "#5fc9e8", "score": "#ffb347"},
    "light": {"loss": "#00688b", "score": "#b35900"},
}
SCORES = {"pixel_f": "pixel F", "v_rand": "V_Rand"}
"""Of a validation, the first that is known is drawn."""


class LearningPlot(QWidget):
    """Two plots, one below the other; nothing is shown before the first measurement."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._curve: tuple[EpochDone, ...] = ()
        self.plots: dict[str, PlotWidget] = {}
        self.legend = text_label()
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(0)
        self._layout.addWidget(self.legend)
        self.hide()
        follow(self, viewer.events.theme, self._draw)

    def show_curve(self, curve: Sequence[EpochDone]) -> None:
        """Draw what was measured so far; nothing for nothing."""
        if tuple(curve) == self._curve:
            return
        self._curve = tuple(curve)
        self.setVisible(bool(curve))
        self._draw()

    def _draw(self) -> None:
        if not self._curve:
            return
        if not self.plots:
            self._make()
        theme = get_theme(self._viewer.theme)
        colours = COLOURS["dark" if is_dark(theme) else "light"]
        steps = [record.step for record in self._curve]
        score = self._score
        lines = {"loss": [record.loss for record in self._curve]}
        if score:
            lines["score"] = [r.validation[score] for r in self._curve]
        for name, plot in self.plots.items():
            plot.setVisible(name in lines)
            plot.clear()
            plot.setBackground(theme.background.as_hex())
            for side in ("left", "bottom"):
                plot.getAxis(side).setTextPen(theme.text.as_hex())
                plot.getAxis(side).setPen(theme.icon.as_hex())
            plot.setXRange(0, self._curve[-1].steps, padding=0.02)
            if name in lines:
                _line(plot, steps, lines[name], colours[name])
        self.legend.setText(self._format_legend(colours))

    @property
    def _score(self) -> str:
        known = self._curve[-1].validation
        return next((name for name in SCORES if name in known), "")

    def _format_legend(self, colours: dict[str, str]) -> str:
        latest = self._curve[-1]
        parts = [_word(colours["loss"], f"loss {latest.loss:.3f}")]
        if self._score:
            value = latest.validation[self._score]
            name = SCORES[self._score]
            parts.append(_word(colours["score"], f"{name} {value:.3f} on held-out"))
        best = [record.step for record in self._curve if record.best]
        if best and self._score:
            parts.append(f"best at step {best[-1]}")
        return " &nbsp; ".join(parts)

    def _make(self) -> None:
        from pyqtgraph import PlotWidget  # a fifth of a second; rounds load it before

        for row, name in enumerate(("loss", "score")):
            plot = PlotWidget()
            plot.setFixedHeight(HEIGHT)
            plot.setMouseEnabled(x=False, y=False)
            plot.setMenuEnabled(False)
            plot.hideButtons()
            plot.showGrid(x=True, y=True, alpha=0.15)
            plot.getAxis("left").setWidth(WIDTH)
            self._layout.insertWidget(row, plot)
            self.plots[name] = plot


def _line(
    plot: PlotWidget, steps: Sequence[int], values: Sequence[float], colour: str
) -> None:
    from pyqtgraph import mkPen

    plot.plot(steps, values, pen=mkPen(colour, width=2), symbol="o", symbolSize=5,
              symbolBrush=colour, symbolPen=None)  # fmt: skip


def _word(colour: str, words: str) -> str:
    return f'<span style="color:{colour}">━&nbsp;{words.replace(" ", "&nbsp;")}</span>'
