"""One widget for Run, Cancel, how far it is, and what is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from qtpy.QtWidgets import QPushButton

from napari_emseg.widgets.jobs import Advance
from napari_emseg.widgets.run import JobControls

WIDGETS = Path(__file__).resolve().parents[2] / "src" / "napari_emseg" / "widgets"


@pytest.fixture
def controls(qtbot) -> JobControls:
    made = JobControls("Start", after=(QPushButton("Dry run"),))
    qtbot.addWidget(made)
    return made


def test_the_button_is_cancel_while_work_is_on(controls: JobControls) -> None:
    controls.show_busy(False)
    assert controls.button.text() == "Start"
    assert controls.bar.isHidden()
    controls.show_advance(None)
    controls.show_busy(True)
    assert controls.button.text() == "Cancel"
    assert controls.button.property("role") == "cancel"
    assert not controls.bar.isHidden()
    controls.show_advance(Advance(3, 4, 20.0))
    assert controls.bar.value() / controls.bar.maximum() == 0.75
    assert "left" in controls.left.text()
    controls.show_stopping()
    assert not controls.button.isEnabled()
    assert controls.left.text() == "stops soon"
    controls.show_busy(False)
    assert controls.button.isEnabled()
    assert (controls.button.text(), controls.left.isHidden()) == ("Start", True)


def test_a_message_without_words_takes_no_room(controls: JobControls) -> None:
    controls.say("no weights", "error")
    assert (controls.message.isHidden(), controls.message.text()) == (
        False,
        "no weights",
    )
    assert controls.message.property("role") == "error"
    controls.say("")
    assert controls.message.isHidden()


@pytest.mark.parametrize(
    ("what", "where"),
    [
        (r"QProgressBar\(", {"run.py"}),
        (r"viewer\.layers\.remove\(", {"layer_changes.py"}),
    ],
)
def test_there_is_one_copy_of(what: str, where: set[str]) -> None:
    found = {p.name for p in WIDGETS.glob("*.py") if re.search(what, p.read_text())}
    assert found == where
