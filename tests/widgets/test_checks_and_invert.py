from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import Qt

from napari_emseg.core.records import drain
from napari_emseg.session import RunScope


def bad_stack(em) -> Image:
    """The drawn stack with a blank section 1."""
    layer = em()
    values = np.array(layer.data)
    values[1] = 17
    layer.data = values
    return layer


def checked(open_window, layer):
    window = open_window(layer)
    checks = window.data.checks
    window.click(checks.button)
    window.qtbot.waitUntil(
        lambda: window.controller.session.source.findings is not None, timeout=120_000
    )
    return window, checks


def row_of(checks, kind: str) -> int:
    rows = range(checks.table.rowCount())
    return next(r for r in rows if kind in checks.table.item(r, 1).text())


def test_findings_are_listed_gone_to_and_excluded(open_window, em) -> None:
    window, checks = checked(open_window, bad_stack(em))
    assert "1 blank" in checks.summary.text()
    row = row_of(checks, "blank")
    assert checks.table.item(row, 0).text() == "1"
    window.viewer.dims.set_current_step(0, 3)
    checks.table.cellClicked.emit(row, 1)
    assert window.viewer.dims.current_step[0] == 1
    checks.table.item(row, 2).setCheckState(Qt.CheckState.Checked)
    assert window.controller.session.source.excluded == {1}
    window.choose_scope(window.membranes, "all sections")
    assert "3 sections" in window.membranes.estimate.text()
    item = checks.table.item(row_of(checks, "blank"), 2)
    assert item.checkState() == Qt.CheckState.Checked
    item.setCheckState(Qt.CheckState.Unchecked)
    assert not window.controller.session.source.excluded


def test_a_good_stack_has_no_table(open_window, em) -> None:
    layer = em()
    layer.data = np.repeat(np.array(layer.data)[:1], 4, axis=0)
    window, checks = checked(open_window, layer)
    assert checks.summary.text() == "nothing found"
    assert not checks.table.isVisibleTo(window.data)


def test_the_section_on_screen_can_be_excluded(open_window, em) -> None:
    window = open_window(em())
    window.viewer.dims.set_current_step(0, 3)
    box = window.data.checks.exclude
    assert box.text().startswith("Exclude section 3")
    box.click()
    assert window.controller.session.source.excluded == {3}
    window.viewer.dims.set_current_step(0, 2)
    assert not box.isChecked()
    window.viewer.dims.set_current_step(0, 3)
    assert box.isChecked()
    window.choose_scope(window.membranes, "this section")
    assert not window.membranes.run.button.isEnabled()
    assert "excluded" in window.membranes.estimate.text()


def test_a_picture_has_nothing_to_exclude(open_window) -> None:
    window = open_window(Image(np.zeros((20, 20), np.uint8)))
    assert not window.data.checks.exclude.isVisibleTo(window.data)


@pytest.fixture
def large(em):
    """A stack that is large enough to tell dark membranes from bright ones."""

    def large(*, bright: bool = False) -> Image:
        values = np.tile(np.array(em().data), (1, 2, 2))
        return Image(255 - values if bright else values, name="large")

    return large


def looked(window) -> str:
    proposal = window.data.invert.proposal
    window.qtbot.waitUntil(lambda: bool(proposal.text()), timeout=120_000)
    return proposal.text()


def framed(window) -> list[str]:
    pictures = window.data.invert.pictures
    return [n for n, p in pictures.items() if p.property("role") == "chosen picture"]


def choose_invert(window, value: str) -> None:
    box = window.data.invert.choice
    box.setCurrentIndex(box.findData(value))
    box.activated.emit(box.currentIndex())
    assert window.controller.session.predict_settings.invert == value


def test_dark_membranes_need_nothing(open_window, large) -> None:
    window = open_window(large())
    assert looked(window) == "Membranes look dark: nothing to invert."
    assert not window.data.invert.pictures["no"].pixmap().isNull()
    assert framed(window) == ["no"]


def test_bright_membranes_are_inverted_which_is_said_and_can_be_refused(
    open_window, large
) -> None:
    window = open_window(large(bright=True))
    assert looked(window) == (
        "Membranes look bright: a run inverts. Choose “no” if they are dark."
    )
    assert framed(window) == ["yes"]
    window.choose_scope(window.membranes, "this section")
    window.run(window.membranes)
    said = window.membranes.run.message.text()
    assert "inverted, since membranes look bright; set Invert to no if not" in said
    choose_invert(window, "no")
    assert (
        looked(window) == "Membranes look bright. A run does not invert, as you chose."
    )
    assert window.data.invert.proposal.property("role") == "note"
    assert framed(window) == ["no"]
    window.run(window.membranes)
    assert "inverted" not in window.membranes.run.message.text()
    choose_invert(window, "yes")
    assert "inverts, as you chose" in looked(window)
    assert framed(window) == ["yes"]


def test_small_pictures_are_taken_as_they_are(open_window, em) -> None:
    window = open_window(em())
    assert "a run does not invert. Choose “yes”" in looked(window)
    assert framed(window) == ["no"]


def test_inverting_reaches_the_run(open_window, em) -> None:
    plain, inverted = em("plain"), em("inverted")
    inverted.data = 255 - np.array(inverted.data)
    window = open_window(plain, inverted)
    session = window.controller.session
    drain(window.controller.runs.predict(RunScope((0,))).work)
    expected = session.source.results.probabilities.copy()
    window.controller.choose(inverted)
    settings = session.predict_settings
    session.predict_settings = settings.model_copy(update={"invert": "yes"})
    drain(window.controller.runs.predict(RunScope((0,))).work)
    np.testing.assert_allclose(
        session.source.results.probabilities, expected, atol=1e-4
    )
