"""What a batch gives is what the plain steps give."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batching import CPU, run, values

from napari_emseg.batch import Input, RowChanged, find_inputs, links, run_batch
from napari_emseg.batch.inputs import open_input
from napari_emseg.core.records import drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.inference import predict_stack
from napari_emseg.io import open_stack, read_provenance, save_stack
from napari_emseg.project import Project
from napari_emseg.sample import synthetic
from napari_emseg.segmentation import segment_stack


def plain(em: Path, weights, cells: CellSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and cells without a batch."""
    stack = open_stack(em)
    membrane = drain(predict_stack(stack, weights, settings=CPU)).probabilities
    found = drain(segment_stack(membrane, settings=cells, source=stack)).cells
    return membrane, found


@pytest.mark.parametrize("link", [False, True])
def test_results_are_those_of_the_plain_steps(make_job, em, weights, link) -> None:
    cells = CellSettings(minimum_size=5, threshold=0.45)
    steps = ("membranes", "cells", "link") if link else ("membranes", "cells")
    job = make_job(probabilities="float32", cells=cells, steps=steps)
    summary = run(job)
    assert summary.ok
    membrane, found = plain(em, weights, cells.model_copy(update={"link": link}))
    assert found.max() > 3
    row = summary.rows[0]
    np.testing.assert_allclose(values(row.outputs[0]), membrane, atol=1e-6)
    np.testing.assert_array_equal(values(row.outputs[1]), found)
    assert row.cells == found.max()
    assert open_stack(row.outputs[1]).voxel_size_nm == (50, 4, 4)
    assert read_provenance(row.outputs[1]).weights == "tiny"


EMPTY = (0, 3, 4, 5, 8, 11)
"""Sections without cells: the first, three in a row, one alone, the last."""

WAYS = ("blank", "blank blocks", "damaged", "excluded", "chosen", "all blank")


@pytest.fixture(params=WAYS)
def gappy(request, tmp_path) -> tuple[Input, dict[str, Any], tuple[int, ...]]:
    """Twelve small sections, some without cells: an input, its settings, which."""
    way, empty = request.param, EMPTY
    drawn = np.array(synthetic((12, 96, 90), seed=1)[0].data)
    if way == "all blank":
        empty = tuple(range(12))
    if way not in ("damaged", "excluded"):
        drawn[list(empty)] = 0
    path = tmp_path / ("gappy.emseg" if way == "excluded" else "gappy")
    if way == "excluded":
        em = save_stack(tmp_path / "gappy.tif", drawn, voxel_size_nm=(50, 4, 4))
        with Project.create(path, open_stack(em)) as project:
            project.mark(empty, "excluded")
    elif way == "damaged":
        path.mkdir()
        for z, section in enumerate(drawn):
            file = save_stack(path / f"s{z:02}.tif", section[None])
            if z in empty:
                file.write_bytes(file.read_bytes()[:300])
    else:
        path = save_stack(path.with_suffix(".tif"), drawn, voxel_size_nm=(50, 4, 4))
    chosen = {"first": 2, "stop": 10} if way == "chosen" else {}
    blocks = {"whole": 64} if way == "blank blocks" else {}
    return find_inputs((str(path),), **chosen)[0], blocks, empty


def test_links_pass_over_what_has_no_cells(make_job, gappy, weights) -> None:
    given, blocks, empty = gappy
    stack = open_input(given).stack
    wanted = list(given.sections(stack))
    gone = tuple(z for z in empty if z in wanted) if given.is_project else ()
    membrane = drain(
        predict_stack(stack, weights, sections=wanted, excluded=gone, settings=CPU)
    ).probabilities
    cells = CellSettings(minimum_size=5, link=True)
    places = [wanted.index(z) for z in gone]
    expected = drain(segment_stack(membrane, settings=cells, excluded=places)).cells
    steps = ("membranes", "cells", "link")
    job = make_job(steps=steps, probabilities="float32", **blocks)
    job = replace(job, inputs=(given,))
    row = run(job).rows[0]
    found = values(row.outputs[1])
    np.testing.assert_array_equal(found, expected)
    full = [k for k, z in enumerate(wanted) if z not in empty]
    assert found.any(axis=(1, 2)).nonzero()[0].tolist() == full
    assert row.cells == found.max()
    assert len(full) == 0 or np.intersect1d(found[full[0]], found[full[-1]]).any()


