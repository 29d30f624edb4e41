"""Random sittings on a project: the disk follows, whenever the program is killed."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import killed_after, must_be_there
from sitting import Sitting

from napari_emseg.io import open_stack, save_stack
from napari_emseg.project import Project
from napari_emseg.session import Session
from napari_emseg.session.projects import open_project, save_project

SCRIPT = Path(__file__).with_name("sitting.py")


@pytest.fixture(scope="module")
def begun(drawn_stack, tmp_path_factory) -> Path:
    """A project with cells of all sections."""
    folder = tmp_path_factory.mktemp("sitting")
    stack, cells = drawn_stack
    session = Session()
    session.select("a", open_stack(save_stack(folder / "em.tif", stack)))
    editor = session.source.editor
    for z in range(4):
        editor.put_cells(z, (slice(0, 96), slice(0, 112)), cells[z])
    editor.results.note_links(range(4), linked=True)
    editor.finish_run()
    save_project(session, folder / "begun")
    session.forget("a")
    return folder / "begun.emseg"


def copied(begun: Path, name: str) -> Path:
    return Path(shutil.copytree(begun, begun.with_name(name), dirs_exist_ok=True))


def check_saved(folder: Path, sitting: Sitting) -> None:
    linked = sitting.hand.linked
    linked.settle_all()
    with Project(folder, read_only=True) as project:
        for name in ("cells", "corrections"):
            found = np.stack([project.section(name, z) for z in range(4)])
            np.testing.assert_array_equal(found, linked.arrays[name], err_msg=name)
        assert project.locked == linked.locked
        assert project.regions == linked.regions
        assert project.review.last_id >= linked.last_id


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), parts=st.lists(st.integers(1, 25), max_size=3))
def test_the_disk_is_as_the_memory(begun, seed, parts) -> None:
    """Also when the project is closed and opened again in between."""
    folder = copied(begun, f"{seed}.emseg")
    for nth, n in enumerate(parts):
        session = Session()
        source = open_project(session, folder)
        sitting = Sitting(session, seed + nth)
        for _ in islice(sitting.steps(), n):
            if sitting.rng.random() < 0.1:
                session.project.flush()
                check_saved(folder, sitting)
        session.project.flush()
        check_saved(folder, sitting)
        assert session.project.project.review.sections == sitting.marked
        session.forget(source.key)
    shutil.rmtree(folder)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_undo_and_redo_give_back_each_state_exactly(drawn_stack, seed) -> None:
    """The sitting compares all of them: pixels, locks, order of review, runs."""
    stack, cells = drawn_stack
    session = Session()
    session.select("a", stack)
    editor = session.source.editor
    for z in range(4):
        editor.put_cells(z, (slice(0, 96), slice(0, 112)), cells[z])
    editor.results.note_links(range(4), linked=True)
    editor.finish_run()
    for _ in islice(Sitting(session, seed).steps(), 60):
        pass


def check_killed(begun: Path, seed: int) -> None:
    folder, copy = copied(begun, f"{seed}.emseg"), copied(begun, f"{seed} copy.emseg")
    seconds = float(np.random.default_rng(seed).uniform(0.2, 3.5))
    said, killed = killed_after(SCRIPT, folder, seed, seconds)
    with Project(folder) as project:
        assert not project.read_only  # the dead program's lock is no lock
        lines = project.edits()
        marked = project.review.sections
    assert must_be_there(said, killed) <= len(lines) <= len(said)
    # the same sitting again, as far as it was saved
    session = Session()
    source = open_project(session, copy)
    sitting = Sitting(session, seed)
    steps = sitting.steps()
    for _ in range(len(lines)):
        next(steps)
    check_saved(folder, sitting)
    session.project.flush()
    check_saved(copy, sitting)
    after = sitting.marked
    assert marked in (after, next(steps))
    session.forget(source.key)


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_sitting_loses_two_seconds_at_most(begun, seed) -> None:
    check_killed(begun, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_killed_sittings(begun) -> None:
    for seed in range(100, 150):
        check_killed(begun, seed)
