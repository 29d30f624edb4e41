"""A batch that is put together bit by bit, without a window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_emseg.batch import BatchConfig, Row, RowChanged, Summary
from napari_emseg.batch.queue import BatchQueue
from napari_emseg.core.records import Progress, drain
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, save_stack


@pytest.fixture
def job(make_job) -> BatchConfig:
    return replace(make_job(), inputs=())


def array(name: str) -> Stack:
    return Stack(np.zeros((2, 64, 64), np.uint8), name=name)


def test_names_are_unique_and_may_be_names_of_files(em) -> None:
    board = BatchQueue()
    board.add_paths([str(em), str(em)])
    board.add_stack(array("em"), "1")
    board.add_stack(array("../a b/☃"), "2")
    board.add_stack(array("☃"), "3")
    names = [entry.given.name for entry in board.entries]
    assert names == ["em", "em-2", "a_b", "layer"]


def test_what_is_there_is_not_added_again(em) -> None:
    board, stack = BatchQueue(), open_stack(em)
    assert len(board.add_paths([str(em)])) == 1
    assert board.add_paths([str(em)]) == []
    assert board.add_stack(stack, "layer") is None
    assert board.add_stack(array("x"), "1") is not None
    assert board.add_stack(array("x"), "1") is None
    assert len(board.entries) == 2


def test_a_url_is_taken_as_it_is() -> None:
    (entry,) = BatchQueue().add_paths(["https://example.org/em.zarr"])
    assert entry.given.path == "https://example.org/em.zarr"


def test_a_folder_is_a_stack_or_holds_stacks(em, tmp_path) -> None:
    other = save_stack(tmp_path / "other.tif", array("other"))
    found = BatchQueue().add_paths([str(tmp_path)])
    assert [entry.given.path for entry in found] == [str(em), str(other)]
    sections = tmp_path / "sections"
    sections.mkdir()
    for z in range(3):
        np.save(sections / f"{z}.npy", np.zeros((8, 8), np.uint8))
    (one,) = BatchQueue().add_paths([str(sections)])
    assert one.given.path == str(sections)
    with pytest.raises(FileNotFoundError, match="no such file"):
        BatchQueue().add_paths([str(tmp_path / "none")])


def test_done_inputs_are_left_out_unless_they_belong_to_the_same_batch(
    job, em, tmp_path
) -> None:
    board = BatchQueue()
    board.add_paths([str(em)])
    assert drain(board.starting(job)).ok
    done = replace(board.entries[0].row, state="done")
    board.take([RowChanged(0, done)])
    board.end(Summary((done,), 1.0, 1, 0))
    with pytest.raises(ValueError, match="all inputs are done"):
        board.starting(job)
    board.starting(replace(job, out=tmp_path / "elsewhere"))
    assert len(board.running) == 1
    board.end(None)


def test_rows_at_work_are_told_stopped_and_stay(job, em) -> None:
    board = BatchQueue()
    board.add_paths([str(em)])
    board.starting(job)
    running = replace(board.entries[0].row, state="running", share=0.5)
    assert board.take([RowChanged(0, running)]) == [0]
    with pytest.raises(ValueError, match="cancel it"):
        board.remove([0])
    board.end(None)
    assert board.entries[0].row.state == "stopped"
    board.remove([0])
    with pytest.raises(ValueError, match="no inputs"):
        board.starting(job)


def test_a_dry_run_needs_no_files_of_layers(job, em) -> None:
    board = BatchQueue()
    board.add_paths([str(em)])
    board.add_stack(array("x"), "1")
    found = drain(board.iter_dry_run(job))
    assert found.sections == 8
    assert found.inputs == 2
    assert not job.out.exists()


def test_progress_counts_pixels(job, em) -> None:
    board, seen = BatchQueue(), []
    board.add_paths([str(em)])
    board.add_paths([str(Path(__file__))])
    drain(board.starting(job), seen.append)
    told = [r.done / r.total for r in seen if isinstance(r, Progress)]
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == 1
    rows = [r.row for r in seen if isinstance(r, RowChanged) and r.nth == 1]
    assert [row.state for row in rows] == ["failed"]
    assert isinstance(rows[0], Row)
