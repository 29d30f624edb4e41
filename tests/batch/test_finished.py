"""What is finished stays finished, what is damaged is made again, rows of batches stay,
and nothing is written or deleted behind a link."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from batching import assert_same, lines, run

from napari_emseg.batch import RowChanged, context, engine, find_inputs, run_batch
from napari_emseg.batch.membranes import Membranes
from napari_emseg.cli import main
from napari_emseg.core.paths import UnsafePathError
from napari_emseg.core.records import Note
from napari_emseg.core.settings import CellSettings
from napari_emseg.io import save_stack
from napari_emseg.io.errors import OutputExistsError
from napari_emseg.sample import synthetic


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "DEEPEST", 2)


def break_off(job, step_name: str, state: str = "") -> None:
    work = run_batch(job)
    for record in work:
        row = record.row if isinstance(record, RowChanged) else None
        if row is not None and (row.step, row.state) == (step_name, state or row.state):
            break
    work.close()


def other_stack(tmp_path: Path) -> Path:
    return save_stack(tmp_path / "b.tif", synthetic((2, 100, 100), seed=3)[0])


def touch(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


def change(path: Path) -> None:
    """Flip a byte, so that the size stays; time passes, however coarse the clock is."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    touch(path)


def cut_short(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[:-3])


def flip(chunk: Path) -> None:
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 255
    chunk.write_bytes(content)


# finished batches


def test_nothing_is_left_of_a_batch_that_is_finished(make_job) -> None:
    first = run(make_job())
    records: list = []
    second = run(make_job(resume=True), records)
    assert second.ok
    assert (second.tasks, second.reused) == (0, 0)
    assert second.rows[0].outputs == first.rows[0].outputs
    assert second.pages == first.pages
    said = [r.message for r in records if isinstance(r, Note)]
    assert any(message.startswith("nothing left to do") for message in said)
    assert not make_job().folder.exists()


def test_a_finished_batch_with_other_settings_is_another_one(make_job) -> None:
    run(make_job())
    changed = {"cells": CellSettings(minimum_size=6)}
    with pytest.raises(ValueError, match="minimum_size was 5, is 6"):
        run(make_job(resume=True, **changed))


def test_a_finished_batch_of_a_changed_input_is_another_one(make_job, em) -> None:
    run(make_job())
    change(em)
    with pytest.raises(ValueError, match="em has changed"):
        run(make_job(resume=True))


@pytest.mark.parametrize("harm", [cut_short, Path.unlink])
def test_a_damaged_result_of_a_finished_batch_is_made_again(
    make_job, whole, harm
) -> None:
    (row,) = run(make_job()).rows
    assert_same(row.outputs, whole)
    harm(row.outputs[1] / "0" / "c" / "3" / "0" / "0")
    second = run(make_job(resume=True))
    assert second.ok
    assert second.tasks > 0
    assert_same(second.rows[0].outputs, whole)


def test_more_inputs_for_a_finished_batch(make_job, em, tmp_path) -> None:
    run(make_job())
    second = run(make_job(str(em), str(other_stack(tmp_path)), resume=True))
    assert second.ok
    assert [row.name for row in second.rows] == ["em", "b"]
    assert all(row.outputs for row in second.rows)


