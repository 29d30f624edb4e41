"""Colours and spacing of the panels, from napari's theme."""

import inspect
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from napari import Viewer
from napari.utils.theme import get_theme
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, QUrl, Signal
from qtpy.QtGui import QDesktopServices, QResizeEvent
from qtpy.QtWidgets import (
    QDockWidget,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QTableWidget,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from napari_emseg._napari.versions import is_dark
from napari_emseg.session import Session
from napari_emseg.widgets.flow_row import SPACING, ElidingComboBox, WrappingLabel

MARGIN = 8
LABEL_WIDTH = 96

_STYLE = """
QWidget[role="foot"] {{ background: {background}; }}
QLabel[role="title"] {{ font-weight: bold; }}
QLabel[role="headline"] {{ font-weight: bold; font-size: 12pt; }}
QLabel[role="hint"] {{ color: {hint}; }}
QLabel[role="note"] {{ color: {warning}; }}
QLabel[role="error"] {{
    color: {text}; background: {error}; padding: 6px; border-radius: 3px;
}}
QPushButton[role="primary"] {{
    background: {primary}; color: {on_primary}; font-weight: bold; padding: 6px 14px;
}}
QPushButton[role="primary"]:hover {{ background: {hover}; }}
QPushButton[role="primary"]:disabled {{ background: {foreground}; color: {faint}; }}
QPushButton[role="cancel"] {{ font-weight: bold; padding: 6px 14px; }}
QPushButton[role="tool"] {{ padding: 4px; }}
QPushButton[role="tool"]:checked {{
    background: {primary}; color: {on_primary};
}}
QPushButton[role="link"] {{
    background: transparent; border: none; color: {link}; padding: 2px;
    text-align: left;
}}
QPushButton[role="link"]:hover {{ text-decoration: underline; }}
QPushButton[role="section"] {{
    background: {foreground}; border: none; text-align: left; font-weight: bold;
    padding: 7px; border-radius: 2px;
}}
QPushButton[role="section"]:hover {{ background: {button}; }}
QLabel[role="picture"] {{ border: 2px solid transparent; padding: 1px; }}
QLabel[role="chosen picture"] {{ border: 2px solid {primary}; padding: 1px; }}
QTableWidget {{ background: {background}; gridline-color: {foreground}; }}
QHeaderView::section {{
    background: {foreground}; color: {hint}; border: none; padding: 3px;
}}
QProgressBar {{
    background: {foreground}; border: none; border-radius: 3px;
    min-height: 12px; max-height: 12px;
}}
QProgressBar::chunk {{ background: {primary}; border-radius: 3px; }}
"""


def style(theme_id: str) -> str:
    """Return the panels' style sheet in the colours of a theme of napari."""
    theme = get_theme(theme_id)
    dark = is_dark(theme)
    text = theme.text.as_hex()
    ends = (theme.text.as_rgb_tuple(), theme.foreground.as_rgb_tuple())
    faint = tuple(round(0.35 * a + 0.65 * b) for a, b in zip(*ends, strict=True))
    current = theme.current.as_hex()
    return _STYLE.format(
        text=text,
        hint=theme.icon.as_hex(),
        faint=f"rgb{faint}",  # as napari draws what is disabled
        warning=theme.warning.as_hex() if dark else theme.text.as_hex(),
        error=theme.error.as_hex() if dark else "#ffc9c9",
        primary=current,
        on_primary="white" if dark else text,
        hover=theme.highlight.as_hex(),
        link="#8fa8ff" if dark else "#2f4fb5",
        foreground=theme.foreground.as_hex(),
        button=theme.primary.as_hex(),
        background=theme.background.as_hex(),
    )


def follow_theme(widget: QWidget, viewer: Viewer) -> None:
    """Style a widget and all in it, now and whenever the theme changes."""

    def restyle() -> None:
        widget.setStyleSheet(style(viewer.theme))

    restyle()
    follow(widget, viewer.events.theme, restyle)


def follow(owner: QWidget, signal: Any, slot: Callable[..., object]) -> None:
    """Connect a signal of napari's or psygnal's for as long as `owner` exists.

    Nothing is connected to `owner.destroyed`: Qt sends that in the middle of Python's
    garbage collection too, when sender and slot may be half emptied.
    """
    receiver = weakref.ref(owner)
    kept = weakref.WeakMethod(slot) if inspect.ismethod(slot) else lambda: slot

    def call(*arguments: object) -> None:
        widget, current = receiver(), kept()
        if current is not None and widget is not None and isalive(widget):
            current(*arguments)

    # Senders read it to learn how many values they may pass.
    call.__signature__ = inspect.signature(slot)  # type: ignore[attr-defined]
    signal.connect(call)


def follow_soon(
    owner: QWidget, signal: Any, slot: Callable[[], object]
) -> Callable[[], None]:
    """Call `slot` once after any number of signals, when the event loop comes round.

    So what lists all layers does it once when many are added. Returns what calls `slot`
    at once if that is due, for who needs to know what it knows.
    """
    due = QTimer(owner)
    due.setSingleShot(True)
    due.setInterval(0)
    due.timeout.connect(slot)

    def start() -> None:
        due.start()

    def catch_up() -> None:
        if due.isActive():
            due.stop()
            slot()

    follow(owner, signal, start)
    return catch_up


def follow_stack(owner: QWidget, session: Session, slot: Callable[[], None]) -> None:
    """Call `slot` when another stack is put to work, or none, until `owner` is gone."""
    known = [session.source and session.source.key]

    def on_source() -> None:
        key = session.source and session.source.key
        if key != known[0]:
            known[0] = key
            slot()

    follow(owner, session.events.source, on_source)


def set_role(widget: QWidget, role: str) -> None:
    """Give a widget the looks of a role of the style sheet."""
    if widget.property("role") != role:
        widget.setProperty("role", role)
        widget.style().unpolish(widget)
        widget.style().polish(widget)


def text_label(text: str = "", role: str = "hint") -> QLabel:
    """Return a label that wraps and can be copied from."""
    label = WrappingLabel(text)
    label.setProperty("role", role)
    return label


def form_layout(parent: QWidget | None = None) -> QFormLayout:
    """Return a layout of labels and fields, as wide as there is room."""
    layout = QFormLayout(parent)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setHorizontalSpacing(SPACING)
    layout.setVerticalSpacing(SPACING)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    layout.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
    return layout


def row_label(text: str) -> QLabel:
    """Return the label of a form's row, so wide that all forms of a panel line up."""
    label = QLabel(text)
    label.setMinimumWidth(LABEL_WIDTH)
    return label


def combo_box() -> ElidingComboBox:
    """Return a combo box that doesn't widen the dock for a long name."""
    return ElidingComboBox()


def button(text: str, role: str = "", tooltip: str = "") -> QPushButton:
    """Return a push button of a role."""
    made = QPushButton(text)
    made.setToolTip(tooltip)
    if role:
        made.setProperty("role", role)
    return made


def fit_rows(table: QTableWidget, most: int) -> None:
    """Wrap what is in a table's rows, and make it as high as so many of them."""
    table.resizeRowsToContents()
    rows = range(min(table.rowCount(), most))
    heights = sum(table.rowHeight(row) for row in rows)
    table.setFixedHeight(table.horizontalHeader().height() + heights + 4)


def help_link(page: str) -> QPushButton:
    """Return a link to a page of the documentation, e.g. `correct.md`."""
    url = f"{DOCS}/{page}"
    link = button("Help", "link", url)
    link.clicked.connect(lambda: QDesktopServices.openUrl(QUrl(url)))
    return link


DOCS = "https://github.com/napari-emseg/napari-emseg/blob/main/docs"
"""Where pages of the documentation are; see `pyproject.toml`."""


class CollapsibleBox(QFrame):
    """Something that folds away under a button; grows with what is in it.

    What is folded is hidden, so that no key gets to it.

    Parameters
    ----------
    title
        What the button says.
    content
        What is folded.
    role
        Of the button, in the style sheet.
    expanded
        Show it at first.
    """

    toggled = Signal(bool)

    def __init__(
        self, title: str, content: QWidget, *, role: str, expanded: bool = False
    ) -> None:
        super().__init__()
        self._title, self._content = title, content
        self._button = button("", role)
        self._button.setCheckable(True)
        self._button.setChecked(expanded)
        content.setHidden(not expanded)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._button)
        layout.addWidget(content)
        self.summary = QElidingLabel()
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        self.summary.setAlignment(right)
        self.summary.setProperty("role", "hint")
        self.summary.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        QHBoxLayout(self._button).addWidget(self.summary)
        self._set_title()
        self._button.toggled.connect(self._on_toggled)

    def toggleButton(self) -> QPushButton:  # noqa: N802 - as superqt calls it
        """Return the button that folds and unfolds."""
        return self._button

    def content(self) -> QWidget:
        """Return what is folded."""
        return self._content

    def text(self) -> str:
        """Return what the button says."""
        return self._button.text()

    def isExpanded(self) -> bool:  # noqa: N802 - as superqt calls it
        """Tell if it is unfolded."""
        return self._button.isChecked()

    def expand(self) -> None:
        """Unfold it."""
        self._button.setChecked(True)

    def collapse(self) -> None:
        """Fold it."""
        self._button.setChecked(False)

    def _on_toggled(self, expanded: bool) -> None:
        self._content.setVisible(expanded)
        self._set_title()
        self.toggled.emit(expanded)

    def _set_title(self) -> None:
        self._button.setText(f"{'▾' if self.isExpanded() else '▸'}  {self._title}")
        self._make_room()

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - the name in Qt
        """Keep the summary off the title."""
        super().resizeEvent(event)
        self._make_room()

    def _make_room(self) -> None:
        title = self._button.sizeHint().width()
        self._button.layout().setContentsMargins(title, 0, MARGIN, 0)


