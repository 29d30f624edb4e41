"""Learning in a session, without a window."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from finetuning import QUICK, TORCH, drawn, untaught

from napari_emseg.core.card import USUAL_AFFINITIES
from napari_emseg.core.records import Note, Progress, Record, drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import NewWeightsSettings, TrainSettings
from napari_emseg.inference.region import RegionPredictor
from napari_emseg.models.weights import Weights, load_weights
from napari_emseg.session import Session
from napari_emseg.session.annotations import ManualCorrections
from napari_emseg.session.learning import Attempt, Learning
from napari_emseg.session.round_preview import (
    NO_JUDGE,
    NO_WHOLE,
    NOTHING,
    UNCORRECTED,
)
from napari_emseg.session.training_request import WITHIN_ONLY, Learnt

THICK = (200.0, 4.0, 4.0)
"""Neighbouring sections show other membranes only where they are thick."""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A drawn stack at work with small weights; nothing is corrected yet."""
    stack, codes = drawn()
    stack = Stack(stack.data, name="em", voxel_size_nm=THICK)
    session = Session(predict_settings=TORCH.model_copy(update={"invert": "no"}))
    session.choose_weights(untaught(tmp_path / "parent.safetensors"))
    source = session.select("em", stack)
    source.results.membranes[...] = codes == 1
    return session


@pytest.fixture
def learning(session: Session, tmp_path: Path) -> Learning:
    learning = Learning(session)
    learning.folder = tmp_path / "own"
    learning.settings = QUICK.model_copy(update={"rehearsal": 0.0})
    return learning


def paint(session: Session, code: int, z: int, *area: int) -> None:
    """Correct pixels, as a brush does."""
    from napari_emseg.proofreading import paint as painted

    y0, y1, x0, x1 = area
    hand = session.correcting()
    box = slice(y0, y1), slice(x0, x1)
    where = np.ones((y1 - y0, x1 - x0), bool)
    hand.do(painted(hand.sheet(z), "corrections", where, box, code))


def learn(
    learning: Learning, attempt: Attempt, on_record: Callable[[Record], None] = print
) -> Learnt:
    found = drain(attempt.work, on_record)
    learning.finish(attempt.name, found)
    return found


def one_round(learning: Learning) -> str:
    attempt = learning.start()
    learn(learning, attempt, lambda _: None)
    return attempt.name


def test_nothing_to_learn_from_is_said(learning: Learning) -> None:
    prospect = learning.material.ask()()
    assert (prospect.learns, prospect.ready) == (NOTHING, False)
    with pytest.raises(ValueError, match="Nothing to learn from"):
        drain(learning.start().work)


def test_what_is_learnt_from_and_judged_by_is_said(
    session: Session, learning: Learning
) -> None:
    paint(session, 1, 0, 10, 14, 10, 40)
    paint(session, 2, 0, 60, 64, 10, 40)
    prospect = learning.material.ask()()
    assert prospect.learns == "Training data: 2 corrections of em."
    assert prospect.judges == NO_JUDGE
    session.review(1)
    session.review(4)
    prospect = learning.material.ask()()
    assert prospect.learns == (
        "Training data: 2 corrections and 2 reviewed sections of em."
    )
    judging = "Validation regions: section 4 of em."
    assert prospect.judges == f"{judging} {UNCORRECTED}"
    paint(session, 1, 4, 10, 14, 10, 40)
    assert learning.material.ask()().judges == judging


def test_a_gap_in_a_reviewed_wall_is_not_learnt_as_inside(session: Session) -> None:
    membranes = session.source.results.membranes
    membranes[2] = 0
    membranes[2, :, 40:42] = 1
    membranes[2, 30:32, 40:42] = 0
    session.review(2)
    known = drain(ManualCorrections.of(session.source).read("no"))
    assert not known.opinions.window(Region(2, 30, 40, 32, 42)).any()
    assert known.incomplete == (), "or the weights would fill it with inside"


def test_corrections_count_while_and_after_a_round(
    session: Session, learning: Learning
) -> None:
    paint(session, 1, 0, 10, 14, 10, 40)
    assert learning.since == 0
    attempt = learning.start()
    paint(session, 1, 1, 10, 14, 10, 40)
    paint(session, 1, 2, 10, 14, 10, 40)
    assert learning.since == 2
    session.correcting().undo()
    assert learning.since == 1
    attempt.work.close()


