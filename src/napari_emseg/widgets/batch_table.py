"""The table of a batch: a row for each input, with how far it is."""

from collections.abc import Sequence
from weakref import ref

from napari import Viewer
from napari.utils.theme import get_theme
from qtpy.QtCore import QModelIndex, QRect, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QDragEnterEvent,
    QDragMoveEvent,
    QDropEvent,
    QPainter,
    QResizeEvent,
)
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidget,
    QTableWidgetItem,
)

from napari_emseg.batch import Row
from napari_emseg.widgets.batch_controller import format_error
from napari_emseg.widgets.formatting import format_sections, format_time_left
from napari_emseg.widgets.opening import accept_files

COLUMNS = ("input", "state", "progress", "left")
STATE, PROGRESS, LEFT = 1, 2, 3
SHARE = int(Qt.ItemDataRole.UserRole) + 1
WIDTHS = {STATE: 82, PROGRESS: 116, LEFT: 58}
NARROW = {STATE: 70, PROGRESS: 100}
"""In a narrow dock; how long it takes yet is said at its foot."""

ROOM = 90
"""For names, px."""

LOWEST = 150
BAR = 3
"""Height of the bar under a row's progress, px."""


class BatchTable(QTableWidget):
    """Shows rows; takes files that are dropped.

    Signals: `dropped` with paths; `asked` with the number of a row on a double click.
    """

    dropped = Signal(list)
    asked = Signal(int)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__(0, len(COLUMNS))
        self.setHorizontalHeaderLabels(COLUMNS)
        self.verticalHeader().hide()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setMinimumHeight(LOWEST)
        self.setAcceptDrops(True)
        header = self.horizontalHeader()
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.setItemDelegateForColumn(PROGRESS, _ShareDelegate(self, viewer))
        self.cellDoubleClicked.connect(lambda row, _: self.asked.emit(row))

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's
        """Leave room for names."""
        super().resizeEvent(event)
        room = self.viewport().width() - sum(WIDTHS.values())
        widths = WIDTHS if room >= ROOM else NARROW
        for column in WIDTHS:
            self.setColumnHidden(column, column not in widths)
        for column, width in widths.items():
            self.setColumnWidth(column, width)

    @property
    def chosen(self) -> list[int]:
        """Numbers of the selected rows."""
        return sorted({index.row() for index in self.selectedIndexes()})

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Show all rows anew."""
        self.setRowCount(len(rows))
        for nth, row in enumerate(rows):
            self.show_row(nth, row)

    def show_row(self, nth: int, row: Row) -> None:
        """Show a row as it stands."""
        begun = row.share > 0 or row.state == "running"
        percent = f"{row.share:.0%}" if begun else ""
        step = f"{row.step} " if row.step else ""
        left = format_time_left(row.seconds_left) if row.state == "running" else ""
        told = (row.name, row.state, step + percent, left.removesuffix(" left"))
        for column, words in enumerate(told):
            item = self.item(nth, column)
            if item is None:
                item = QTableWidgetItem()
                self.setItem(nth, column, item)
            item.setText(words)
            item.setToolTip(format_row(row))
        self.item(nth, PROGRESS).setData(SHARE, row.share)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802 - Qt's
        """Take files."""
        accept_files(event)

    def dragMoveEvent(self, event: QDragMoveEvent) -> None:  # noqa: N802 - Qt's
        """Take files wherever they are dropped."""
        accept_files(event)

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802 - Qt's
        """Tell which files were dropped."""
        paths = accept_files(event)
        if paths:
            self.dropped.emit(paths)


def format_row(row: Row) -> str:
    """Return all that is known of an input, a line for each fact."""
    lines = [row.path or "a layer that is in no file"]
    if row.sections is not None and row.shape is not None:
        y, x = row.shape
        cells = "" if row.cells is None else f", {row.cells:,} cells"
        lines.append(f"{format_sections(row.sections)} of {y} × {x} px{cells}")
    lines += row.warnings if row.error is None else row.warnings[:-1]
    lines += [] if row.error is None else [format_error(row.error)]
    lines += [path.name for path in row.outputs]
    return "\n".join(lines)


class _ShareDelegate(QStyledItemDelegate):
    """Draws a bar under the words, in the theme's colour."""

    def __init__(self, parent: QTableWidget, viewer: Viewer) -> None:
        super().__init__(parent)
        self._viewer = ref(viewer)

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex
    ) -> None:
        super().paint(painter, option, index)
        share = index.data(SHARE) or 0.0
        around: QRect = option.rect
        viewer = self._viewer()
        if viewer is None:
            return
        painter.fillRect(
            around.left(),
            around.bottom() - BAR,
            round(around.width() * share),
            BAR,
            QColor(get_theme(viewer.theme).current.as_hex()),
        )