def test_a_kill_in_the_final_clean_up(make_job, monkeypatch) -> None:
    def killed(job) -> None:
        (job.folder / "batch.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "clear_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        run(make_job())
    monkeypatch.undo()
    assert make_job().folder.exists()
    second = run(make_job(resume=True))
    assert second.ok
    assert second.tasks == 0
    assert not make_job().folder.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from napari_emseg.batch.job import clear_folder

left, last = [0], [""]

def hook(event, arguments):
    if event in ("os.remove", "os.rmdir"):
        left[0] -= 1
        if left[0] < 0 or str(arguments[0]).endswith(last[0]):
            os.kill(os.getpid(), signal.SIGKILL)

for folder, count, name in zip(*[iter(sys.argv[1:])] * 3):
    process = os.fork()
    if not process:
        left[0], last[0] = int(count), name
        sys.addaudithook(hook)
        clear_folder(SimpleNamespace(folder=Path(folder)))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""
"""Final clean-ups of batches by processes of their own; each is killed at its nth
removal or at that of a file."""

MOMENTS = [(0, "none"), (1, "none"), (999, "batch.json"), (999, "ledger.jsonl")]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_what_a_killed_clean_up_leaves_is_cleared(make_job, whole, monkeypatch) -> None:
    """By a real signal, while files are removed; the next run does the rest."""
    with monkeypatch.context() as context:
        context.setattr(engine, "clear_folder", lambda job: None)
        assert_same(run(make_job(out="kept")).rows[0].outputs, whole)
    jobs = [make_job(out=f"killed-{n}", resume=True) for n in range(len(MOMENTS))]
    words = [sys.executable, "-c", KILLED]
    for job, moment in zip(jobs, MOMENTS, strict=True):
        shutil.copytree(make_job(out="kept").out, job.out)
        words += map(str, (job.folder, *moment))
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(MOMENTS)
    for job in jobs:
        assert job.folder.exists()
        again = run(job)
        assert again.ok
        assert again.tasks == 0
        assert not job.folder.exists()
        assert_same(again.rows[0].outputs, whole)


def test_a_kill_before_the_final_clean_up(make_job, monkeypatch) -> None:
    def killed(job) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "clear_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        run(make_job())
    monkeypatch.undo()
    second = run(make_job(resume=True))
    assert second.ok
    assert second.tasks == 0
    assert second.rows[0].outputs[0].exists()


# damage to what is unfinished


@pytest.mark.parametrize("harm", [cut_short, flip, Path.unlink])
def test_a_damaged_part_is_done_again(make_job, whole, harm) -> None:
    job = make_job()
    break_off(job, "write")
    chunk = job.folder / "em" / "membranes.zarr" / "0" / "c" / "3" / "0" / "0"
    harm(chunk)
    second = run(make_job(resume=True))
    assert second.ok
    assert second.reused > 0
    assert_same(second.rows[0].outputs, whole)


def test_a_published_result_that_is_damaged_is_made_again(
    make_job, em, tmp_path
) -> None:
    words = (str(em), str(other_stack(tmp_path)))
    whole = run(make_job(*words, out="whole"))
    job = make_job(*words)
    work = run_batch(job)
    for record in work:
        row = record.row if isinstance(record, RowChanged) else None
        if row is not None and (row.name, row.state) == ("em", "done"):
            break
    work.close()
    cut_short(job.out / "em-membranes.zarr" / "0" / "c" / "1" / "0" / "0")
    second = run(make_job(*words, resume=True))
    assert second.ok
    for a, b in zip(whole.rows, second.rows, strict=True):
        assert_same(b.outputs, a.outputs)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("batch.json", b'{"settings": 3, "inputs": {}}'),
        ("batch.json", b"no json"),
        ("ledger.jsonl", b'{"stamp": 1, "facts": []}\n'),
        ("ledger.jsonl", b"[]\n"),
    ],
)
def test_odd_values_end_in_one_line_that_names_the_file(
    make_job, name, content
) -> None:
    job = make_job()
    break_off(job, "cells")
    (job.folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        run(make_job(resume=True))
    assert "\n" not in str(caught.value)


def test_facts_that_nobody_found_out_name_the_ledger(make_job) -> None:
    job = make_job()
    break_off(job, "cells")
    ledger = job.folder / "ledger.jsonl"
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    bare = [json.dumps({**entry, "facts": {}}) for entry in entries]
    ledger.write_text("".join(f"{line}\n" for line in bare))
    with pytest.raises(ValueError, match=r"ledger\.jsonl is damaged"):
        run(make_job(resume=True))


def test_an_odd_summary_is_named(make_job) -> None:
    job = make_job()
    job.out.mkdir()
    (job.out / "summary.json").write_text('{"inputs": [{"name": "a"}]}')
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        run(job)


# rows of earlier batches


def test_rows_of_earlier_batches_stay(make_job, em, tmp_path) -> None:
    run(make_job())
    out = run(make_job(str(other_stack(tmp_path)))).pages[0].parent
    rows = lines(out / "summary.csv")
    assert [row["name"] for row in rows] == ["em", "b"]
    assert [row["state"] for row in rows] == ["done", "done"]
    page = (out / "summary.html").read_text()
    assert page.count('class="done"') == 2
    assert "2 inputs" in page


def test_a_row_that_is_made_anew_takes_its_own_place(make_job) -> None:
    run(make_job())
    out = run(make_job(overwrite=True)).pages[0].parent
    assert len((out / "summary.csv").read_text().splitlines()) == 2


def test_results_that_a_layer_holds_are_refused_before_the_run(make_job, held) -> None:
    first = run(make_job()).rows[0].outputs
    held.add(first[-1])
    with pytest.raises(PermissionError, match=f"{first[-1].name} can't be replaced"):
        run(make_job(overwrite=True))
    held.clear()
    assert run(make_job(overwrite=True)).rows[0].outputs == first


def test_rows_of_an_older_version_stay(make_job, em, tmp_path) -> None:
    out = run(make_job()).pages[0].parent
    (out / "summary.json").unlink()
    run(make_job(str(other_stack(tmp_path))))
    rows = lines(out / "summary.csv")
    assert [row["name"] for row in rows] == ["em", "b"]
    assert rows[0]["sections"] == "6"
    assert rows[0]["results"] == "em-membranes.zarr; em-cells.zarr"


def test_rows_whose_results_are_gone_go_too(make_job, em, tmp_path) -> None:
    first = run(make_job())
    shutil.rmtree(first.rows[0].outputs[0])
    out = run(make_job(str(other_stack(tmp_path)))).pages[0].parent
    rows = lines(out / "summary.csv")
    assert [row["name"] for row in rows] == ["b"]


# inputs that change


def test_an_input_that_changes_is_incomplete(make_job, em) -> None:
    work = run_batch(make_job())
    rows, changed = {}, False
    for record in work:
        if isinstance(record, RowChanged):
            rows[record.row.name] = record.row
            if record.row.step == "membranes" and record.row.share > 0 and not changed:
                changed = True
                change(em)
    assert rows["em"].state == "incomplete"
    assert "em.tif was changed or replaced" in " ".join(rows["em"].warnings)
    with pytest.raises(ValueError, match="em has changed"):
        run(make_job(resume=True))


def test_an_input_that_is_changed_and_put_back_is_done_anew(make_job, em) -> None:
    before, content = em.stat(), em.read_bytes()
    work = run_batch(make_job())
    for record in work:
        if isinstance(record, RowChanged) and record.row.step == "write":
            change(em)
    em.write_bytes(content)
    os.utime(em, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = run(make_job(resume=True))
    assert second.ok
    assert second.reused == 0


def test_a_zarr_that_goes_away_is_listed_and_mended(
    make_job, em, whole, tmp_path, monkeypatch
) -> None:
    from napari_emseg.io import open_stack

    given = save_stack(tmp_path / "z.zarr", open_stack(em))
    gone, real = tmp_path / "gone.zarr", Membranes.run
    read = {0: Event(), 2: Event()}

    def late(self: Membranes) -> dict[str, object]:
        if self.part.first == 4:
            assert all(part.wait(120) for part in read.values())
            given.rename(gone)
        facts = real(self)
        read.get(self.part.first, Event()).set()
        return facts

    with monkeypatch.context() as context:
        context.setattr(Membranes, "run", late)
        (row,) = run(make_job(str(given), retries=0)).rows
    assert row.state == "incomplete"
    said = " ".join(row.warnings)
    assert re.search("z 4…5 has no membranes|sections? (4…)?5 (is|are) left out", said)
    assert "z.zarr is no longer there" in said
    gone.rename(given)
    mended = run(make_job(str(given), resume=True))
    assert mended.ok
    assert_same(mended.rows[0].outputs, whole)


# links


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of the user's own."""
    folder = tmp_path / "home"
    (folder / "Documents").mkdir(parents=True)
    (folder / "Documents" / "thesis.txt").write_text("thesis")
    (folder / "ledger.jsonl").write_text("my own")
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p): p.read_bytes() for p in files}


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}, {}])
def test_a_folder_of_a_batch_that_is_a_link_is_refused(
    make_job, elsewhere, how
) -> None:
    job = make_job(**how)
    job.out.mkdir()
    job.folder.symlink_to(elsewhere)
    before = listing(elsewhere)
    with pytest.raises(UnsafePathError, match="links aren't followed"):
        run(job)
    assert listing(elsewhere) == before


