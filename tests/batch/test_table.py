"""The table of cells of a batch is that of one stack, however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
from batching import lines, plain, run, values

from napari_emseg.batch import measuring
from napari_emseg.core.records import Provenance
from napari_emseg.core.settings import CellSettings
from napari_emseg.io import read_provenance, save_stack

LINKED = ("membranes", "cells", "link")


@pytest.mark.parametrize("steps", [("membranes", "cells"), LINKED])
def test_it_is_the_table_of_one_stack(make_job, tmp_path, monkeypatch, steps) -> None:
    monkeypatch.setattr(measuring, "RANGE", 7)
    summary = run(make_job(steps=steps, table=True))
    assert summary.ok
    outputs = summary.rows[0].outputs
    assert [path.name for path in outputs] == [
        "em-membranes.zarr",
        "em-cells.zarr",
        "em-cells.csv",
    ]
    expected = plain(outputs, tmp_path / "plain.csv", linked="link" in steps)
    found = lines(outputs[2])
    assert len(found) == summary.rows[0].cells > 7
    assert found == expected
    assert sum(int(row["voxels"]) for row in found) == (values(outputs[1]) > 0).sum()
    assert not list(tmp_path.glob("out/.emseg-batch"))


def test_probabilities_are_measured_too(make_job, tmp_path) -> None:
    membranes = run(make_job(steps=("membranes",), out="first")).rows[0].outputs[0]
    job = make_job(str(membranes), steps=("cells",), use=None, table=True)
    outputs = run(job).rows[0].outputs
    expected = plain((membranes, outputs[0]), tmp_path / "plain.csv", linked=False)
    assert lines(outputs[1]) == expected


def test_probabilities_keep_the_threshold_that_they_came_with(
    make_job, tmp_path
) -> None:
    membrane = np.full((2, 80, 120), 0.05, np.float32)
    membrane[:, 38:42] = membrane[:, :, 58:62] = 0.6
    paths = []
    for name, threshold in (("card", 0.3), ("none", None)):
        made = Provenance(kind="membrane", threshold=threshold)
        path = tmp_path / f"{name}.zarr"
        paths.append(str(save_stack(path, membrane, provenance=made)))

    def outcome(**settings) -> list[tuple[int, float | None]]:
        job = make_job(*paths, steps=("cells",), use=None, **settings)
        return [
            (row.cells, read_provenance(row.outputs[0]).threshold)
            for row in run(job).rows
        ]

    # walls of 0.6 part cells at a threshold of 0.3, and hardly stand out at 0.5
    assert outcome() == [(8, 0.3), (2, 0.5)]
    own = CellSettings(threshold=0.3, minimum_size=5)
    assert outcome(cells=own, out="own") == [(8, 0.3), (8, 0.3)]


def test_what_is_suspicious_is_told(make_job, tmp_path) -> None:
    membrane = np.ones((3, 80, 120), np.float32)
    membrane[:, 20:60, 20:56] = 0
    membrane[:2, 20:60, 64:100] = 0
    path = save_stack(tmp_path / "walls.zarr", membrane, voxel_size_nm=(50, 4, 4))
    job = make_job(str(path), steps=("cells", "link"), use=None, table=True)
    found = lines(run(job).rows[0].outputs[1])
    assert [row["worth_a_look"] for row in found] == ["", "ends in mid-stack"]
    assert [row["sections"] for row in found] == ["3", "2"]


def test_it_can_be_asked_for_later(make_job, em, tmp_path) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no picture")
    first = run(make_job(str(em), str(bad)))
    assert [row.state for row in first.rows] == ["done", "failed"]
    again = run(make_job(str(em), str(bad), resume=True, table=True))
    outputs = again.rows[0].outputs
    expected = plain(outputs, tmp_path / "plain.csv", linked=False)
    assert lines(outputs[2]) == expected
    third = run(make_job(str(em), str(bad), resume=True, table=True))
    assert third.tasks == 0
    assert third.rows[0].outputs == outputs
    outputs[2].unlink()
    run(make_job(str(em), str(bad), resume=True, table=True))
    assert lines(outputs[2]) == expected


def test_without_cells_there_is_no_table(make_job) -> None:
    with pytest.raises(ValueError, match="“Cell measurements” needs the step cells"):
        make_job(steps=("membranes",), table=True)