def test_a_batch_that_failed_to_link_is_resumed(
    make_job, tmp_path, monkeypatch
) -> None:
    drawn = np.array(synthetic((5, 96, 90), seed=1)[0].data)
    drawn[2] = 0
    given = str(save_stack(tmp_path / "gappy.tif", drawn))
    steps = {"steps": ("membranes", "cells", "link")}

    def fails(self: links.SolveLinks) -> None:
        msg = "overlap-2-1.npz isn't there"
        raise FileNotFoundError(msg)

    with monkeypatch.context() as broken:
        broken.setattr(links.SolveLinks, "_linked", fails)
        (row,) = run(make_job(given, **steps)).rows
        assert row.state == "failed"
    resumed = run(make_job(given, **steps, resume=True))
    assert resumed.ok
    assert resumed.reused > 0
    whole = run(make_job(given, **steps, out="whole"))
    pair = (values(summary.rows[0].outputs[1]) for summary in (resumed, whole))
    np.testing.assert_array_equal(*pair)


def test_probabilities_are_bytes_unless_asked_otherwise(make_job, em, weights) -> None:
    summary = run(make_job(steps=("membranes",)))
    (path,) = summary.rows[0].outputs
    membrane, _ = plain(em, weights, CellSettings())
    np.testing.assert_array_equal(values(path), np.rint(membrane * 255))
    assert read_provenance(path).scale == 255


def test_the_table_tells_how_far_each_input_is(make_job) -> None:
    records = []
    run(make_job(), records)
    rows = [r.row for r in records if isinstance(r, RowChanged)]
    shares = [row.share for row in rows]
    assert rows[0].state == "waiting"
    assert rows[-1].state == "done"
    assert shares == sorted(shares)
    assert {row.step for row in rows} >= {"membranes", "cells"}


def test_the_summary_is_a_table_and_a_page(make_job, em, tmp_path) -> None:
    odd = em.rename(tmp_path / "a<b>&'c'.tif")
    summary = run(make_job(str(odd)))
    table, page = summary.pages
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert lines[0]["name"] == "a<b>&'c'"
    assert lines[0]["state"] == "done"
    html = page.read_text()
    assert "a<b>" not in html
    assert "a&lt;b&gt;&amp;" in html
    assert html.count("data:image/png;base64,") == 2
    assert "http" not in html


def test_tiff_and_other_formats(make_job, tmp_path) -> None:
    summary = run(make_job(output="tiff", export=("hdf5",)))
    assert summary.ok
    names = sorted(path.name for path in summary.rows[0].outputs)
    assert names == [
        "em-cells-hdf5.h5",
        "em-cells.tif",
        "em-membranes-hdf5.h5",
        "em-membranes.tif",
    ]
    cells = [values(path) for path in summary.rows[0].outputs if "cells" in path.name]
    np.testing.assert_array_equal(*cells)
    assert not (tmp_path / "out" / ".emseg-batch").exists()


def test_nothing_listens_to_other_machines(make_job) -> None:
    import psutil

    before = {c.laddr for c in psutil.Process().net_connections("tcp")}
    work = run_batch(make_job())
    for record in work:
        if isinstance(record, RowChanged) and record.row.state == "running":
            break
    now = {c.laddr for c in psutil.Process().net_connections("tcp")}
    # those of an earlier batch may close meanwhile
    assert {address.ip for address in now - before} == {"127.0.0.1"}
    work.close()