@pytest.mark.parametrize("place", ["em", "em/membranes.zarr", "ledger.jsonl", "lock"])
def test_a_link_inside_is_refused(make_job, elsewhere, place) -> None:
    job = make_job(overwrite=True)
    path = job.folder / place
    path.parent.mkdir(parents=True)
    path.symlink_to(elsewhere / "ledger.jsonl" if "." in place else elsewhere)
    before = listing(elsewhere)
    with pytest.raises(OSError, match="links aren't followed"):
        run(job)
    assert listing(elsewhere) == before


def test_a_result_that_is_a_link_is_replaced_and_not_followed(
    make_job, elsewhere
) -> None:
    job = make_job(overwrite=True)
    job.out.mkdir()
    (job.out / "em-cells.zarr").symlink_to(elsewhere)
    (job.out / "summary.csv").symlink_to(elsewhere / "ledger.jsonl")
    before = listing(elsewhere)
    (row,) = run(job).rows
    assert row.state == "done"
    assert not (job.out / "em-cells.zarr").is_symlink()
    assert listing(elsewhere) == before


def test_checking_deletes_nothing(make_job, monkeypatch) -> None:
    job = make_job()
    break_off(job, "cells")
    before = listing(job.folder)

    def full(*_) -> None:
        msg = "not enough space"
        raise OSError(msg)

    monkeypatch.setattr(engine, "refuse_if_full", full)
    with pytest.raises(OSError, match="not enough space"):
        run(make_job(overwrite=True))
    kept = {k for k in listing(job.folder) if "holder" not in k}
    assert kept == {k for k in before if "holder" not in k}


