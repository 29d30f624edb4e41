"""Numbered sections that fold, and the scroll area around them."""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_emseg.widgets.theme import MARGIN, SPACING

UNLIMITED = 16_777_215
"""What Qt calls no maximum height."""


class CollapsibleBox(QCollapsible):
    """Something that folds away under a button; grows with what is in it.

    Parameters
    ----------
    title
        What the button says.
    content
        What is folded.
    role
        Of the button, in the style sheet.
    """

    def __init__(self, title: str, content: QWidget, *, role: str) -> None:
        nothing = QIcon()
        super().__init__("", expandedIcon=nothing, collapsedIcon=nothing)
        self._title = title
        self.setDuration(0)
        self.toggleButton().setStyleSheet("")
        self.toggleButton().setProperty("role", role)
        self.layout().setContentsMargins(0, 0, 0, 0)
        self.layout().setSpacing(0)
        # else text that wraps would get no more height than it wants unwrapped
        self.layout().setAlignment(Qt.AlignmentFlag(0))
        policy = QSizePolicy.Policy.Preferred
        self.setSizePolicy(policy, policy)
        old = self.content()
        self.setContent(content)
        self.layout().removeWidget(old)
        old.deleteLater()
        self.summary = QLabel()
        self.summary.setProperty("role", "hint")
        self.summary.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        line = QHBoxLayout(self.toggleButton())
        line.setContentsMargins(0, 0, MARGIN, 0)
        line.addStretch(1)
        line.addWidget(self.summary)
        self.toggled.connect(self._on_toggled)
        self.collapse(animate=False)
        self._on_toggled(False)

    def _on_toggled(self, expanded: bool) -> None:
        self.setText(f"{'▾' if expanded else '▸'}  {self._title}")
        self.content().setMaximumHeight(UNLIMITED if expanded else 0)


class ScrollBox(QScrollArea):
    """Widgets one below the other, scrolled when the dock is low.

    napari holds a dock down to its size hint unless it expands.
    """

    def __init__(self, *widgets: QWidget) -> None:
        super().__init__()
        inner = QWidget()
        layout = QVBoxLayout(inner)
        layout.setContentsMargins(SPACING, SPACING, SPACING, SPACING)
        layout.setSpacing(SPACING)
        for widget in widgets:
            layout.addWidget(widget)
        layout.addStretch(1)
        self.setWidget(inner)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        policy = QSizePolicy.Policy.Expanding
        self.setSizePolicy(policy, policy)
        self.setMinimumWidth(MINIMUM_WIDTH)

    def sizeHint(self) -> QSize:  # noqa: N802 - the name in Qt
        """Ask for a width at which nothing in the panels is cramped."""
        hint = super().sizeHint()
        return QSize(max(PREFERRED_WIDTH, hint.width()), hint.height())


MINIMUM_WIDTH = 320
PREFERRED_WIDTH = 400


def panel_layout(panel: QWidget) -> QVBoxLayout:
    """Give a panel its vertical layout."""
    layout = QVBoxLayout(panel)
    layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
    layout.setSpacing(SPACING)
    return layout
