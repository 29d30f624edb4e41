"""Whatever goes wrong while a project is saved, it is tried again until it works."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from drawing import Person, hand_over, saved_in, state_of
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_emseg.core.records import Record
from napari_emseg.core.stack import Stack
from napari_emseg.project import Project, Saved, SaveFailed, journal
from napari_emseg.project import autosave as autosaves
from napari_emseg.project.journal import Journal

SHAPE = (3, 60, 50)
SECONDS = 120

FAULTS: list[BaseException] = [
    MemoryError("Unable to allocate 9 GB"),
    RuntimeError("in a library"),
    OSError(errno.ENOSPC, "No space left on device"),
    PermissionError(errno.EACCES, "Permission denied"),
    ValueError("odd"),
]


class Told:
    """What a project told, to be waited for."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._waited: list[tuple[type, Event]] = []

    def __call__(self, record: Record) -> None:
        self.records.append(record)
        for kind, event in self._waited:
            if isinstance(record, kind):
                event.set()

    def wait_for(self, kind: type, do: Callable[[], object]) -> None:
        event = Event()
        self._waited.append((kind, event))
        do()
        assert event.wait(SECONDS), f"no {kind.__name__} in {SECONDS} s"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autosaves, "RETRY", 0.01)
    monkeypatch.setattr(autosaves, "RETRY_MOST", 0.02)
    monkeypatch.setattr(autosaves, "DELAY", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a.emseg"
    Project.create(folder, Stack(np.zeros(SHAPE, np.uint8))).close()
    return folder


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(
    "place", ["zstd_encode", "commit", "finish", "__setitem__", "append"]
)
def test_a_fault_is_said_and_what_waits_is_saved_after(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, place: str
) -> None:
    owner = {"zstd_encode": journal, "__setitem__": journal.Chunked}.get(place, Journal)
    real, failing = getattr(owner, place), [True]

    def once(*args: object) -> object:
        if failing:
            raise fault
        return real(*args)

    told, person = Told(), Person(3, SHAPE)
    project = Project(folder, on_record=told)
    monkeypatch.setattr(owner, place, once)

    def work() -> None:
        for step in islice(person.steps(), 6):
            hand_over(project, step)

    told.wait_for(SaveFailed, work)
    assert project.waiting
    assert isinstance(project.error, OSError)
    assert str(fault.args[-1]) in str(project.error)
    told.wait_for(Saved, failing.clear)
    project.close()
    with Project(folder, read_only=True) as saved:
        np.testing.assert_equal(saved_in(saved), state_of(person.linked))
        assert saved.regions == person.linked.regions
        assert len(saved.edits()) == 6


def test_out_of_memory_is_said_in_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    project = Project(folder, on_record=told)
    with monkeypatch.context() as broken:

        def full(_: Journal) -> None:
            raise MemoryError

        broken.setattr(Journal, "begin", full)
        told.wait_for(SaveFailed, lambda: project.mark([0], "reviewed"))
    failed = next(r for r in told.records if isinstance(r, SaveFailed))
    assert failed.message == "out of memory"
    project.close()
    with Project(folder) as saved:
        assert saved.review.named("reviewed") == {0}


def test_a_folder_that_is_gone_may_come_back(folder: Path) -> None:
    told = Told()
    project = Project(folder, on_record=told)
    away = folder.with_name("away")
    folder.rename(away)
    told.wait_for(SaveFailed, lambda: project.mark([1], "excluded"))
    assert "no longer there" in str(project.error)
    told.wait_for(Saved, lambda: away.rename(folder))
    project.close()
    with Project(folder) as saved:
        assert saved.review.named("excluded") == {1}


def test_a_folder_may_come_back_from_a_copy(folder: Path) -> None:
    told = Told()
    project = Project(folder, on_record=told)
    copy = shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    told.wait_for(SaveFailed, lambda: project.mark([1], "excluded"))
    told.wait_for(Saved, lambda: copy.rename(folder))
    project.close()


def test_a_listener_that_fails_ends_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Record) -> None:
        msg = "the window is gone"
        raise RuntimeError(msg)

    with Project(folder, on_record=broken) as project:
        for z in range(3):
            project.mark([z], "reviewed")
            project.flush()
    assert "the window is gone" in caplog.text
    with Project(folder) as saved:
        assert saved.review.named("reviewed") == {0, 1, 2}


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), often=st.floats(0.05, 0.4))
def test_faults_at_random_lose_nothing(tmp_path_factory, seed, often) -> None:
    """Also half-way through an edit or an undo, which is then taken again whole."""
    folder = tmp_path_factory.mktemp("p") / "a.emseg"
    rng = np.random.default_rng(seed)
    person, failing = Person(seed, SHAPE), [True]

    def now_and_then(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            if failing and rng.random() < often:
                raise FAULTS[int(rng.integers(len(FAULTS)))]
            return real(*args)

        return call

    project = Project.create(folder, Stack(np.zeros(SHAPE, np.uint8)))
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (journal, "zstd_encode"),
            (journal.Chunked, "__setitem__"),
            (Journal, "replace"),
            (Journal, "commit"),
            (Journal, "finish"),
        ):
            patch.setattr(owner, name, now_and_then(getattr(owner, name)))
        for step in islice(person.steps(), 30):
            hand_over(project, step)
        failing.clear()
        while project.waiting:
            try:
                project.flush(SECONDS)
            except OSError:  # of a try before
                continue
        project.close()
    with Project(folder, read_only=True) as saved:
        np.testing.assert_equal(saved_in(saved), state_of(person.linked))
        assert saved.regions == person.linked.regions
        assert saved.locked == person.linked.locked
        assert len(saved.edits()) == 30
