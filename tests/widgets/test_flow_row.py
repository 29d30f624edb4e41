"""Nothing is cut, however narrow the dock and however long the names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qtpy.QtCore import QPoint
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractScrollArea,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLabel,
    QPushButton,
    QWidget,
)
from superqt import QElidingLabel
from thin import thin_weights

from napari_emseg.models.weights import list_weights
from napari_emseg.widgets.batch_dock import BatchDock
from napari_emseg.widgets.flow_row import (
    BREAK,
    ElidingComboBox,
    FlowRow,
    WrappingLabel,
    breakable,
    shorten,
)
from napari_emseg.widgets.run import ALL, BOX, RANGE, SECTION, VIEW
from napari_emseg.widgets.theme import PREFERRED_WIDTH, CollapsibleBox, ScrollBox

WIDTHS = (300, 320, 398, 430)
LONG = "20261129_FIB-SEM_block3_aligned_8x8x8nm_cropped_and_more_of_that"
COMPOUND = (QAbstractScrollArea, QAbstractSpinBox, QComboBox)
"""They scroll or elide what is in them."""


def seen(box: ScrollBox) -> Iterator[QWidget]:
    """Yield all widgets that are shown in a dock, but parts of compound ones."""
    inner = box.widget()
    for widget in inner.findChildren(QWidget):
        parent = widget.parentWidget()
        while parent is not inner and not isinstance(parent, COMPOUND):
            parent = parent.parentWidget()
        if parent is inner and widget.isVisible():
            yield widget


def cut(box: ScrollBox) -> list[str]:
    """Return what of a dock can't be seen or read whole."""
    width, found = box.viewport().width(), []
    for widget in seen(box):
        right = widget.mapTo(box.widget(), QPoint(widget.width(), 0)).x()
        if right > width:
            found.append(f"{widget!r} ends {right - width} px beyond the dock")
        below = widget.geometry().bottom() - widget.parentWidget().height()
        if below >= 0:
            found.append(f"{widget!r} ends {below + 1} px below what it is in")
        worded = isinstance(widget, QAbstractButton | QLabel) and widget.text()
        wraps = isinstance(widget, QElidingLabel) or (
            isinstance(widget, QLabel) and widget.wordWrap()
        )
        if worded and not wraps and widget.width() < widget.sizeHint().width():
            found.append(f"{widget.text()!r} has {widget.width()} px")
    return found


def unfold(box: ScrollBox) -> None:
    for fold in box.findChildren(CollapsibleBox):
        fold.expand()


def resize(box: ScrollBox, width: int) -> None:
    box.parentWidget().setFixedWidth(width)
    for _ in range(3):  # a layout, what it makes higher, and a scroll bar for that
        QApplication.processEvents()


def test_nothing_is_cut_in_a_narrow_dock(open_window, em, tmp_path) -> None:
    window = open_window(em(LONG), show=True)
    window.controller.session.choose_weights(thin_weights(tmp_path, LONG))
    window.data.project.save_path(tmp_path / f"{LONG}.emseg")
    window.qtbot.waitUntil(lambda: not window.data.project.busy)
    assert window.data.project.save.text() == "Save a copy…"
    window.membranes.run.refuse(f"/home/somebody/data/{LONG}.tif can't be read")
    window.dock.panel("Correct").tools["Delete membrane"].setChecked(True)
    unfold(window.dock)
    for scope in (VIEW, BOX, SECTION, RANGE, ALL):
        window.choose_scope(window.membranes, scope)
        for width in WIDTHS if scope == RANGE else WIDTHS[:1]:
            resize(window.dock, width)
            assert window.dock.parentWidget().width() == width
            assert cut(window.dock) == [], (width, scope)
    window.dock.parentWidget().setFloating(True)
    resize(window.dock, WIDTHS[0])
    assert cut(window.dock) == []
    window.viewer.theme = "light"
    resize(window.dock, WIDTHS[0])
    assert cut(window.dock) == [], "light"


