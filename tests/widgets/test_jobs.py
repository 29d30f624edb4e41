from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Generator

import numpy as np
import pytest
from qtpy.QtCore import QThread

from napari_emseg.core.records import (
    TILES,
    Note,
    Progress,
    Record,
    SectionDone,
    TileDone,
    ViewProgress,
)
from napari_emseg.widgets.formatting import format_advance
from napari_emseg.widgets.jobs import BackgroundJob, JobError, _Clock
from napari_emseg.widgets.run import JobControls


def counting(n: int, seen: list[str] | None = None) -> Generator[Record, None, str]:
    try:
        for i in range(n):
            yield Progress("count", i + 1, n)
        return "done"
    finally:
        if seen is not None:
            seen.append(threading.current_thread().name)


def endless(closed: list[int]) -> Generator[Record, None, None]:
    try:
        i = 0
        while True:
            i += 1
            QThread.msleep(2)
            yield Progress("endless", i, i + 1000)
    finally:
        closed.append(threading.get_ident())


def failing(error: Exception) -> Generator[Record, None, None]:
    yield Note("about to fail")
    raise error


@pytest.fixture
def job(qtbot) -> Generator[BackgroundJob, None, None]:
    job = BackgroundJob(in_activity_dock=False)
    yield job
    if job.busy:
        with qtbot.waitSignal(job.ended):
            job.cancel()


def run(qtbot, job: BackgroundJob, work: Generator[Record, None, object]):
    with qtbot.waitSignal(job.ended, timeout=120_000) as ended:
        job.start(work, "test")
    return ended.args[0]


def test_result_and_all_records_arrive(qtbot, job) -> None:
    got: list[Record] = []
    job.recorded.connect(got.extend)
    outcome = run(qtbot, job, counting(50))
    assert outcome.result == "done"
    assert outcome.error is None
    assert not outcome.cancelled
    assert [r.done for r in got] == list(range(1, 51))
    assert not job.busy


def test_many_records_come_in_few_deliveries(qtbot, job) -> None:
    deliveries: list[int] = []
    job.recorded.connect(lambda records: deliveries.append(len(records)))
    run(qtbot, job, counting(20_000))
    assert sum(deliveries) == 20_000
    assert len(deliveries) < 100


def test_a_runtime_error_is_not_swallowed(qtbot, job) -> None:
    cause = RuntimeError("shapes cannot be multiplied")
    outcome = run(qtbot, job, failing(cause))
    assert isinstance(outcome.error, JobError)
    assert outcome.cause is cause
    assert "shapes cannot be multiplied" in str(outcome.error)
    assert not job.busy


@pytest.mark.parametrize("error", [ValueError("bad"), OSError("disk full")])
def test_other_errors_arrive_as_they_are(qtbot, job, error) -> None:
    outcome = run(qtbot, job, failing(error))
    assert outcome.error is error
    assert outcome.cause is error


def test_runs_again_after_an_error(qtbot, job) -> None:
    run(qtbot, job, failing(RuntimeError("once")))
    assert run(qtbot, job, counting(3)).result == "done"


def test_cancel_closes_the_generator_in_its_own_thread(qtbot, job) -> None:
    closed: list[int] = []
    with qtbot.waitSignal(job.advanced):
        job.start(endless(closed), "endless")
    assert job.busy
    with qtbot.waitSignal(job.ended) as ended:
        job.cancel()
    assert ended.args[0].cancelled
    assert len(closed) == 1
    assert closed[0] != threading.get_ident()


def test_only_the_warnings_of_its_own_thread_are_told_as_its(
    qtbot, job, caplog: pytest.LogCaptureFixture
) -> None:
    begun, warned = threading.Event(), threading.Event()
    others: list[str] = []

    def work() -> Generator[Record, None, None]:
        warnings.warn("of the work", UserWarning, stacklevel=1)
        begun.set()
        warned.wait(60)
        yield Note("after")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *warning: others.append(str(warning[0]))
        with qtbot.waitSignal(job.ended, timeout=60_000):
            job.start(work(), "training")
            qtbot.waitUntil(begun.is_set)
            warnings.warn("of another", UserWarning, stacklevel=1)
            warned.set()
    assert others == ["of another"]
    assert [r.getMessage() for r in caplog.records] == ["training: of the work"]


def test_a_second_start_is_refused_while_busy(qtbot, job) -> None:
    job.start(endless([]), "first")
    with pytest.raises(RuntimeError, match="first is still running"):
        job.start(counting(1), "second")


def test_slots_run_in_the_gui_thread(qtbot, job) -> None:
    threads: set[int] = set()
    worked: list[str] = []
    for signal in (job.started, job.recorded, job.advanced, job.ended):
        signal.connect(lambda *_: threads.add(threading.get_ident()))
    run(qtbot, job, counting(5, worked))
    assert threads == {threading.get_ident()}
    assert worked != [threading.current_thread().name]


