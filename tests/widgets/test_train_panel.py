from __future__ import annotations

import shutil
from math import nan
from threading import Event

import numpy as np
import pytest
from finetuning import QUICK, drawn, untaught
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QWidget

from napari_emseg.core.card import USUAL_AFFINITIES
from napari_emseg.core.records import EpochDone, Note, Progress, drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import PredictSettings
from napari_emseg.proofreading import paint as painted
from napari_emseg.session.projects import save_project
from napari_emseg.session.round_history import RoundHistory
from napari_emseg.session.round_preview import NO_JUDGE, NOTHING, UNCORRECTED
from napari_emseg.session.training_request import Learnt
from napari_emseg.training.measures import Comparison, Interval
from napari_emseg.widgets.train_panel import NEW, SHAPE

LONG = 100_000
"""So many steps that a round only ends when it is stopped."""


@pytest.fixture
def window(open_window, tmp_path, weights):
    """A drawn stack with membranes, small weights, and nothing corrected."""
    stack, codes = drawn()
    spatial = {"scale": (200, 4, 4), "units": ("nm",) * 3}
    window = open_window(Image(np.array(stack.data), name="em", **spatial))
    session = window.controller.session
    session.predict_settings = PredictSettings(
        invert="no", runtime="torch", device="cpu", tile=64, threads=1
    )
    session.source.results.membranes[...] = codes == 1
    session.correcting()  # as after a run
    session.choose_weights(untaught(tmp_path / "parent.safetensors"))
    learning = window.controller.learning
    learning.folder = tmp_path / "own"
    learning.settings = QUICK.model_copy(update={"rehearsal": 0.0})
    window.dock.folds["Train"].expand()
    yield window
    job = window.controller.training.job
    if job.busy:
        with window.qtbot.waitSignal(job.ended, timeout=180_000):
            job.cancel()


@pytest.fixture
def panel(window):
    return window.dock.panel("Train")


def correct(window, z: int = 0, code: int = 1) -> None:
    hand = window.controller.session.correcting()
    box = slice(10, 14), slice(10, 40)
    where = np.ones((4, 30), bool)
    hand.do(painted(hand.sheet(z), "corrections", where, box, code))


def told(window, panel) -> str:
    """Wait until the panel has counted, and return what it says."""
    window.settle()
    window.qtbot.waitUntil(lambda: not panel._soon.isActive(), timeout=120_000)
    window.qtbot.waitUntil(lambda: not panel._asking.waiting, timeout=120_000)
    return panel.learns.text()


def start(window, panel) -> None:
    told(window, panel)
    window.click(panel.run.start)
    assert window.controller.training.busy, panel.run.message.text()


def end(window) -> None:
    job = window.controller.training.job
    if job.busy:
        with window.qtbot.waitSignal(job.ended, timeout=180_000):
            pass


def until_step(window, step: int) -> None:
    def is_there() -> bool:
        at = window.controller.training.progress
        return isinstance(at, Progress) and at.step == "training" and at.done >= step

    window.qtbot.waitUntil(is_there, timeout=180_000)


def long(window) -> None:
    learning = window.controller.learning
    learning.settings = learning.settings.model_copy(
        update={"steps": LONG, "patience": 0}
    )


def test_without_corrections_it_says_what_to_do(window, panel) -> None:
    assert told(window, panel) == NOTHING
    assert not panel.run.start.isEnabled()
    assert "correct something" in panel.run.start.toolTip()


def test_start_alone_is_enough_and_accept_uses_the_candidate(window, panel) -> None:
    session = window.controller.session
    correct(window)
    assert told(window, panel) == "Training data: 1 correction of em."
    assert panel.judges.text() == NO_JUDGE
    session.review(1)
    session.review(4)
    assert "1 correction and 2 reviewed sections" in told(window, panel)
    assert panel.judges.text().startswith("Validation regions: section 4 of em.")
    before = session.weights
    start(window, panel)
    assert not panel.run.start.isEnabled()
    assert panel.run.stop.isEnabled()
    end(window)
    box = panel.candidate
    assert box.accept.isVisibleTo(panel)
    assert "held-out px" in box.words.text()
    assert texts(box.table)[0][0] == "VI, bits"
    assert panel.plot.isVisibleTo(panel)
    assert session.weights is before
    window.click(box.accept)
    assert session.weights.card.name == "parent-round1"
    assert str(session.weights.path) in box.said.text()
    assert not box.accept.isVisibleTo(panel)
    assert window.membranes.weights.currentText() == "parent-round1"
    assert panel.rounds.table.item(0, 1).text() == "in use"

    window.click(panel.rounds.roll_back)
    assert session.weights is before
    assert not box.said.text(), "it said that the candidate is in use"
    assert panel.rounds.table.item(0, 1).text() == "rolled back"
    panel.rounds.table.selectRow(0)
    window.click(panel.rounds.roll_back)
    assert session.weights.card.name == "parent-round1"


