from __future__ import annotations

import signal

import pytest

from napari_emseg.cli import progress as module
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.core.records import EpochDone, Note, Progress, SectionDone


def work(n, closed):
    try:
        for i in range(n):
            yield Progress("counting", i + 1, n)
    finally:
        closed.append(True)
    return "result"


def test_returns_the_result_and_logs_the_end(capsys):
    assert run_with_progress(work(5, [])) == "result"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "counting: 5 of 5\n"


def test_long_work_logs_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(module, "perf_counter", lambda: next(clock))
    run_with_progress(work(7, []))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"counting: {n} of 7" for n in (3, 6, 7)]


def test_a_step_of_unknown_length_is_said_once(capsys):
    def steps():
        for step in ("choosing", "calibrating", "calibrating", "calibrating"):
            yield Progress(step, 0, 0)
        yield Progress("counting", 1, 1)

    run_with_progress(steps())
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["choosing …", "calibrating …", "counting: 1 of 1"]


def test_a_screen_gets_a_bar_for_each_step(capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)

    def steps():
        yield SectionDone(0, 1, 2)
        yield Note("rescaled")
        yield EpochDone(3, 9, 0.5, {"score": 0.9}, True, 12.0)

    run_with_progress(steps())
    err = capsys.readouterr().err
    assert "sections" in err
    assert "1/2" in err
    assert "rescaled" in err
    assert "step 3/9  12 ms/step  score 0.9000  best so far" in err


def test_ctrl_c_closes_the_work_after_the_record_in_hand():
    closed = []

    def interrupted():
        for record in work(5, closed):
            if record.done == 2:
                signal.raise_signal(signal.SIGINT)
            yield record
            assert record.done < 2, "went on after Ctrl-C"

    with pytest.raises(KeyboardInterrupt):
        run_with_progress(interrupted())
    assert closed


def test_a_second_ctrl_c_does_not_wait():
    def stubborn():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("waited")
        yield Progress("never", 1, 1)

    with pytest.raises(KeyboardInterrupt):
        run_with_progress(stubborn())


def test_errors_pass_and_the_signal_is_given_back():
    before = signal.getsignal(signal.SIGINT)

    def failing():
        yield Progress("a", 1, 2)
        msg = "out of memory"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="out of memory"):
        run_with_progress(failing())
    assert signal.getsignal(signal.SIGINT) is before