def tile(done: int, total: int) -> TileDone:
    core = (slice(0, 1), slice(0, 1))
    return TileDone(0, core, np.zeros((1, 1, 1), np.float32), done, total)


def test_progress_follows_tiles(qtbot, job) -> None:
    def tiles() -> Generator[Record, None, None]:
        for i in range(1, 41):
            yield tile(i, 80)
            if i % 20 == 0:
                yield SectionDone(i // 20, i // 20, 4)

    seen = []
    job.advanced.connect(seen.append)
    run(qtbot, job, tiles())
    assert (seen[-1].done, seen[-1].total) == (40, 80)


def test_the_time_left_is_told_by_the_pace_since_the_first_tile(monkeypatch) -> None:
    now = iter((100.0, 104.0))
    monkeypatch.setattr("napari_emseg.widgets.jobs.perf_counter", lambda: next(now))
    clock = _Clock()
    assert clock.advance([tile(2, 80)]).seconds_left is None
    assert clock.advance([tile(10, 80)]).seconds_left == 70 * 4 / 8


def test_each_phase_is_told_with_its_name(qtbot, job) -> None:
    core = (slice(0, 1), slice(0, 1))
    value = np.zeros((1, 1, 1), np.float32)
    work = (
        [Progress("preparing the network", 0, 0)],
        [TileDone(4, core, value, 1, 8)],
        [TileDone(4, core, value, 2, 8), SectionDone(4, 1, 4)],
        [TileDone(5, core, value, 3, 8)],
        [Progress("ignored", 1, 3), TileDone(5, core, value, 8, 8)],
        [Progress("linking cells", 0, 0)],
    )
    clock = _Clock()
    told = [clock.advance(records) for records in work]
    assert [format_advance(x, 4).partition(" · ")[0] for x in told] == [
        "Preparing the network",
        "1 of 4 sections",
        "2 of 4 sections",
        "2 of 4 sections",
        "Finishing",
        "Linking cells",
    ]
    controls = JobControls("Run")
    qtbot.addWidget(controls)
    bar = controls.bar
    for advance in told:
        controls.show_advance(advance, 4)
        assert bar.value() < bar.maximum()
    assert controls.left.text() == "Linking cells"
    controls.show_share(2, 8)
    assert bar.value() == bar.maximum() // 4


def test_of_three_views_the_one_at_work_is_told() -> None:
    core = (slice(0, 1), slice(0, 1))
    value = np.zeros((1, 1, 1), np.float32)
    seen = ("z", 1, 4), ("y", 1, 3), ("x", 2, 3), ("x", 3, 3)
    one, *rest = (
        ViewProgress(TILES, done, 10, view)
        for done, view in zip((1, 5, 9, 10), seen, strict=True)
    )
    whole = [TileDone(0, core, value, 9, 10), SectionDone(0, 1, 4)]
    clock = _Clock()
    steps = ([one], [rest[0]], [rest[1]], whole, [rest[2]])
    said = [format_advance(clock.advance(records), 4) for records in steps]
    assert said[0] == "View along z · 1 of 4 tiles"
    assert said[1].startswith("View along y · 1 of 3 tiles · ")  # and the time left
    assert said[2].startswith("View along x · 2 of 3 tiles · ")
    assert said[3].startswith("2 of 4 sections")
    assert said[4] == "Finishing"


def test_activity_dock_bar_is_closed(qtbot) -> None:
    from napari.utils import progress

    job = BackgroundJob()
    before = len(progress._all_instances)
    during = []
    job.advanced.connect(lambda _: during.append(len(progress._all_instances)))
    run(qtbot, job, counting(5))
    assert during
    assert set(during) == {before + 1}
    assert len(progress._all_instances) == before


def test_napari_names_the_task_by_its_title(make_napari_viewer, qtbot) -> None:
    viewer = make_napari_viewer()
    job = BackgroundJob()
    with qtbot.waitSignal(job.advanced):
        job.start(endless([]), "Membranes of vnc")
    tasks = viewer.window._task_status_manager.get_status()
    assert any("Membranes of vnc" in task for task in tasks)
    with qtbot.waitSignal(job.ended):
        job.cancel()


def test_stopping_is_known_before_the_end(qtbot, job) -> None:
    with qtbot.waitSignal(job.advanced):
        job.start(endless([]), "endless")
    assert not job.stopping
    with qtbot.waitSignal(job.ended):
        job.cancel()
        assert job.stopping
    assert not job.stopping


PROGRAM = """
import time
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication
from napari_emseg.core.records import Progress
from napari_emseg.widgets.jobs import BackgroundJob

def work():
    for k in range(4):
        time.sleep(0.2)
        yield Progress("count", k, 4)

app = QApplication([])
job = BackgroundJob(in_activity_dock=False)
job.start(work(), "counting")
QTimer.singleShot(300, app.quit)
app.exec()
"""


def test_a_program_may_end_while_work_is_on() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