def texts(table) -> list[list[str]]:
    columns = range(table.columnCount())
    return [[table.item(r, c).text() for c in columns] for r in range(table.rowCount())]


def test_the_primary_button_is_what_the_measurement_speaks_for(
    window, panel, staged
) -> None:
    now, then = {"cells_v_rand": 0.875}, {"cells_v_rand": 0.8125}
    verdicts = ("better", "primary", ""), ("no difference", "", "")
    staged.set()
    window.controller.session.review(0)
    box = panel.candidate
    for nth, (verdict, accept, reject) in enumerate(verdicts, 1):
        staged.comparison = Comparison(
            verdict,
            "held-out regions",
            9000,
            (),
            {"pixel_f": 0.9, "vi": 1.25, "splits": 4.0, "mergers": 2.0} | now,
            {"pixel_f": 0.85, "vi": 1.5, "splits": 3.0, "mergers": 4.0} | then,
            {
                "pixel_f": Interval(-0.05, -0.07, -0.025),
                "vi": Interval(0.25, 0.125, 0.5),
            },
        )
        start(window, panel)
        end(window)
        assert box.accept.property("role") == accept
        assert box.reject.property("role") == reject
        assert texts(box.table) == [
            ["VI, bits", "1.500", "1.250", "+0.250", "+0.125 to +0.500"],
            ["V_Rand", "0.812", "0.875", "-0.062", "–"],
            ["false splits", "3", "4", "-1", "–"],
            ["false merges", "4", "2", "+2", "–"],
            ["pixel F", "0.850", "0.900", "-0.050", "-0.070 to -0.025"],
        ]
        whose = f"parent-round{nth}, learnt from em"
        assert box.words.text() == f"{whose}: measured on 9,000 held-out px"
        window.click(box.reject)


def test_the_table_of_a_candidate_is_there_again_after_a_restart(
    window, panel, staged
) -> None:
    staged.comparison = Comparison(
        "worse",
        "held-out regions",
        9000,
        (),
        {"pixel_f": 0.9},
        {"pixel_f": 0.85},
        {"pixel_f": Interval(-0.05, nan, nan)},
    )
    staged.set()
    window.controller.session.review(0)
    start(window, panel)
    end(window)
    assert panel.candidate.accept.property("role") == ""
    learning = window.controller.learning
    folder = learning.folder
    learning.folder = folder.with_name("another")
    assert not panel.candidate.table.isVisibleTo(panel)
    learning.ledger = RoundHistory()  # as after a restart
    learning.folder = folder
    assert texts(panel.candidate.table) == [
        ["pixel F", "0.850", "0.900", "-0.050", "–"]
    ]
    assert panel.candidate.reject.property("role") == "primary"


def test_validation_regions_that_nobody_corrected_are_doubted(window, panel) -> None:
    session = window.controller.session
    correct(window)
    session.review(1)
    session.review(4)
    told(window, panel)
    assert panel.judges.text() == f"Validation regions: section 4 of em. {UNCORRECTED}"
    assert panel.judges.property("role") == "note"
    correct(window, 4)
    told(window, panel)
    assert panel.judges.text() == "Validation regions: section 4 of em."
    assert panel.judges.property("role") == "hint"


def test_measured_only_where_one_corrected_is_said(window, panel) -> None:
    correct(window)
    start(window, panel)
    end(window)
    assert panel.candidate.headline.text() == "Too little data to tell"
    assert "measured only where you corrected" in panel.candidate.words.text()
    window.click(panel.candidate.reject)
    assert window.controller.session.weights.card.name == "parent"
    assert panel.rounds.table.item(0, 1).text() == "rejected"
    assert not panel.candidate.accept.isVisibleTo(panel)


