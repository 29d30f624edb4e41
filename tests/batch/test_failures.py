"""What can go wrong: it is tried again, said, left empty; the rest goes on."""

from __future__ import annotations

import errno
import functools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from batching import assert_same, run, values

from napari_emseg.batch import (
    Input,
    context,
    engine,
    estimate,
    estimate_batch,
    find_inputs,
    plan_batch,
)
from napari_emseg.batch import membranes as step
from napari_emseg.batch.estimate import (
    BatchEstimate,
    refuse_if_full,
    seconds_per_pixel,
)
from napari_emseg.batch.step import STEPS
from napari_emseg.cli import main
from napari_emseg.core.records import Note, Provenance
from napari_emseg.core.settings import CellSettings
from napari_emseg.io import open_stack, read_provenance, save_stack
from napari_emseg.project import Project
from napari_emseg.sample import synthetic


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "DEEPEST", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four sections as files of their own, the second one damaged."""
    stack, _ = synthetic((4, 120, 100), seed=1)
    path = tmp_path / "sections"
    path.mkdir()
    for z in range(4):
        save_stack(path / f"s{z}.tif", np.asarray(stack.data)[z : z + 1])
    damaged = path / "s1.tif"
    damaged.write_bytes(damaged.read_bytes()[:300])
    return path


def test_missing_numbers_are_told(make_job, folder) -> None:
    (folder / "s1.tif").unlink()
    job = make_job(str(folder))
    told = "numbers missing in the names of its files: 1"
    assert plan_batch(job).rows[0].warnings == (told,)
    (row,) = run(job).rows
    assert row.state == "done"
    assert row.warnings == (told,)


def test_a_damaged_section_is_left_empty(make_job, folder) -> None:
    summary = run(make_job(str(folder)))
    (row,) = summary.rows
    assert row.state == "incomplete"
    assert not summary.ok
    assert "section 1 is left out" in " ".join(row.warnings)
    membrane, cells = map(values, row.outputs)
    assert not membrane[1].any()
    assert not cells[1].any()
    assert cells[[0, 2, 3]].any(axis=(1, 2)).all()
    assert "section 1" in read_provenance(row.outputs[0]).settings["missing"][0]


def test_a_failed_part_is_tried_again_and_then_listed(
    make_job, whole, monkeypatch
) -> None:
    tried: list[int] = []
    real = step.Membranes.run

    def fails(self: step.Membranes) -> dict[str, object]:
        if self.part.first == 2:
            tried.append(1)
            msg = "not enough memory for this test"
            raise MemoryError(msg)
        return real(self)

    monkeypatch.setattr(step.Membranes, "run", fails)
    records: list = []
    summary = run(make_job(), records)
    (row,) = summary.rows
    assert len(tried) == 3
    assert row.state == "incomplete"
    assert any("not enough memory" in warning for warning in row.warnings)
    assert sum(isinstance(r, Note) and "tried again" in r.message for r in records) == 2
    assert not values(row.outputs[0])[2:4].any()
    monkeypatch.setattr(step.Membranes, "run", real)
    mended = run(make_job(resume=True))
    assert mended.ok
    assert mended.reused > 0
    assert_same(mended.rows[0].outputs, whole)
    assert "missing" not in read_provenance(mended.rows[0].outputs[0]).settings


def test_output_that_is_no_number_fails(make_job, monkeypatch) -> None:
    real = step._Store.write

    def write(self: step._Store, z: int, section: np.ndarray) -> None:
        place = self._places[z]
        real(self, z, np.full_like(section, np.nan) if place == 3 else section)

    monkeypatch.setattr(step._Store, "write", write)
    (row,) = run(make_job()).rows
    assert row.state == "incomplete"
    assert any("not a number" in warning for warning in row.warnings)


def test_a_full_disk_stops_the_batch_and_nothing_looks_whole(
    make_job, monkeypatch
) -> None:
    real = step._Store.write

    def full(self: step._Store, z: int, section: np.ndarray) -> None:
        if self._places[z] > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, z, section)

    monkeypatch.setattr(step._Store, "write", full)
    job = make_job()
    with pytest.raises(OSError, match="output folder is full"):
        run(job)
    assert [path.name for path in job.out.iterdir()] == [".emseg-batch"]
    monkeypatch.setattr(step._Store, "write", real)
    second = run(make_job(resume=True))
    assert second.ok
    assert second.reused > 0


def test_a_disk_that_is_full_from_the_start_is_told_so(make_job, monkeypatch) -> None:
    def full(plan) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine, "note", full)
    with pytest.raises(OSError, match="output folder is full; finished parts are kept"):
        run(make_job())


def test_too_little_space_is_said_before(make_job, tmp_path) -> None:
    huge = BatchEstimate(1, 1, None, 10**18, 0, 0)
    with pytest.raises(OSError, match="not enough space"):
        refuse_if_full(huge, tmp_path)


def test_a_file_that_vanishes_fails_alone(make_job, em, tmp_path) -> None:
    from napari_emseg.batch import RowChanged, run_batch

    other = save_stack(tmp_path / "b.tif", synthetic((2, 100, 100), seed=3)[0])
    work = run_batch(make_job(str(em), str(other)))
    rows = {}
    for record in work:
        if isinstance(record, RowChanged):
            other.unlink(missing_ok=True)
            rows[record.row.name] = record.row
    assert rows["em"].state == "done"
    assert rows["b"].state in ("failed", "incomplete")
    assert "b.tif" in " ".join(rows["b"].warnings)


def test_inputs_that_cannot_be_used_are_said(make_job, em, tmp_path) -> None:
    (tmp_path / "bad.tif").write_bytes(b"no picture")
    summary = run(make_job(str(em), str(tmp_path / "bad.tif")))
    assert [row.state for row in summary.rows] == ["done", "failed"]
    with pytest.raises(ValueError, match="none of the inputs"):
        run(make_job(str(tmp_path / "bad.tif"), out="other"))


def test_a_result_in_the_place_of_an_input_is_refused(make_job, em, tmp_path) -> None:
    """The membranes of `s.tif` would be `s-membranes.tif`, which is to be read, too."""
    words = [str(tmp_path / name) for name in ("s.tif", "s-membranes.tif")]
    for word in words:
        Path(word).write_bytes(em.read_bytes())
    job = make_job(*words, out=".", overwrite=True, output="tiff")
    with pytest.raises(ValueError, match=r"s-membranes\.tif is the input"):
        run(job)
    assert Path(words[1]).read_bytes() == em.read_bytes()
    # nor do results take the place of what settings were read from
    edges = tmp_path / "out" / "em-cells.csv"
    edges.parent.mkdir()
    edges.write_text("{}")
    job = replace(make_job(str(em), overwrite=True, table=True), spared=(edges,))
    with pytest.raises(ValueError, match=r"em-cells\.csv is the input"):
        run(job)
    assert edges.read_text() == "{}"


def test_words_become_inputs(tmp_path) -> None:
    for name in ("a2.tif", "a10.tif", "a1.tif"):
        (tmp_path / name).touch()
    found = find_inputs([str(tmp_path / "a*.tif"), str(tmp_path / "a1.tif")])
    assert [given.name for given in found] == ["a1", "a2", "a10"]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a1.tif").touch()
    found = find_inputs([str(tmp_path / "a1.tif"), str(tmp_path / "more" / "a1.tif")])
    assert [given.name for given in found] == ["a1", "a1-2"]
    with pytest.raises(FileNotFoundError, match="no file matches"):
        find_inputs([str(tmp_path / "*.mrc")])
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_inputs([str(tmp_path / "c.tif")])
    with pytest.raises(ValueError, match="one input"):
        find_inputs([])


def test_sections_of_unlike_size_are_refused(make_job, folder) -> None:
    save_stack(folder / "s9.tif", np.zeros((1, 30, 40), np.uint8))
    with pytest.raises(
        ValueError, match=r"used: sections: sections of .* alike in size"
    ):
        run(make_job(str(folder)))


def test_only_some_sections(make_job, em) -> None:
    job = make_job()
    given = job.inputs[0]
    part = type(job)(
        (Input(given.name, given.path, first=2, stop=4),),
        job.out,
        job.weights,
        job.settings,
    )
    (row,) = run(part).rows
    assert row.sections == 2
    assert values(row.outputs[0]).shape == (2, 200, 180)


def test_a_read_only_folder_is_refused(make_job, em, tmp_path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="can't be written"):
        run(make_job())


def test_a_folder_that_is_a_file_is_refused(make_job, tmp_path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match=r"can't be written to \(.*\): choose another"):
        run(make_job())


def test_hand_work_of_a_project_counts(make_job, em, tmp_path) -> None:
    whole = slice(0, 200), slice(0, 180)
    corrections = np.zeros((200, 180), np.uint8)
    corrections[[50, 52], :] = 1
    corrections[100:120, 100:120] = 2
    locked = np.zeros((200, 180), np.uint32)
    locked[140:160, 20:60] = 77
    with Project.create(tmp_path / "p.emseg", open_stack(em)) as project:
        project.put("corrections", 1, whole, corrections)
        project.put("cells", 2, whole, locked)
        project.lock_cells([77])
        project.mark([4], "excluded")
    least = CellSettings(minimum_size=100)
    (row,) = run(make_job(str(tmp_path / "p.emseg"), cells=least)).rows
    assert row.state == "done"
    membrane, cells = map(values, row.outputs)
    assert (membrane[1, 50] == 255).all()
    # what lies between the two lines is less than a cell
    assert not cells[1, 50:53].any()
    assert (membrane[1, 100:120, 100:120] == 0).all()
    np.testing.assert_array_equal(cells[2] == 77, locked == 77)
    assert (cells[cells != 77] != 77).all()
    assert cells[cells > 0].min() >= 77
    assert not membrane[4].any()
    assert not cells[4].any()


def test_corrections_count_where_probabilities_are_given(make_job, tmp_path) -> None:
    membrane = np.full((2, 60, 80), 10, np.uint8)
    membrane[:, :, 40:42] = 250
    made = Provenance(kind="membrane", threshold=0.5, scale=255.0)
    given = save_stack(tmp_path / "given.tif", membrane, provenance=made)
    codes = np.zeros((60, 80), np.uint8)
    codes[:, 38:44] = 2
    whole = slice(0, 60), slice(0, 80)
    with Project.create(tmp_path / "p.emseg", open_stack(given)) as project:
        project.put("corrections", 1, whole, codes)
    words = str(tmp_path / "p.emseg")
    (row,) = run(make_job(words, use=None, steps=("cells",))).rows
    cells = values(row.outputs[0])
    assert [len(np.unique(each[each > 0])) for each in cells] == [2, 1]


def test_what_it_takes_is_said_before(make_job) -> None:
    plan = plan_batch(make_job())
    found = estimate_batch(plan, timed=True)
    assert found.words.startswith("6 sections, about ")
    assert "1 MB on disk" in found.words
    assert found.memory_bytes > 40 * 200 * 180


def test_joining_a_large_section_is_reckoned_with(make_job, tmp_path) -> None:
    seen = []
    for side in (8192, 65_536):
        path = tmp_path / f"{side}.zarr"
        zarr.create_array(
            path, shape=(1, side, side), chunks=(1, 1024, 1024), dtype="u1"
        )
        seen.append(
            estimate_batch(plan_batch(make_job(str(path), block=1024))).memory_bytes
        )
    assert seen[1] - seen[0] > 65_536**2


def test_links_and_the_table_take_time_too(make_job, monkeypatch) -> None:
    linking = ("membranes", "cells", "link")
    clock = [0.0]

    def work(takes: float) -> None:
        clock[0] += takes

    for name, takes in {"cells": 0.02, "link": 0.05, "table": 0.2}.items():
        trial = functools.partial(work, takes)
        monkeypatch.setattr(STEPS[name], "trial", lambda *_, trial=trial: trial)
    monkeypatch.setattr(estimate, "perf_counter", lambda: clock[0])
    plain, linked, table = (
        seconds_per_pixel(plan_batch(make_job(**chosen)).planned[0].context)
        for chosen in ({}, {"steps": linking}, {"table": True})
    )
    found = np.array([plain, linked, table]) * estimate.SIDE**2
    np.testing.assert_allclose(found, [0.02, 0.07, 0.22])


def test_the_command_line(weights, em, tmp_path, capsys) -> None:
    words = ["batch", str(em), "--out", str(tmp_path / "o")]
    words += ["--weights", str(weights.path), "--minimum-size", "5"]
    words += ["--device", "cpu", "--runtime", "torch", "--invert", "no"]
    assert main([*words, "--dry-run"]) == 0
    assert "6 sections" in capsys.readouterr().out
    assert not (tmp_path / "o").exists()
    assert main([*words, "--steps", "membranes,cells,link"]) == 0
    assert "em-cells.zarr" in capsys.readouterr().out
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--steps", "membranes,link"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: steps are membranes, cells and link")
    assert "got membranes, link\n" in told
    assert main([*words, "--overwrite", "--workers", "0"]) == 2
