"""A round that was broken off goes on when its project is opened again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finetuning import drawn, untaught
from learner import STEPS, Learner, sitting

from napari_emseg.core.records import Note, Progress, Record, drain
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import FinetuneSettings
from napari_emseg.project import Project
from napari_emseg.proofreading import paint as painted
from napari_emseg.session.rounds import BROKEN_OFF, NOTHING_LEFT, lesson_of
from napari_emseg.session.training_data_file import (
    read_training_data,
    write_training_data,
)
from napari_emseg.session.training_request import Learnt
from napari_emseg.training.corrections import TrainingSet

SCRIPT = Path(__file__).with_name("learner.py")


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMSEG_WEIGHTS", str(tmp_path / "own"))
    return untaught(tmp_path / "parent.safetensors").path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with two reviewed sections, of a stack in a file."""
    stack, codes = drawn()
    file = tmp_path / "em.npy"
    np.save(file, np.asarray(stack.data))
    from napari_emseg.io import open_stack

    folder = tmp_path / "em.emseg"
    em = open_stack(file, voxel_size_nm=(200, 4, 4))
    whole = slice(0, 128), slice(0, 128)
    with Project.create(folder, em) as made:
        for z in (0, 4):
            made.put("corrections", z, whole, codes[z])
        made.mark([0, 4], "reviewed")
    return folder


def leave(learner: Learner) -> None:
    assert learner.session.project is not None
    learner.session.project.close()


def correct(learner: Learner, z: int) -> None:
    hand = learner.session.correcting()
    box = slice(10, 14), slice(10, 40)
    hand.do(painted(hand.sheet(z), "corrections", np.ones((4, 30), bool), box, 1))


def broken_off(project: Path, parent: Path, step: int = 5) -> str:
    """Learn up to a step and leave, without a word; return the round's name."""
    learner = sitting(project, parent)
    attempt = learner.learning.start()
    for record in attempt.work:
        if record == Progress("training", step, STEPS):
            break
    attempt.work.close()
    leave(learner)
    return attempt.name


def gone_on(learner: Learner) -> tuple[Learnt, list[int], list[str]]:
    """Resume; return what it gave, the steps that were made, and what was told."""
    steps: list[int] = []
    notes: list[str] = []

    def tell(record: Record) -> None:
        if isinstance(record, Progress) and record.step == "training":
            steps.append(record.done)
        if isinstance(record, Note):
            notes.append(record.message)

    attempt = learner.learning.resume()
    learnt = drain(attempt.work, tell)
    learner.learning.finish(attempt.name, learnt)
    return learnt, steps, notes


def test_it_goes_on_with_what_it_learnt_from(project: Path, parent: Path) -> None:
    whole = sitting(project, parent)
    expected = drain(whole.learning.start().work).weights.network().state_dict()
    whole.learning.fail("parent-round1", "")
    leave(whole)

    name = broken_off(project, parent)
    later = sitting(project)
    correct(later, 2)  # is for the next round
    assert later.learning.since == 1
    stopped = later.learning.resumable
    assert stopped is not None
    assert (stopped.name, stopped.outcome) == (name, BROKEN_OFF)
    learnt, steps, _ = gone_on(later)
    assert steps == list(range(6, STEPS + 1))
    found = learnt.weights.network().state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    round_ = later.learning.ledger.known(name)
    assert round_.state == "candidate"
    assert later.learning.resumable is None
    assert not round_.checkpoint.exists()
    assert not lesson_of(round_.output).exists()
    leave(later)