def test_new_weights_may_see_neighbours_and_give_affinities(window, panel) -> None:
    panel.begin.setCurrentIndex(panel.begin.findData(NEW))
    panel.begin.activated.emit(panel.begin.currentIndex())
    boxes = {name: panel.network_form.findChild(QWidget, name) for name in SHAPE}
    boxes["context"].setCurrentText("5")
    boxes["affinities"].setChecked(True)
    chosen = window.controller.learning.new_settings
    assert (chosen.context, chosen.affinities) == (5, True)
    panel.network.addItem("theirs")  # as of another package
    for name, ours in (("theirs", False), ("cenet", True)):
        panel.network.setCurrentText(name)
        panel.network.activated.emit(panel.network.currentIndex())
        assert panel.network_form.isEnabled() is ours
    config = window.controller.learning.new_settings.config(USUAL_AFFINITIES)
    assert config == {"base": 16, "context": 5, "affinities": USUAL_AFFINITIES}


def test_stop_keeps_the_best_so_far_and_resume_goes_on(window, panel) -> None:
    window.controller.session.review(0)
    long(window)
    start(window, panel)
    until_step(window, 3)
    assert "ms/step" in panel.run.progress.text()
    assert "left" in panel.run.progress.text()
    correct(window, 2)
    told(window, panel)
    assert panel.since.text().startswith("1 correction since this round began")
    window.click(panel.run.stop)
    assert panel.run.progress.text() == "stops soon"
    end(window)
    round_ = window.controller.learning.rounds[-1]
    assert round_.state == "candidate"
    assert round_.weights.path.is_file()
    reached = len(window.controller.training.curve)
    assert panel.run.resume.isVisibleTo(panel)
    window.click(panel.run.resume)
    until_step(window, window.controller.training.curve[-1].step + 3)
    window.click(panel.run.stop)
    end(window)
    assert len(window.controller.training.curve) > reached
    assert len(window.controller.learning.rounds) == 1


def test_a_round_of_an_earlier_sitting_is_offered_and_goes_on(
    window, panel, tmp_path
) -> None:
    """What a killed program leaves behind is a copy of its folder in mid-round."""
    window.controller.session.review(0)
    long(window)
    learning = window.controller.learning
    start(window, panel)
    until_step(window, 3)
    shutil.copytree(tmp_path / "own", tmp_path / "killed")
    shutil.copy(window.controller.session.weights.path, tmp_path / "killed")
    window.click(panel.run.stop)
    end(window)
    name = learning.rounds[-1].name
    learning.folder = tmp_path / "killed"
    assert panel.run.message.text() == (
        f"{name} was interrupted before its end; Resume goes on with it."
    )
    window.click(panel.run.resume)
    assert window.controller.training.busy, panel.run.message.text()
    until_step(window, 3)
    assert window.controller.training.job.title == name
    assert not panel.run.resume.isVisibleTo(panel)
    window.click(panel.run.stop)
    end(window)
    assert learning.ledger.known(name).state == "candidate"
    assert "interrupted" not in panel.run.message.text()