def unfold(widget: QWidget) -> None:
    """Unfold all that a widget is folded in."""
    parent = widget.parentWidget()
    while parent is not None:
        if isinstance(parent, CollapsibleBox):
            parent.expand()
        parent = parent.parentWidget()


class ScrollBox(QScrollArea):
    """Widgets one below the other, scrolled when the dock is low.

    A section that is unfolded comes into view. napari holds a dock down to its size
    hint unless it expands. Each move to another parent styles a thousand widgets anew,
    so they are put in when the dock has its place in a window, or is shown.
    """

    beside: ClassVar[bool] = False
    """True if it opens as a tab beside other docks of ours, not above or below them."""

    def __init__(self, *widgets: QWidget) -> None:
        super().__init__()
        self.inner = QWidget()
        layout = QVBoxLayout(self.inner)
        layout.setContentsMargins(SPACING, SPACING, SPACING, SPACING)
        layout.setSpacing(SPACING)
        for widget in widgets:
            layout.addWidget(widget)
        layout.addStretch(1)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        policy = QSizePolicy.Policy.Expanding
        self.setSizePolicy(policy, policy)
        self.setMinimumWidth(MINIMUM_WIDTH)
        self._opened: QWidget | None = None
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)  # until what was unfolded has its height
        self._soon.timeout.connect(self._reveal)
        for widget in widgets:
            if isinstance(widget, CollapsibleBox):
                widget.toggled.connect(partial(self._on_fold, widget))

    def _on_fold(self, fold: QWidget, expanded: bool) -> None:
        if self.isVisible():
            self._opened = fold if expanded else None
            self._soon.start()

    def _reveal(self) -> None:
        """Scroll as little as shows all of what was unfolded, its title at least."""
        fold, inner = self._opened, self.inner
        if fold is None:
            return
        for box in (fold, inner):  # from the inside out
            box.layout().activate()
        inner.resize(inner.width(), inner.sizeHint().height())
        low = fold.y() + fold.height() - self.viewport().height()
        bar = self.verticalScrollBar()
        bar.setValue(min(max(bar.value(), low + SPACING), fold.y() - SPACING))

    def event(self, event: QEvent) -> bool:
        """Fill it in time, and share the area of docks that this one would crush."""
        done = super().event(event)
        if event.type() == QEvent.Type.ParentChange:
            dock = self.parentWidget()
            if isinstance(dock, QDockWidget):
                dock.installEventFilter(self)
            if self.beside:
                QTimer.singleShot(0, self._share)
        elif event.type() == QEvent.Type.Show:
            self._fill()
        return done

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Notice that the dock has got its place in a window."""
        if event.type() == QEvent.Type.ParentChange:  # at times to none
            dock = self.parentWidget()
            if watched is dock and isinstance(dock.parentWidget(), QMainWindow):
                self._fill()
        return super().eventFilter(watched, event)

    def _fill(self) -> None:
        if self.widget() is None:
            self.setWidget(self.inner)
            self.updateGeometry()

    def _share(self) -> None:
        """Become a tab of the dock it is about, in front."""
        dock = self.parentWidget() if isalive(self) else None
        window = None if dock is None else dock.parentWidget()
        if not isinstance(dock, QDockWidget) or not isinstance(window, QMainWindow):
            return
        others = [box.parentWidget() for box in window.findChildren(ScrollBox)]
        for other in others:
            apart = other is dock or not isinstance(other, QDockWidget)
            if apart or other.isFloating() or not other.isVisible():
                continue
            window.tabifyDockWidget(other, dock)
            dock.show()
            dock.raise_()
            return

    def sizeHint(self) -> QSize:  # noqa: N802 - the name in Qt
        """Ask for a width at which nothing in the panels is cramped."""
        hint = super().sizeHint()
        return QSize(max(PREFERRED_WIDTH, hint.width()), hint.height())


MINIMUM_WIDTH = 300
PREFERRED_WIDTH = 400


def panel_layout(panel: QWidget) -> QVBoxLayout:
    """Give a panel its vertical layout."""
    layout = QVBoxLayout(panel)
    layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
    layout.setSpacing(SPACING)
    return layout
