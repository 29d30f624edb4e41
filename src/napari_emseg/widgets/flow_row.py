"""Widgets that fit a dock of any width: rows that wrap, names that are elided."""

import re
from collections.abc import Iterable, Iterator

from qtpy.QtCore import QEvent, QObject, QPoint, QRect, QSize, Qt
from qtpy.QtGui import QAction, QContextMenuEvent, QKeyEvent, QKeySequence, QPaintEvent
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QLabel,
    QLayout,
    QLayoutItem,
    QMenu,
    QScrollArea,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QToolTip,
    QWidget,
)

SPACING = 6
"""Between widgets of a panel, px."""


class FlowLayout(QLayout):
    """Puts items side by side, and those that don't fit on further lines.

    Room that is left in a line goes to the items that expand horizontally; with `fill`,
    to all of them alike. Unlike superqt's layout it leaves no gaps for hidden widgets.
    """

    def __init__(self, parent: QWidget, *, fill: bool = False) -> None:
        super().__init__(parent)
        self._items: list[QLayoutItem] = []
        self._fill = fill
        self.setContentsMargins(0, 0, 0, 0)
        self.setSpacing(SPACING)

    def addItem(self, item: QLayoutItem | None) -> None:  # noqa: N802 - Qt's
        """Add an item at the end."""
        if item is not None:
            self._items.append(item)

    def count(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def itemAt(self, index: int) -> QLayoutItem | None:  # noqa: N802 - Qt's
        """Return an item; None beyond the last."""
        return self._items[index] if 0 <= index < len(self._items) else None

    def takeAt(self, index: int) -> QLayoutItem | None:  # noqa: N802 - Qt's
        """Take an item out; None beyond the last."""
        return self._items.pop(index) if 0 <= index < len(self._items) else None

    def expandingDirections(self) -> Qt.Orientation:  # noqa: N802 - Qt's
        """Take any width."""
        return Qt.Orientation.Horizontal

    def hasHeightForWidth(self) -> bool:  # noqa: N802 - Qt's
        """Tell that narrow rows are higher."""
        return True

    def heightForWidth(self, width: int) -> int:  # noqa: N802 - Qt's
        """Return the height of all lines."""
        heights = [_height(line) for line in self._lines(width)]
        return sum(heights) + SPACING * max(0, len(heights) - 1)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's
        """Ask for the room of one line."""
        shown = [item.sizeHint() for item in self._items if not item.isEmpty()]
        width = sum(s.width() for s in shown) + SPACING * max(0, len(shown) - 1)
        return QSize(width, max((s.height() for s in shown), default=0))

    def minimumSize(self) -> QSize:  # noqa: N802 - Qt's
        """Do with the room of the widest item."""
        size = QSize()
        for item in self._items:
            if not item.isEmpty():
                size = size.expandedTo(_needed(item))
        return size

    def setGeometry(self, rect: QRect) -> None:  # noqa: N802 - Qt's
        """Place all items."""
        super().setGeometry(rect)
        top = rect.y()
        for line in self._lines(rect.width()):
            left, height = rect.x(), _height(line)
            for item, width in zip(line, self._widths(line, rect.width()), strict=True):
                item.setGeometry(QRect(QPoint(left, top), QSize(width, height)))
                left += width + SPACING
            top += height + SPACING

    def _lines(self, width: int) -> Iterator[list[QLayoutItem]]:
        line: list[QLayoutItem] = []
        taken = 0
        for item in self._items:
            if item.isEmpty():
                continue
            needed = _needed(item).width()
            if line and taken + SPACING + needed > width:
                yield line
                line, taken = [], 0
            taken += needed + (SPACING if line else 0)
            line.append(item)
        if line:
            yield line

    def _widths(self, line: list[QLayoutItem], width: int) -> list[int]:
        widths = [min(_needed(item).width(), width) for item in line]
        growing = [n for n, item in enumerate(line) if self._fill or _expands(item)]
        left = width - sum(widths) - SPACING * (len(line) - 1)
        for nth, n in enumerate(growing):
            share = left // (len(growing) - nth)
            widths[n] += share
            left -= share
        return widths


def _needed(item: QLayoutItem) -> QSize:
    """Return the least size in which an item can be read."""
    if _expands(item):
        return QSize(item.minimumSize().width(), item.sizeHint().height())
    return item.sizeHint()


def _expands(item: QLayoutItem) -> bool:
    return bool(item.expandingDirections() & Qt.Orientation.Horizontal)


def _height(line: Iterable[QLayoutItem]) -> int:
    return max(item.sizeHint().height() for item in line)


class FlowRow(QWidget):
    """Widgets in a row that wraps where the dock is narrow.

    Parameters
    ----------
    fill
        Let them take the whole width, whatever they need.
    """

    def __init__(self, *widgets: QWidget, fill: bool = False) -> None:
        super().__init__()
        layout = FlowLayout(self, fill=fill)
        for widget in widgets:
            layout.addWidget(widget)
        # not Fixed: a form would hold it down to the height of one line
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)


