"""Broken off, killed, changed: a second run does what is missing, and only that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from batching import CPU, lines, run, values

from napari_emseg import api
from napari_emseg.batch import RowChanged, context, plan_batch, planning, run_batch
from napari_emseg.batch.job import (
    DifferentBatchError,
    Memory,
    UnfinishedBatchError,
)
from napari_emseg.batch.planning import WholeSectionsError, facts_of
from napari_emseg.core.errors import UnusableInputsError
from napari_emseg.core.records import Note
from napari_emseg.core.settings import CellSettings
from napari_emseg.inference import views
from napari_emseg.io import open_stack, read_provenance, save_stack
from napari_emseg.io.errors import OutputExistsError
from napari_emseg.sample import synthetic

STEPS = ("membranes", "cells", "link")
SEEN = {"steps": ("membranes",), "predict": CPU.model_copy(update={"views": 3})}


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


class TestOtherVersions:
    """A batch that one version of the program began, and another goes on with."""

    def test_results_say_which_versions_made_them(
        self, make_job, em, tmp_path, monkeypatch
    ) -> None:
        other = save_stack(tmp_path / "b.tif", synthetic((2, 100, 100), seed=3)[0])
        third = save_stack(tmp_path / "c.tif", synthetic((2, 100, 100), seed=4)[0])
        words = (str(em), str(other), str(third))
        monkeypatch.setattr(planning, "__version__", "7.1")
        work = run_batch(make_job(str(other), str(em)))
        rows: dict = {}
        done: set = set()
        # one of both is finished, the other begun; which, is left to the workers
        for record in work:
            if isinstance(record, RowChanged):
                rows[record.row.name] = record.row
            done = {name for name, row in rows.items() if row.state == "done"}
            if done and all(row.share for row in rows.values()):
                break
        work.close()
        monkeypatch.setattr(planning, "__version__", "7.2")
        records: list = []
        summary = run(make_job(*words, resume=True), records)
        assert summary.ok
        assert summary.reused > 0
        said = [r.message for r in records if isinstance(r, Note)]
        assert sum("begun by napari-emseg 7.1, which" in message for message in said)
        assert len(done) == 1
        made = {name: "7.1" if name in done else "7.1, 7.2" for name in ("b", "em")}
        made["c"] = "7.2"
        for row in summary.rows:
            told = {read_provenance(path).version for path in row.outputs}
            assert told == {made[row.name]}
        table = lines(tmp_path / "out" / "summary.csv")
        assert {line["name"]: line["version"] for line in table} == made
        # what is finished isn't any other version's from then on
        monkeypatch.setattr(planning, "__version__", "7.3")
        assert run(make_job(*words, resume=True)).tasks == 0

    def test_a_setting_that_came_later_is_taken_for_its_default(
        self, make_job, monkeypatch
    ) -> None:
        def without(job) -> dict:
            facts = facts_of(job)
            facts["predict"].pop("statistics")
            return facts

        with monkeypatch.context() as before:
            before.setattr(planning, "facts_of", without)
            break_off(make_job(), "cells")
        changed = CPU.model_copy(update={"statistics": "stack"})
        with pytest.raises(ValueError, match="statistics was card, is stack"):
            run(make_job(resume=True, predict=changed))
        assert run(make_job(resume=True)).reused >= 4

    def test_a_setting_that_is_not_known_here_is_named(self, make_job) -> None:
        break_off(make_job(), "cells")
        changed_memory(make_job(), lambda m: m["settings"].update(sharpen=3))
        with pytest.raises(ValueError, match=r"sharpen was 3, and version .* has no"):
            run(make_job(resume=True))

    @pytest.mark.parametrize("rest", [{}, {"settings": None, "inputs": [3]}])
    def test_a_newer_format_is_refused(self, make_job, rest) -> None:
        break_off(make_job(), "cells")
        newer = {"format": 2, "version": "9.0", **rest}
        changed_memory(make_job(), lambda m: m.update(newer))
        words = r"napari-emseg 9\.0 keeps batches in format 2, and"
        with pytest.raises(DifferentBatchError, match=words):
            run(make_job(resume=True))
        assert run(make_job(overwrite=True)).ok


def changed_memory(job, change) -> None:
    """Change what a batch that was broken off has noted of itself."""
    path = job.folder / "batch.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def test_a_batch_goes_on_with_the_tiles_it_began_with(make_job, monkeypatch) -> None:
    break_off(make_job(steps=STEPS), "cells")
    monkeypatch.setattr(planning, "free_ram", lambda: 200_000)
    other = plan_batch(make_job(steps=STEPS, out="other"))
    again = plan_batch(make_job(steps=STEPS, resume=True))
    assert other.job.settings.predict.tile < again.job.settings.predict.tile
    assert run(make_job(steps=STEPS, resume=True)).ok


def test_a_larger_input_is_added_to_a_batch_that_was_finished(
    make_job, em, tmp_path, monkeypatch
) -> None:
    """Tiles that nobody chose may be others; those that somebody chose may not."""
    size = {"voxel_size_nm": (50, 4, 4)}
    large = save_stack(tmp_path / "b.tif", synthetic((1, 320, 330), seed=3)[0], **size)
    own = plan_batch(make_job()).job.settings.predict.tile
    both = plan_batch(make_job(str(em), str(large))).job.settings.predict.tile
    assert own < both
    first = run(make_job()).rows[0].outputs
    before = [values(path) for path in first]
    stamps = [path.stat().st_mtime_ns for path in first]
    added = run(make_job(str(em), str(large), resume=True))
    assert added.ok
    assert [path.stat().st_mtime_ns for path in first] == stamps
    assert all((values(a) == b).all() for a, b in zip(first, before, strict=True))
    assert values(added.rows[1].outputs[0]).shape == (1, 320, 330)
    assert run(make_job(str(em), str(large), resume=True)).tasks == 0
    tiled = CPU.model_copy(update={"tile": both})
    with pytest.raises(DifferentBatchError, match=f"tile was {own}, is {both}"):
        run(make_job(resume=True, predict=tiled))


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
        until = time.monotonic() + 240
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


class TestThreeViews:
    """Parts are bands of sections, since planes along z cross all of a part."""

    @pytest.fixture(autouse=True)
    def _thin_bands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(views, "BAND", 2)

    @pytest.fixture
    def cubes(self, tmp_path: Path) -> Path:
        stack, _ = synthetic((6, 70, 66), seed=1)
        return save_stack(tmp_path / "cubes.tif", stack, voxel_size_nm=(4, 4, 4))

    def test_give_what_a_run_does(self, make_job, weights, cubes) -> None:
        done = run(make_job(str(cubes), **SEEN, probabilities="float32"))
        assert done.ok
        expected = api.predict(open_stack(cubes), weights, settings=SEEN["predict"])
        found = values(done.rows[0].outputs[0])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert read_provenance(done.rows[0].outputs[0]).settings["views"] == 3

    def test_go_on_where_they_were_broken_off(self, make_job, cubes) -> None:
        whole = run(make_job(str(cubes), out="whole", **SEEN))
        work = run_batch(make_job(str(cubes), **SEEN))
        membranes = (r for r in work if isinstance(r, RowChanged) and r.row.share > 0.5)
        next(membranes)
        work.close()
        second = run(make_job(str(cubes), **SEEN, resume=True))
        assert second.ok
        assert second.reused >= 2
        for one, other in zip(results(whole), results(second), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_are_refused_before_anything_is_written(self, make_job, tmp_path) -> None:
        job = make_job(**SEEN)  # voxels of 50 × 4 × 4 nm
        (row,) = plan_batch(job).rows
        assert row.state == "failed"
        assert "2 times as long as wide, these are 50 × 4 × 4 nm" in row.warnings[0]
        with pytest.raises(UnusableInputsError, match="three views"):
            run(job)
        assert not list((tmp_path / "out").rglob("*.zarr"))

    def test_need_whole_sections(self, make_job, cubes) -> None:
        job = make_job(str(cubes), **SEEN, whole=64)
        (row,) = plan_batch(job).rows
        assert isinstance(row.error, WholeSectionsError)
        assert row.error.remedies == {"whole": 68}

    def test_one_view_is_known_again_as_before(self, make_job) -> None:
        """Ledgers of versions that knew of no views are gone on with."""
        assert "views" not in planning.facts_of(make_job())["predict"]
        assert planning.facts_of(make_job(**SEEN))["predict"]["views"] == 3

    @pytest.mark.parametrize(
        ("before", "now", "words"),
        [
            (SEEN, {"steps": SEEN["steps"]}, "predict.views was 3, is 1"),
            ({"steps": SEEN["steps"]}, SEEN, "predict.views was 1, is 3"),
            (SEEN, SEEN, ""),
        ],
    )
    def test_others_are_named_by_their_number(
        self, make_job, before, now, words
    ) -> None:
        one, other = (
            Memory(settings=facts_of(make_job(**chosen)), inputs={})
            for chosen in (before, now)
        )
        assert ", ".join(one.differences(other)) == words
