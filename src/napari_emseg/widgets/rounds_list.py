"""Which weights came from which: a list of rounds, and the way back."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_emseg.session.learning import Learning
from napari_emseg.session.rounds import Round
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.theme import SPACING, button, follow, set_role, text_label

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
        self._learning: Learning = controller.session.learning
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
        row = QHBoxLayout()
        row.setSpacing(SPACING)
        row.addWidget(self.roll_back)
        row.addStretch()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addLayout(row)
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
        state = "in use" if self._learning.in_use(round_) else round_.state
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