def test_an_error_is_shown_and_the_next_round_works(
    window, panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_emseg.training.patches import CorrectionPatches

    def fail(*_) -> None:
        msg = "shapes don't fit"
        raise RuntimeError(msg)

    window.controller.session.review(0)
    with monkeypatch.context() as broken:
        broken.setattr(CorrectionPatches, "batch", fail)
        start(window, panel)
        end(window)
    assert "shapes don't fit" in panel.run.message.text()
    assert panel.rounds.table.item(0, 1).text() == "failed"
    start(window, panel)
    assert "shapes" not in panel.run.message.text()
    end(window)
    assert window.controller.learning.rounds[-1].state == "candidate"


def test_removing_the_layer_in_mid_training_harms_nothing(window, panel) -> None:
    window.controller.session.review(0)
    long(window)
    start(window, panel)
    until_step(window, 2)
    window.viewer.layers.remove("em")
    window.click(panel.run.stop)
    end(window)
    window.click(panel.candidate.accept)
    assert window.controller.session.weights.card.name == "parent-round1"
    assert told(window, panel) == NOTHING


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Event:
    """Have rounds measure once, wait for the event that is returned, and end."""
    ready = Event()

    def learn(request, _):
        yield Progress("training", 1, 2)
        yield EpochDone(1, 2, 0.5, {}, best=True, ms_per_step=1.0)
        while not ready.wait(0.01):
            yield Progress("training", 1, 2)
        yield Note("a word on the way")
        return Learnt(untaught(request.output), getattr(ready, "comparison", None))

    monkeypatch.setattr("napari_emseg.session.learning.learning", learn)
    monkeypatch.setattr("napari_emseg.widgets.training.with_training", lambda x: x)
    return ready


def test_a_round_that_ends_under_another_stack_is_announced(
    window, panel, em, staged
) -> None:
    window.controller.session.review(0)
    start(window, panel)
    window.qtbot.waitUntil(lambda: panel.plot.isVisibleTo(panel))
    window.controller.choose(window.viewer.add_layer(em("other")))
    assert not panel.plot.isVisibleTo(panel)
    assert panel.run.progress.text().startswith("parent-round1: step 1/2")
    notification_manager.records.clear()
    staged.set()
    end(window)
    assert str(notification_manager.records[-1].message) == (
        "em: parent-round1 is a new candidate; choose em in 1 Data "
        f"({window.controller.learning.rounds[-1].output})"
    )
    assert not panel.plot.isVisibleTo(panel)
    assert not panel.run.message.text()
    window.controller.choose(window.layer("em"))
    assert panel.plot.isVisibleTo(panel)
    assert panel.run.message.text() == "a word on the way"


def test_a_round_of_a_closed_project_says_which_one_to_open(
    window, panel, em, tmp_path, staged
) -> None:
    session = window.controller.session
    window.controller.learning.folder = None
    save_project(session, tmp_path / "p", author="Ada")
    session.review(0)
    start(window, panel)
    window.viewer.add_layer(em("other"))
    window.viewer.layers.remove("em")
    notification_manager.records.clear()
    staged.set()
    end(window)
    message = str(notification_manager.records[-1].message)
    assert "em: parent-round1 is a new candidate; open the project p.emseg" in message
    assert not panel.candidate.accept.isVisibleTo(panel)


def test_closing_the_window_in_mid_training_keeps_the_best(window, panel) -> None:
    window.controller.session.review(0)
    long(window)
    learning, job = window.controller.learning, window.controller.training.job
    start(window, panel)
    until_step(window, 4)
    window.viewer.close()
    if job.busy:
        with window.qtbot.waitSignal(job.ended, timeout=180_000):
            job.cancel()
    round_ = learning.rounds[-1]
    assert round_.checkpoint.is_file()
    assert round_.output.is_file()


def test_a_run_goes_on_while_it_trains(window, panel) -> None:
    window.controller.session.review(0)
    long(window)
    start(window, panel)
    until_step(window, 1)
    window.choose_scope(window.membranes, "this section")
    window.controller.session.redo_reviewed = True
    outcome = window.run(window.membranes)
    assert outcome.error is None
    assert window.controller.training.busy
    window.click(panel.run.stop)
    end(window)


def test_where_they_differ_is_shown_and_a_key_flips(window, panel) -> None:
    correct(window)
    start(window, panel)
    end(window)
    box = panel.candidate
    with window.qtbot.waitSignal(box.differ.job.ended, timeout=180_000):
        window.click(box.differ.button)
    window.qtbot.waitUntil(lambda: "where they differ" in window.viewer.layers)
    shown = window.layer("candidate parent-round1")
    candidate = np.array(shown.data[0])
    differ = np.array(window.layer("where they differ").data[0])
    box.flip.click()
    assert shown.name == "current parent"
    current = np.array(shown.data[0])
    assert np.array_equal(differ > 0, current != candidate)
    assert any(str(key) == "Q" for key in window.viewer.keymap)
    window.click(box.accept)
    window.qtbot.waitUntil(lambda: "where they differ" not in window.viewer.layers)


def test_labels_drawn_elsewhere_are_chosen_with_their_meaning(window, panel) -> None:
    _, codes = drawn()
    labels = np.zeros_like(codes)
    labels[2] = codes[2] == 2
    placed = {"scale": (200, 4, 4), "units": ("nm",) * 3}
    window.viewer.add_layer(Labels(labels, name="truth", **placed))
    window.settle()
    box = panel.material
    box.labels.setCurrentIndex(box.labels.findText("truth"))
    box.labels.activated.emit(box.labels.currentIndex())
    assert told(window, panel) == NOTHING
    assert "choose the type of truth" in box.message.text()
    box.meaning.setCurrentIndex(box.meaning.findText("inside"))
    box.meaning.activated.emit(box.meaning.currentIndex())
    assert told(window, panel) == NOTHING
    asked = "of section 2 is labelled; say if that is sparse or complete"
    window.qtbot.waitUntil(lambda: asked in box.message.text())
    box.extent.setCurrentIndex(box.extent.findText("complete sections"))
    box.extent.activated.emit(box.extent.currentIndex())
    assert "1 reviewed section annotated elsewhere (" in told(window, panel)
    window.viewer.layers.remove("truth")
    assert told(window, panel) == NOTHING


def test_start_waits_until_it_is_said_what_labels_are(window, panel) -> None:
    """They would be left out without a word else."""
    labels = np.zeros(window.controller.session.at_work.stack.shape, int)
    labels[2, 5:9] = 1
    placed = {"scale": (200, 4, 4), "units": ("nm",) * 3}
    window.viewer.add_layer(Labels(labels, name="truth", **placed))
    window.settle()
    window.controller.session.review(3)
    assert "1 reviewed section of em" in told(window, panel)
    assert panel.run.start.isEnabled()
    box = panel.material
    for which, words, question in (
        (box.labels, "truth", "choose the type of truth"),
        (box.meaning, "inside", "say if truth is sparse or complete"),
    ):
        which.setCurrentIndex(which.findText(words))
        which.activated.emit(which.currentIndex())
        told(window, panel)
        assert question in panel.judges.text()
        assert not panel.run.start.isEnabled()
    box.extent.setCurrentIndex(box.extent.findText("sparse labels"))
    box.extent.activated.emit(box.extent.currentIndex())
    told(window, panel)
    assert panel.run.start.isEnabled()


def test_one_stroke_teaches_only_itself_or_its_section_with_a_warning(
    window, panel
) -> None:
    stroke = np.zeros(window.controller.session.source.stack.shape, np.uint8)
    stroke[3, 20:22, 10:40] = 1
    placed = {"scale": (200, 4, 4), "units": ("nm",) * 3}
    window.viewer.add_layer(Labels(stroke, name="stroke", **placed))
    window.settle()
    box = panel.material
    for which, words in (
        (box.labels, "stroke"),
        (box.meaning, "membrane"),
        (box.extent, "complete sections"),
    ):
        which.setCurrentIndex(which.findText(words))
        which.activated.emit(which.currentIndex())
    share = 100 * 60 / stroke[0].size
    warned = (
        f"{share:.2g} % of section 3 is labelled; as complete sections, all the rest "
        "teaches inside"
    )
    window.qtbot.waitUntil(lambda: box.message.text() == warned)
    (complete,) = window.controller.learning.material.teachers()[1:]
    assert drain(complete.read("no")).opinions.pixels == stroke[0].size
    box.extent.setCurrentIndex(box.extent.findText("sparse labels"))
    box.extent.activated.emit(box.extent.currentIndex())
    (sparse,) = window.controller.learning.material.teachers()[1:]
    known = drain(sparse.read("no"))
    np.testing.assert_array_equal(
        known.opinions.window(Region.whole(3, stroke.shape[1:])), stroke[3]
    )
    assert known.opinions.pixels == 60
    assert "sparse labels in stroke (" in told(window, panel)
    assert "reviewed section" not in panel.learns.text()


def test_a_class_is_named_and_painted(window, panel) -> None:
    window.controller.session.source.editor.put_prediction(
        0, (slice(0, 128), slice(0, 128)), np.zeros((128, 128), np.float32), 0.5
    )
    row = window.dock.panel("Correct").classes
    window.choose_scope(window.membranes, "this section")
    assert window.run(window.membranes).error is None
    row.new.click()
    row.name.setText("mitochondria")
    row.add.click()
    corrections = window.viewer.layers.selection.active
    assert corrections.name == "em corrections"
    assert (corrections.mode, corrections.selected_label) == ("paint", 3)
    row.name.setText("mitochondria")
    row.add.click()
    assert "already" in window.dock.panel("Correct").message.text()
    row.classes.setCurrentIndex(1)
    row.classes.activated.emit(1)
    assert corrections.selected_label == 2


def test_both_panels_of_a_window_show_one_round(window, panel) -> None:
    from napari_emseg.widgets.dock import TrainDock

    other = TrainDock(window.viewer)
    window.qtbot.addWidget(other)
    window.controller.session.review(0)
    long(window)
    start(window, panel)
    until_step(window, 1)
    assert other.panel.run.stop.isEnabled()
    other.panel.run.stop.click()
    end(window)
    assert other.panel.candidate.accept.isVisibleTo(other.panel)
