"""Broken off, killed, changed: a second run does what is missing, and only that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from batching import run, values

from napari_emseg.batch import RowChanged, context, plan_batch, planning, run_batch
from napari_emseg.batch.job import UnfinishedBatchError
from napari_emseg.core.settings import CellSettings
from napari_emseg.io import save_stack
from napari_emseg.io.errors import OutputExistsError
from napari_emseg.sample import synthetic

STEPS = ("membranes", "cells", "link")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "DEEPEST", 2)


def results(summary) -> list[np.ndarray]:
    return [values(path) for path in summary.rows[0].outputs]


def test_a_batch_that_is_broken_off_goes_on(make_job) -> None:
    whole = run(make_job(out="whole", steps=STEPS))
    work = run_batch(make_job(steps=STEPS))
    for record in work:
        if isinstance(record, RowChanged) and record.row.step == "cells":
            break
    work.close()
    with pytest.raises(UnfinishedBatchError, match="unfinished"):
        run(make_job(steps=STEPS))
    second = run(make_job(steps=STEPS, resume=True))
    assert second.ok
    assert second.reused >= 4  # looked at once, and membranes in three parts
    assert second.tasks < whole.tasks
    for one, other in zip(results(whole), results(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_that_is_done_is_not_done_again(make_job, tmp_path) -> None:
    first = run(make_job())
    with pytest.raises(OutputExistsError):
        run(make_job())
    second = run(make_job(overwrite=True))
    assert second.tasks == first.tasks
    assert second.ok


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cells": CellSettings(minimum_size=6)}, "minimum_size was 5, is 6"),
        ({"probabilities": "float32"}, "probabilities was uint8, is float32"),
    ],
)
def test_other_settings_are_noticed(make_job, change, words) -> None:
    break_off(make_job(steps=STEPS), "cells")
    with pytest.raises(ValueError, match=words):
        run(make_job(steps=STEPS, resume=True, **change))
    assert run(make_job(steps=STEPS, overwrite=True, **change)).reused == 0


def test_a_batch_goes_on_with_the_tiles_it_began_with(make_job, monkeypatch) -> None:
    break_off(make_job(steps=STEPS), "cells")
    monkeypatch.setattr(planning, "free_ram", lambda: 200_000)
    other = plan_batch(make_job(steps=STEPS, out="other"))
    again = plan_batch(make_job(steps=STEPS, resume=True))
    assert other.job.settings.predict.tile < again.job.settings.predict.tile
    assert run(make_job(steps=STEPS, resume=True)).ok


def test_a_changed_input_is_noticed(make_job, em) -> None:
    break_off(make_job(), "cells")
    stack, _ = synthetic((6, 200, 180), seed=5)
    save_stack(em, stack, overwrite=True)
    with pytest.raises(ValueError, match="em has changed"):
        run(make_job(resume=True))


def test_more_inputs_may_come(make_job, em, tmp_path) -> None:
    break_off(make_job(), "cells")
    other = save_stack(tmp_path / "b.tif", synthetic((2, 100, 100), seed=3)[0])
    summary = run(make_job(str(em), str(other), resume=True))
    assert summary.ok
    assert summary.reused >= 4
    assert len(summary.rows) == 2


def test_two_batches_on_one_folder_refuse_each_other(make_job) -> None:
    work = run_batch(make_job())
    next(work)
    with pytest.raises(BlockingIOError, match="another batch"):
        run(make_job(resume=True))
    work.close()
    assert run(make_job(resume=True)).ok


def break_off(job, step: str) -> None:
    work = run_batch(job)
    for record in work:
        if isinstance(record, RowChanged) and record.row.step == step:
            break
    work.close()


def killed_batch(weights, em: Path, out: Path, seconds: float, *more: str) -> None:
    """Start `emseg batch`, and kill it with all of its children."""
    script = Path(__file__).with_name("program.py")
    words = [sys.executable, str(script), str(em), "--out", str(out)]
    words += ["--weights", str(weights.path), "--device", "cpu", "--runtime", "torch"]
    words += ["--threads", "1", "--invert", "no", "--minimum-size", "5", *more]
    with subprocess.Popen(words, start_new_session=True) as program:
        until = time.monotonic() + 60
        ledger = out / ".emseg-batch" / "ledger.jsonl"
        while not (ledger.exists() and ledger.stat().st_size):
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(seconds)
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)


MOMENTS = np.random.default_rng(0).uniform(0, 4, 8)


@pytest.mark.parametrize(
    "seconds", [0.3, *(pytest.param(s, marks=pytest.mark.slow) for s in MOMENTS)]
)
def test_everything_killed(make_job, weights, em, tmp_path, seconds) -> None:
    whole = run(make_job(out="whole", steps=STEPS))
    out = tmp_path / "killed"
    killed_batch(weights, em, out, seconds, "--steps", ",".join(STEPS))
    done = not (out / ".emseg-batch").exists()
    second = run(make_job(out="killed", steps=STEPS, resume=True, overwrite=done))
    assert second.ok
    assert done or second.reused > 0
    assert {path.suffix for path in out.iterdir()} <= {
        ".zarr",
        ".json",
        ".csv",
        ".html",
    }
    for one, other in zip(results(whole), results(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_finished_input_may_be_exported_later(make_job, em, tmp_path) -> None:
    other = save_stack(tmp_path / "b.tif", synthetic((2, 100, 100), seed=3)[0])
    job = make_job(str(em), str(other))
    work = run_batch(job)
    for record in work:
        row = record.row if isinstance(record, RowChanged) else None
        if row is not None and (row.name, row.state) == ("em", "done"):
            break
    work.close()
    before = values(job.out / "em-cells.zarr")
    summary = run(make_job(str(em), str(other), resume=True, export=("hdf5",)))
    assert summary.ok
    np.testing.assert_array_equal(values(job.out / "em-cells.zarr"), before)
    np.testing.assert_array_equal(values(job.out / "em-cells-hdf5.h5"), before)


def test_a_line_of_the_ledger_that_was_cut_short_does_not_count(make_job) -> None:
    job = make_job()
    break_off(job, "cells")
    ledger = job.folder / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-9])
    assert run(make_job(resume=True)).ok