@pytest.mark.parametrize("width", [300, 400])
def test_run_is_in_view_as_long_as_its_panel_is(open_window, em, width) -> None:
    window = open_window(em(LONG), show=True)
    window.viewer.window.resize(1366, 768)
    unfold(window.dock)
    window.choose_scope(window.membranes, RANGE)
    resize(window.dock, width)
    view, bar = window.dock.viewport(), window.dock.verticalScrollBar()
    lying = 0
    for at in (*range(0, bar.maximum(), 50), bar.maximum()):
        bar.setValue(at)
        for name in ("Membranes", "Cells", "Train", "Evaluate"):
            panel, run = window.dock.panel(name), window.dock.panel(name).run
            foot = run.foot
            top = max(0, panel.mapTo(view, QPoint(0, 0)).y())
            end = run.mapTo(view, QPoint(0, 0)).y()
            if view.height() - top <= 3 * foot.height() or end < 2 * foot.height():
                continue  # nearly all of it is below, or it is scrolled past Run
            low = foot.mapTo(view, QPoint(0, foot.height())).y()
            assert foot.height() <= low <= view.height(), (name, at)
            button = run.button.mapTo(view, run.button.rect().center())
            assert view.childAt(button) is run.button
            lying += end > view.height()
    assert lying > 4, "it never had to be moved"


def test_cards_of_bundled_weights_take_two_lines(open_window) -> None:
    window = open_window(show=True)
    session, panel = window.controller.session, window.membranes
    for weights in list_weights().values():
        session.choose_weights(weights)
        resize(window.dock, PREFERRED_WIDTH)
        for label in (panel.about, panel.card):
            lines = label.height() / label.fontMetrics().lineSpacing()
            assert lines < 2, (weights.card.name, label.text())
        assert panel.about.toolTip() == weights.card.summary


def test_nothing_of_batch_is_cut(open_window, em) -> None:
    window = open_window(em(LONG), show=True)
    batch = BatchDock(window.viewer)
    window.viewer.window.add_dock_widget(batch, name="Batch")
    unfold(batch)
    for width in WIDTHS:
        resize(batch, width)
        assert cut(batch) == [], width


def test_a_row_wraps_where_it_is_narrow_and_hidden_widgets_take_no_room(qtbot) -> None:
    buttons = [QPushButton(f"button {n}") for n in range(3)]
    row = FlowRow(*buttons, fill=True)
    qtbot.addWidget(row)
    one = buttons[0].sizeHint().width()
    row.resize(4 * one, 200)
    row.show()
    assert len({button.y() for button in buttons}) == 1
    assert buttons[-1].geometry().right() == row.width() - 1
    row.resize(one + 2, 200)
    QApplication.processEvents()
    assert len({button.y() for button in buttons}) == 3
    assert {button.x() for button in buttons} == {0}
    buttons[0].hide()
    QApplication.processEvents()
    assert buttons[1].y() == 0


def test_a_combo_box_elides_a_long_name(qtbot) -> None:
    box = ElidingComboBox()
    qtbot.addWidget(box)
    box.addItems(["short", LONG])
    box.resize(160, 30)
    assert box._elided("short") == "short"
    assert "…" in box._elided(LONG)
    assert box._elided(LONG).endswith(LONG[-3:])
    assert box.currentText() == "short"


def test_a_label_gives_back_what_it_was_given(qtbot) -> None:
    label = WrappingLabel(f"saved in /data/{LONG}")
    qtbot.addWidget(label)
    assert label.text() == f"saved in /data/{LONG}"
    assert label.minimumSizeHint().width() < 200
    label.setSelection(0, len(QLabel.text(label)))
    label._copy()
    assert QApplication.clipboard().text() == label.text()


def test_words_break_after_signs_and_numbers_and_tags_stay_whole() -> None:
    assert breakable("V_Rand 0.972") == "V_Rand 0.972"
    assert (
        breakable("a/path-with_many.tif")
        == f"a/{BREAK}path-{BREAK}with_{BREAK}many.{BREAK}tif"
    )
    assert breakable("x" * 20) == "x" * 16 + BREAK + "x" * 4
    tagged = '<span style="color:#ffffff-x-y-z">word</span>'
    assert breakable(tagged, rich=True) == tagged


def test_names_are_shortened_in_the_middle() -> None:
    assert shorten("vnc") == "vnc"
    assert shorten("0123456789", 6) == "012…89"