class ElidingComboBox(QComboBox):
    """A combo box that shows as much of a long name as there is room.

    The whole name is its tooltip then, before what it says otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.setMinimumContentsLength(6)
        self.view().setTextElideMode(Qt.TextElideMode.ElideMiddle)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's
        """Draw the name elided in its middle."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        if self.currentIndex() < 0:
            option.currentText = self.placeholderText()
        option.currentText = self._elided(option.currentText)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def event(self, event: QEvent) -> bool:
        """Show what is elided as a tooltip."""
        if event.type() == QEvent.Type.ToolTip:  # of a thousand others
            text = self.currentText()
            if self._elided(text) != text:
                words = "\n".join(w for w in (text, self.toolTip()) if w)
                below = self.mapToGlobal(QPoint(0, self.height()))
                QToolTip.showText(below, words, self)
                return True
        return super().event(event)

    def _elided(self, text: str) -> str:
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        field = self.style().subControlRect(
            QStyle.ComplexControl.CC_ComboBox,
            option,
            QStyle.SubControl.SC_ComboBoxEditField,
            self,
        )
        middle = Qt.TextElideMode.ElideMiddle
        room = field.width() - 2 * TEXT_MARGIN
        return self.fontMetrics().elidedText(text, middle, room)


TEXT_MARGIN = 2
"""On either side of a combo box's text, px."""

BREAK = "\N{ZERO WIDTH SPACE}"
LONG = 16
"""Letters of a word that may be broken without a sign to break after."""

_LONG = re.compile(rf"\S{{{LONG},}}")
_AFTER_SIGN = re.compile(r"(?<=[_/\\\-])(?=\w)|(?<=\.)(?=[^\W\d])")
_LETTERS = re.compile(rf"(\w{{{LONG}}})(?=\w)")
_TAG = re.compile(r"(<[^<>]*>)")


class WrappingLabel(QLabel):
    """Text that wraps anywhere in long names and paths; copied as it was given."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._text = ""
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setText(text)

    def setText(self, text: str) -> None:  # noqa: N802 - Qt's
        """Show another text."""
        if text != self._text:
            self._text = text
            super().setText(breakable(text, rich=Qt.mightBeRichText(text)))

    def text(self) -> str:
        """Return the text as it was given."""
        return self._text

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's
        """Copy what is selected without the signs to break at."""
        if event.matches(QKeySequence.StandardKey.Copy):
            self._copy()
        else:
            super().keyPressEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:  # noqa: N802 - Qt's
        """Offer to copy."""
        menu = QMenu(self)
        copy = QAction("Copy", menu)
        copy.setEnabled(self.hasSelectedText())
        copy.triggered.connect(self._copy)
        menu.addAction(copy)
        menu.exec(event.globalPos())

    def _copy(self) -> None:
        QApplication.clipboard().setText(self.selectedText().replace(BREAK, ""))


def breakable(text: str, *, rich: bool = False) -> str:
    """Allow line breaks within long words, but in no tag of rich text."""
    parts = _TAG.split(text) if rich else [text]
    return "".join(p if rich and _TAG.fullmatch(p) else _broken(p) for p in parts)


def _broken(text: str) -> str:
    def broken(word: re.Match[str]) -> str:
        return _LETTERS.sub(rf"\1{BREAK}", _AFTER_SIGN.sub(BREAK, word[0]))

    return _LONG.sub(broken, text)


SHORT = 26


def shorten(name: str, most: int = SHORT) -> str:
    """Return a name for a button: its middle left out if it is long."""
    if len(name) <= most:
        return name
    kept = most - 1
    return f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"


class StickyFoot(QObject):
    """Keeps a widget of a panel in view while the panel is, however far it reaches.

    Where its layout puts it, as long as that is seen, else at the lower edge of the
    scroll area.

    Parameters
    ----------
    foot
        What is kept in view.
    below
        The next widget in the same layout: by it the foot's own place is known.
    """

    def __init__(self, foot: QWidget, below: QWidget) -> None:
        super().__init__(foot)
        self._foot, self._below = foot, below
        self._area: QScrollArea | None = None
        foot.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        for widget in (foot, below):
            widget.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Notice a layout, another height of the dock, or the first time it is seen."""
        if event.type() in MOVING:
            if self._area is None:
                self._find()
            self._place()
        return False

    def _find(self) -> None:
        parent = self._foot.parentWidget()
        while parent is not None and not isinstance(parent, QScrollArea):
            parent = parent.parentWidget()
        self._area = parent
        if parent is not None:
            parent.viewport().installEventFilter(self)
            parent.verticalScrollBar().valueChanged.connect(self._place)
            parent.verticalScrollBar().rangeChanged.connect(self._place)

    def _place(self, *_: object) -> None:
        foot, panel = self._foot, self._foot.parentWidget()
        if self._area is None or panel is None or not foot.isVisible():
            return
        own = self._below.y() - SPACING - foot.height()
        view = self._area.viewport()
        end = panel.mapFrom(view, QPoint(0, view.height())).y() - foot.height()
        # of a panel whose title alone is seen it would hide what little there is
        at = end if 2 * foot.height() < end < own else own
        if at != foot.y():
            foot.move(foot.x(), at)
            foot.raise_()


MOVING = (QEvent.Type.Move, QEvent.Type.Resize, QEvent.Type.Show)
