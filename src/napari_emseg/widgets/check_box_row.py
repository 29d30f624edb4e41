"""Several of a few names, each with a box to tick."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QBoxLayout, QCheckBox, QWidget

from napari_emseg.widgets.theme import SPACING


class CheckBoxRow(QWidget):
    """Boxes in a row, or one below the other.

    Parameters
    ----------
    names
        What is chosen from, and the words of each.
    """

    edited = Signal()

    def __init__(self, names: Mapping[str, str], *, below: bool = False) -> None:
        super().__init__()
        direction = QBoxLayout.Direction
        layout = QBoxLayout(
            direction.TopToBottom if below else direction.LeftToRight, self
        )
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        self.boxes: dict[str, QCheckBox] = {}
        for name, words in names.items():
            box = QCheckBox(words)
            box.toggled.connect(lambda _: self.edited.emit())
            layout.addWidget(box)
            self.boxes[name] = box
        layout.addStretch()

    @property
    def ticked(self) -> tuple[str, ...]:
        """Names that are ticked, in their order."""
        return tuple(name for name, box in self.boxes.items() if box.isChecked())

    def tick(self, names: Iterable[str]) -> None:
        """Tick these and no others, without telling anyone."""
        wanted = set(names)
        for name, box in self.boxes.items():
            blocked = box.blockSignals(True)
            box.setChecked(name in wanted)
            box.blockSignals(blocked)
