"""What a batch gives is what the plain steps give."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from batching import CPU, run, values

from napari_emseg.batch import RowChanged, run_batch
from napari_emseg.core.records import drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.inference import predict_stack
from napari_emseg.io import open_stack, read_provenance
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
    assert now > before
    assert {address.ip for address in now - before} == {"127.0.0.1"}
    work.close()