def test_a_killed_program_goes_on_from_its_last_checkpoint(
    project: Path, parent: Path
) -> None:
    words = [sys.executable, "-W", "ignore", str(SCRIPT), str(project), str(parent)]
    path = os.pathsep.join((str(SCRIPT.parent), str(SCRIPT.parents[1])))
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if int(line) == 5:
                break
        program.kill()
    later = sitting(project)
    attempt = later.learning.resume()
    records = [next(attempt.work)]
    while not (isinstance(records[-1], Progress) and records[-1].step == "training"):
        records.append(next(attempt.work))
    attempt.work.close()
    assert records[-1].done >= 5  # it was validated at 4, and so saved
    assert not any("anew" in r.message for r in records if isinstance(r, Note))
    leave(later)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("lesson gone", "not there any more"),
        ("lesson damaged", "is damaged"),
        ("checkpoint damaged", ".checkpoint is damaged"),
        ("checkpoint of another", "settings changed"),
        ("stack changed", "is not open, or has changed"),
    ],
)
def test_what_cant_go_on_is_said_and_begins_anew(
    project: Path, parent: Path, harm: str, said: str
) -> None:
    name = broken_off(project, parent)
    candidates = project / "weights" / "candidates"
    checkpoint = candidates / f"{name}.checkpoint"
    lesson = candidates / f"{name}.lesson"
    if harm == "lesson gone":
        lesson.unlink()
    elif harm == "lesson damaged":
        lesson.write_bytes(lesson.read_bytes()[:-100])
    elif harm == "checkpoint damaged":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    elif harm == "checkpoint of another":
        saved = torch.load(checkpoint, weights_only=True)
        torch.save(saved | {"settings": saved["settings"] + "other"}, checkpoint)
    later = sitting(project)
    if harm == "stack changed":
        source = later.session.source
        other = Stack(255 - np.asarray(source.stack.data), name="em")
        later.session.select(source.key, other)
    learnt, steps, notes = gone_on(later)
    assert said in "\n".join(notes)
    assert "anew" in "\n".join(notes)
    assert steps == list(range(1, STEPS + 1))
    assert learnt.weights.path.is_file()
    leave(later)


def test_a_round_of_which_nothing_was_saved_is_said(
    project: Path, parent: Path
) -> None:
    first = sitting(project, parent)
    next(first.learning.start().work)
    leave(first)
    later = sitting(project, parent)
    round_ = later.learning.ledger.known("parent-round1")
    assert (round_.state, round_.outcome) == ("failed", NOTHING_LEFT)
    assert later.learning.resumable is None
    with pytest.raises(ValueError, match="no round was stopped"):
        later.learning.resume()
    assert later.learning.start().name == "parent-round2"
    leave(later)


def test_weights_that_are_gone_are_missed(project: Path, parent: Path) -> None:
    broken_off(project, parent)
    (project / "weights" / "parent.safetensors").unlink()
    later = sitting(project, untaught(parent.with_name("other.safetensors")).path)
    with pytest.raises(ValueError, match="parent, which parent-round1 began with"):
        later.learning.resume()
    leave(later)


def test_a_candidate_still_waits_for_its_decision(project: Path, parent: Path) -> None:
    first = sitting(project, parent)
    attempt = first.learning.start()
    first.learning.finish(attempt.name, drain(attempt.work))
    before = first.learning.ledger.known(attempt.name)
    leave(first)
    later = sitting(project)
    round_ = later.learning.ledger.known(attempt.name)
    assert round_.decidable
    assert round_.outcome == before.outcome != ""
    assert round_.beginning is not None
    assert round_.beginning.sha256 == before.beginning.sha256
    accepted = later.learning.accept(round_.name)
    assert later.session.weights == accepted
    leave(later)
    assert sitting(project).session.weights.sha256 == accepted.sha256


def test_what_has_no_label_is_unknown_in_another_sitting_too(tmp_path: Path) -> None:
    stack, codes = drawn(3)
    labels = codes.astype(np.int16) - 1
    labels[1, :40] = -1
    known = TrainingSet.from_labels(stack, labels, "inside")
    known = replace(known, through=(Region(1, 0, 64, 64, 128),))
    assert [region.z for region in known.partly] == [1]
    path = tmp_path / "round.lesson"
    write_training_data(path, [known], FinetuneSettings(), ("membrane", "inside"))
    (again,), *_ = read_training_data(path, [stack])
    assert (again.partly, again.through) == (known.partly, known.through)
    assert again.incomplete == ()
    assert again.opinions.fingerprint == known.opinions.fingerprint