def test_what_is_refused_or_cancelled_at_once_leaves_nothing(
    make_job, tmp_path, monkeypatch
) -> None:
    """Neither lock nor folders, also where nobody has the folder of results yet."""
    assert run(make_job()).ok
    before = set(tmp_path.rglob("*"))
    with pytest.raises(OutputExistsError):
        run(make_job())
    assert set(tmp_path.rglob("*")) == before

    new = "deep/er"
    for name, error in (("check", KeyboardInterrupt), ("Cluster", ConnectionError)):

        def fail(*_, error=error) -> None:
            assert (tmp_path / new / ".emseg-batch" / "lock").exists()
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(engine, name, fail)
            with pytest.raises(error):
                run(make_job(out=new))
        assert set(tmp_path.rglob("*")) == before
    # another one that is at work there keeps all of its own
    work = run_batch(make_job(out=new))
    next(work)
    there = listing(tmp_path / new)
    with pytest.raises(BlockingIOError):
        run(make_job(out=new))
    assert listing(tmp_path / new) == there
    work.close()


def test_names_of_inputs_lead_nowhere(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "sections"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "inner").mkdir()
    found = find_inputs([".", "..", "inner/.."])
    assert [given.name for given in found] == ["sections", tmp_path.name, "sections-2"]
    odd = folder / "a: .tif"
    odd.touch()
    assert find_inputs([str(odd)])[0].name == "a_"


# inputs as `predict` takes them


def test_a_tiny_picture_first(make_job, em, whole, tmp_path) -> None:
    tiny = save_stack(tmp_path / "a.tif", np.array([[[1, 9, 5]]] * 2, np.uint8))
    summary = run(make_job(str(tiny), str(em)))
    assert summary.ok
    assert summary.rows[0].shape == (1, 3)
    assert_same(summary.rows[1].outputs, whole)


def test_the_command_says_that_nothing_is_left(weights, em, tmp_path, capsys) -> None:
    words = ["batch", str(em), "--out", str(tmp_path / "o"), "--steps", "membranes"]
    words += ["--weights", str(weights.path), "--device", "cpu", "--runtime", "torch"]
    assert main([*words, "--invert", "no"]) == 0
    capsys.readouterr()
    assert main([*words, "--invert", "no", "--resume"]) == 0
    assert "nothing left to do" in capsys.readouterr().err