def test_a_round_runs_weights_as_the_window_does(
    session: Session, learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was shown in reviewed regions, and the candidate, with averaged mirrors."""
    seen: list[PredictSettings | None] = []

    class Recorded(RegionPredictor):
        def __init__(
            self, weights: Weights, settings: PredictSettings | None = None
        ) -> None:
            seen.append(settings)
            super().__init__(weights, settings)

    monkeypatch.setattr("napari_emseg.training.finetune.RegionPredictor", Recorded)
    session.choose_settings(session.predict_settings.model_copy(update={"tta": True}))
    paint(session, 1, 2, 20, 40, 20, 90)
    one_round(learning)
    assert seen == [session.predict_settings] * len(seen)
    assert len(seen) >= 2


def test_a_candidate_is_used_when_it_is_accepted(
    session: Session, learning: Learning
) -> None:
    session.review(0)
    session.review(4)
    before = session.weights
    name = one_round(learning)
    round_ = learning.rounds[-1]
    assert (name, round_.state) == ("parent-round1", "candidate")
    assert round_.comparison is not None
    assert {region.z for region in round_.comparison.regions} == {4}
    assert session.weights is before

    accepted = learning.accept(name)
    assert session.weights == accepted
    assert accepted.path == learning.folder / "parent-round1.safetensors"
    assert load_weights(str(accepted.path)).sha256 == accepted.sha256
    assert accepted.card.parent_sha256 == before.sha256
    assert learning.in_use(learning.rounds[-1])

    assert learning.roll_back() == before
    assert session.weights is before
    assert learning.rounds[-1].rolled_back
    assert learning.roll_back(name) == accepted
    assert not learning.rounds[-1].rolled_back


def test_a_rejected_candidate_stays_unused(
    session: Session, learning: Learning
) -> None:
    session.review(0)
    before = session.weights
    name = one_round(learning)
    learning.reject(name)
    assert learning.rounds[-1].state == "rejected"
    assert session.weights is before
    assert one_round(learning) == "parent-round2"


def test_a_round_that_was_stopped_goes_on_with_what_it_had(
    session: Session, learning: Learning
) -> None:
    session.review(0)
    attempt = learning.start()

    def stop_at_two(record: Record) -> None:
        if record == Progress("training", 2, 6):
            attempt.stop()

    learn(learning, attempt, stop_at_two)
    stopped = learning.rounds[-1]
    assert stopped.state == "candidate"
    assert learning.resumable is stopped
    paint(session, 1, 2, 10, 14, 10, 40)  # is for the next round

    steps: list[int] = []

    def count(record: Record) -> None:
        if isinstance(record, Progress) and record.step == "training":
            steps.append(record.done)

    again = learning.resume()
    assert again.name == attempt.name
    learn(learning, again, count)
    assert steps == [4, 5, 6]
    assert learning.resumable is None
    assert len(learning.rounds) == 1


def test_a_round_that_was_broken_off_keeps_what_it_had(
    session: Session, learning: Learning
) -> None:
    session.review(0)
    attempt = learning.start()
    for record in attempt.work:
        if record == Progress("training", 5, 6):
            break
    attempt.work.close()
    learning.break_off(attempt.name)
    round_ = learning.rounds[-1]
    assert (round_.state, round_.decidable) == ("stopped", True)
    assert learning.resumable is round_
    learning.accept(attempt.name)
    assert session.weights == learning.rounds[-1].weights
    assert learning.resumable is None


def test_only_one_round_at_a_time_and_the_next_after_an_error(
    session: Session, learning: Learning
) -> None:
    session.review(0)
    attempt = learning.start()
    with pytest.raises(ValueError, match="being trained already"):
        learning.start()
    learning.fail(attempt.name, "the disk is full")
    assert learning.rounds[-1].outcome == "the disk is full"
    assert one_round(learning) == "parent-round2"


def test_a_second_stack_joins(session: Session, learning: Learning) -> None:
    paint(session, 1, 0, 10, 14, 10, 40)
    first = session.source
    stack, _ = drawn(3, seed=5)
    session.select("other", Stack(stack.data, name="other", voxel_size_nm=THICK))
    paint(session, 2, 1, 10, 14, 10, 40)
    material = learning.material
    assert [source.key for source in material.others()] == ["em"]
    assert len(material.teachers()) == 1
    material.join(first.key)
    prospect = material.ask()()
    assert prospect.learns == (
        "Training data: 1 correction of other; 1 correction of em."
    )
    attempt = learning.start()
    found = learn(learning, attempt, lambda _: None)
    names = {data.name for data in found.weights.card.training_data}
    assert names == {"other", "em"}


def test_labels_drawn_elsewhere_are_learnt_but_not_beside_what_judges(
    session: Session,
    learning: Learning,
) -> None:
    """Hand work and labels of one stack are one set, so that no pixel is in two."""
    _, codes = drawn()
    labels = np.where(np.isin(np.arange(6), [0, 2, 5])[:, None, None], codes, 0)
    learning.material.draw("truth", Stack(labels == 2, name="truth"), "inside")
    session.review(3)
    prospect = learning.material.ask()()
    assert "3 reviewed sections annotated elsewhere" in prospect.learns
    found = learn(learning, learning.start(), lambda _: None)
    known = found.weights.card.training.settings["corrections"]["em"]
    learnt, held_out = ({r[0] for r in known[key]} for key in ("learnt", "held_out"))
    assert learnt | held_out <= {0, 2, 3, 5}
    assert held_out
    assert not learnt & held_out


def test_labels_drawn_elsewhere_teach_nothing_of_excluded_sections(
    session: Session, learning: Learning
) -> None:
    """Nor are these seen beside others."""
    _, codes = drawn()
    labels = Stack((codes == 2).astype(np.uint8), name="truth")
    learning.material.draw("truth", labels, "inside")
    session.exclude(2)
    *_, teacher = learning.material.teachers()
    known = drain(teacher.read("no"))
    assert {block.z for block in known.usable.blocks} == {0, 1, 3, 4, 5}
    assert known.seen["excluded"] == {2}


def test_labels_of_another_shape_are_refused(learning: Learning) -> None:
    labels = Stack(np.ones((2, 8, 8), np.uint8), name="small")
    with pytest.raises(ValueError, match="small has 2 × 8 × 8, but em has 6 × 128"):
        learning.material.draw("small", labels, "cells")


def test_locked_cells_teach(session: Session, learning: Learning) -> None:
    source = session.source
    source.results.cells[0, 20:40, 20:40] = 7
    source.results.membranes[0, 18:20, 20:40] = 1
    hand = session.correcting()
    hand.linked.locked = frozenset({7})
    (teacher,) = learning.material.teachers()
    opinions = drain(teacher.read("no")).opinions
    assert opinions.pixels >= 400
    from napari_emseg.core.regions import Region

    codes = opinions.window(Region.whole(0, (128, 128)))
    assert (codes[20:40, 20:40] == 2).all()
    assert (codes[18:20, 20:40] == 1).all()


def test_a_named_class_is_learnt(session: Session, learning: Learning) -> None:
    assert learning.material.add_class(" mitochondria ") == 3
    with pytest.raises(ValueError, match="there is a class Mitochondria already"):
        learning.material.add_class("Mitochondria")
    with pytest.raises(ValueError, match="type a name"):
        learning.material.add_class(" ")
    paint(session, 3, 0, 10, 30, 10, 30)
    paint(session, 2, 0, 60, 80, 10, 30)
    name = one_round(learning)
    weights = learning.accept(name)
    assert weights.card.classes == ("membrane", "inside", "mitochondria")
    assert learning.material.classes == weights.card.classes


def test_a_class_that_nobody_drew_is_not_learnt(
    session: Session, learning: Learning
) -> None:
    learning.material.add_class("mitochondria")
    paint(session, 2, 0, 60, 80, 10, 30)
    weights = learning.accept(one_round(learning))
    assert weights.card.classes == ("membrane", "inside")
    assert learning.material.classes == ("membrane", "inside", "mitochondria")


def test_rounds_come_back_with_the_folder(session: Session, learning: Learning) -> None:
    session.review(0)
    parent = session.weights
    learning.material.add_class("vesicles")
    accepted = learning.accept(one_round(learning))
    learning.reject(one_round(learning))
    learning.roll_back()

    other = Session()
    other.choose_weights(parent)
    again = Learning(other)
    again.folder = learning.folder
    states = {r.name: r.state for r in again.rounds}
    assert states == {"parent-round1": "accepted", "parent-round2": "rejected"}
    assert [r.rolled_back for r in again.rounds] == [True, False]
    assert again.rounds[1].outcome == learning.rounds[1].outcome
    assert again.rounds[1].parent == "parent-round1"
    assert again.material.classes == ("membrane", "inside", "vesicles")
    assert again.roll_back("parent-round1").sha256 == accepted.sha256


def test_new_weights_are_trained_from_whole_sections(
    session: Session, learning: Learning
) -> None:
    learning.new_settings = NewWeightsSettings(
        architecture="unet",
        width=2,
        context=3,
        affinities=True,
        training=TrainSettings(
            steps=4, patch=64, batch=2, validate_every=2, half_precision=False
        ),
    )
    paint(session, 1, 0, 10, 14, 10, 40)
    assert learning.material.ask(new=True)().learns == NO_WHOLE
    attempt = learning.start(new=True)
    with pytest.raises(ValueError, match="whole sections"):
        drain(attempt.work)
    learning.fail(attempt.name, "")
    for z in (0, 2, 4):
        session.review(z)
    prospect = learning.material.ask(new=True)()
    assert prospect.learns == "Training data: 3 sections of em."
    attempt = learning.start(new=True)
    assert attempt.name == "unet-round2"
    told: list[Record] = []
    found = learn(learning, attempt, told.append)
    card = found.weights.card
    assert (card.config["base"], card.context) == (2, 3)
    # what is drawn by section says nothing of the next one
    assert set(card.affinities) == {a for a in USUAL_AFFINITIES if a[0] == 0}
    assert Note(WITHIN_ONLY) in told
    assert card.pixel_size_nm == (4.0, 4.0)
    assert found.comparison is not None
    held_out = {region.z for region in found.comparison.regions}
    assert held_out
    corrections = card.training.settings["corrections"]["em"]
    assert not held_out & {region[0] for region in corrections["learnt"]}
    assert learning.accept(attempt.name) == session.weights


def test_imported_labels_may_lack_sections_and_pixels(learning: Learning) -> None:
    """Section 3 is empty, and a strip of all has no label, as CREMI marks it."""
    _, codes = drawn()
    labels = (codes == 2).astype(np.uint64)
    labels[:, 100:] = 2**64 - 1
    labels[3] = 0
    learning.material.draw("truth", Stack(labels, name="truth"), "inside")
    drawn_ones = labels[[0, 1, 2, 4, 5]]
    share = 100 * ((drawn_ones > 0) & (drawn_ones < 2)).mean()
    prospect = learning.material.ask()()
    assert (
        prospect.learns == "Training data: 5 reviewed sections annotated elsewhere ("
        f"{share:.2g} % of sections 0-2, 4-5 is labelled) of em."
    )
    notes: list[str] = []
    attempt = learning.start()
    drain(attempt.work, lambda r: notes.extend(getattr(r, "message", "").splitlines()))
    assert notes[:2] == [
        "truth: section 3 left out: nothing is labelled there, so all of it is unknown",
        f"truth: {5 * 28 * 128:,} px without a label left out: they are unknown",
    ]
    learning.break_off(attempt.name)
    learning.new_settings = NewWeightsSettings(
        architecture="unet", width=2, training=TrainSettings(steps=2, patch=32, batch=1)
    )
    found = drain(learning.start(new=True).work)
    used = found.weights.card.training.settings["corrections"]["em"]
    sections = {region[0] for part in used.values() for region in part}
    assert sections == {0, 1, 2, 4, 5}


def test_rounds_of_a_project_and_of_no_project_stay_apart(
    session: Session, learning: Learning, tmp_path: Path
) -> None:
    session.review(0)
    attempt = learning.start()
    learning.folder = tmp_path / "other"
    assert [r.state for r in learning.rounds] == ["learning"], "it is still seen"
    attempt.work.close()
    learning.break_off(attempt.name)
    assert learning.rounds == ()
    learning.folder = tmp_path / "own"
    assert [r.state for r in learning.rounds] == ["stopped"]


def test_a_list_that_cant_be_written_is_said_and_harms_nothing(
    session: Session, learning: Learning, tmp_path: Path
) -> None:
    learning.folder = tmp_path / "own"
    session.review(0)
    learning.start().work.close()
    shutil.rmtree(tmp_path / "own")
    (tmp_path / "own").write_text("in the way")
    learning.changed.emit()
    learning.ledger.changed.emit()
    assert "can't be written" in learning.ledger.trouble
