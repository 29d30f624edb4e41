"""Cells through the stack in batches are those that `segment` finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batching import CPU, run, values
from scipy import ndimage as ndi
from thin import thin_weights

from napari_emseg import api
from napari_emseg.batch import RowChanged, context, plan_batch, run_batch, stack_cells
from napari_emseg.batch.job import DifferentBatchError
from napari_emseg.batch.planning import WholeSectionsError, facts_of
from napari_emseg.core.records import Provenance, drain
from napari_emseg.core.regions import Constraint
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, read_provenance, save_stack
from napari_emseg.project import Project
from napari_emseg.proofreading import INSIDE, MEMBRANE, Rerun, SmallestPieces
from napari_emseg.sample import synthetic
from napari_emseg.segmentation import segment_stack, volume
from napari_emseg.segmentation.edge_classifier import SEEN, EdgeClassifier
from napari_emseg.segmentation.volume import iter_segment_volume

WAYS = [CellSettings(minimum_size=5, through=way) for way in ("3-d", "graph")]
NAMES = ("affinity z1", "affinity y1", "affinity x1")


def as_segment(membrane: Path, way: CellSettings, **more: Any) -> np.ndarray:
    """What `segment` makes of a result."""
    return drain(segment_stack(values(membrane), settings=way, **more)).cells


def far_apart() -> Constraint:
    """Say that the first and the last voxel well inside a cell of `em` are one cell."""
    cells = np.asarray(synthetic((6, 200, 180), seed=1)[1])
    first, *_, last = np.argwhere(ndi.minimum_filter(cells > 0, (1, 9, 9)))
    return Constraint(tuple(first.tolist()), tuple(last.tolist()), same=True)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.through)
def test_cells_are_those_of_segment(make_job, em, tmp_path, way) -> None:
    single = save_stack(tmp_path / "one.tif", synthetic((1, 90, 80), seed=3)[0])
    with Project.create(tmp_path / "p.emseg", open_stack(em)) as project:
        project.mark([2], "excluded")
        project.constrain([said := far_apart()])
    folder = tmp_path / "p.emseg"
    summary = run(make_job(str(folder), str(single), cells=way, table=True))
    assert summary.ok
    many, one = summary.rows
    membrane, cells = many.outputs[:2]
    found = values(cells)
    expected = as_segment(membrane, way, excluded=[2], constraints=[said])
    assert expected.any(axis=(1, 2)).tolist() == [z != 2 for z in range(6)]
    # what lies behind the excluded section goes on
    assert np.intersect1d(expected[1], expected[3]).size > 1
    np.testing.assert_array_equal(found, expected)
    assert many.cells == expected.max()
    assert said.is_kept(found)
    assert not said.is_kept(as_segment(membrane, way, excluded=[2]))
    made = read_provenance(cells).settings
    assert (made["constraints"], made["excluded"]) == (1, [2])
    assert made["cells"]["through"] == way.through
    assert made["cells"]["link"] is True
    assert one.warnings == (
        "cells are found section by section, since there is but one section",
    )
    alone = as_segment(one.outputs[0], way)
    np.testing.assert_array_equal(values(one.outputs[1]), alone)
    assert read_provenance(one.outputs[1]).settings["cells"]["through"] == "sections"


def hand_work(folder: Path, em: Path) -> tuple[np.ndarray, np.ndarray]:
    """Make a project with a wall through a cell, one painted within, and a locked one.

    Returns the wall's corrections and the cells `(z, y, x)` that are in the project.
    """
    cells = np.array(synthetic((6, 200, 180), seed=1)[1], np.uint32)
    codes = np.zeros(cells.shape, np.uint8)
    largest, second, third = np.argsort(-np.bincount(cells[3][cells[3] > 0]))[:3]
    depth = ndi.distance_transform_edt(cells[3] == second)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    codes[3, y - 7 : y + 8, x - 7 : x + 8] = MEMBRANE
    codes[3, y - 5 : y + 6, x - 5 : x + 6] = INSIDE
    for z in (2, 3):
        rows, columns = np.nonzero(cells[z] == largest)
        middle = int(np.median(columns))
        codes[z][rows.min() - 3 : rows.max() + 4, middle : middle + 2] = MEMBRANE
    cells[codes == MEMBRANE] = 0
    cells[3, y - 5 : y + 6, x - 5 : x + 6] = cells.max() + 1
    whole = slice(0, 200), slice(0, 180)
    with Project.create(folder, open_stack(em)) as project:
        for z in range(6):
            project.put("corrections", z, whole, codes[z])
            project.put("cells", z, whole, cells[z])
        project.lock_cells([int(third)])
    return codes, cells


@pytest.mark.parametrize(
    "way",
    [*WAYS, CellSettings(minimum_size=5, link=True)],
    ids=["3-d", "graph", "link"],
)
def test_what_a_hand_cut_is_as_in_the_window(
    make_job, em, tmp_path, monkeypatch, way
) -> None:
    monkeypatch.setattr(context, "DEEPEST", 2)
    codes, old = hand_work(tmp_path / "p.emseg", em)
    steps = ("membranes", "cells", "link")[: 3 if way.link else 2]
    job = make_job(str(tmp_path / "p.emseg"), cells=way, steps=steps)
    (row,) = run(job).rows
    membrane, found = row.outputs[0], values(row.outputs[1])
    with Project(tmp_path / "p.emseg", read_only=True) as project:
        locked, last_id = project.locked, project.last_id
    window = Rerun(expected := old.copy(), last_id=last_id, locked=locked)
    whole = slice(0, 200), slice(0, 180)
    cells = as_segment(membrane, way, drawn=lambda z: codes[z] == MEMBRANE)
    for z, section in enumerate(cells):
        window.put(z, whole, section, codes[z], SmallestPieces(16, 5))
    window.finish()
    np.testing.assert_array_equal(found > 0, expected > 0)
    both = np.unique(np.stack([found[found > 0], expected[found > 0]]), axis=1)
    for ids in both:  # one to one
        assert len(np.unique(ids)) == len(ids)
    painted = np.unique(found[codes == INSIDE])
    assert len(painted) == 1
    assert (found == painted).sum() == (codes == INSIDE).sum()
    (third,) = locked
    np.testing.assert_array_equal(found == third, old == third)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.through)
def test_affinities_of_the_weights_count(make_job, em, tmp_path, way) -> None:
    # the last one is the least likely: sections hardly go on in each other
    weights = thin_weights(tmp_path, "sure", further=NAMES[::-1])
    way = way.model_copy(update={"join": 0.45})
    job = make_job(use=weights, cells=way, probabilities="float32")
    (row,) = run(job).rows
    p, *said = api.predict(
        open_stack(em), weights, settings=CPU, classes=("membrane", *NAMES)
    )
    known = dict(zip(NAMES, said, strict=True))
    settings = way.model_copy(update={"threshold": weights.card.threshold})
    expected = api.segment(p, settings=settings, affinities=known)
    np.testing.assert_array_equal(values(row.outputs[0]), p)
    np.testing.assert_array_equal(values(row.outputs[1]), expected)
    assert (expected != api.segment(p, settings=settings)).any()
    assert read_provenance(row.outputs[1]).settings["affinities"] == list(NAMES)
    assert not (job.out / ".emseg-batch").exists()


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Probabilities of seven drawn sections; the fifth says nothing."""
    cells = np.asarray(synthetic((7, 96, 150), seed=2)[1])
    membrane = np.where(cells == 0, 255, np.arange(96)[:, None] // 2).astype(np.uint8)
    membrane[4] = 0
    made = Provenance(kind="membrane", threshold=0.5, scale=255.0)
    return save_stack(tmp_path / "given.tif", membrane, provenance=made)


def test_blocks_are_those_of_segment(make_job, given, monkeypatch) -> None:
    """A volume that is larger than one piece; blocks are as large as `segment` has."""
    sides, margin = (20, 32, 64), 8
    monkeypatch.setattr(volume, "WHOLE", 1)
    monkeypatch.setattr(volume, "BLOCK", sides)
    monkeypatch.setattr(volume, "MARGIN", margin)
    job = make_job(str(given), use=None, steps=("cells",), cells=WAYS[0])
    records: list = []
    (row,) = run(job, records).rows
    assert "no probabilities" in row.warnings[0]
    p = values(given).astype(np.float32) / np.float32(255)
    p[4] = np.nan
    with_stand_in = p.copy()
    with_stand_in[4] = np.float32(0.5) * p[3] + np.float32(0.5) * p[5]
    expected = drain(
        iter_segment_volume(
            *(with_stand_in, WAYS[0]),
            **{"absent": [4], "whole": 1, "block": sides, "margin": margin},
        )
    )
    assert expected.max() > 5
    np.testing.assert_array_equal(values(row.outputs[0]), expected)
    shares = [r.row.share for r in records if isinstance(r, RowChanged)]
    # told of block by block
    assert sum(0.1 < share < 0.9 for share in shares) >= 9


def test_runs_of_sections_are_one_graph(make_job, given, monkeypatch) -> None:
    monkeypatch.setattr(stack_cells, "SECTIONS", 2)
    monkeypatch.setattr(context, "DEEPEST", 2)
    job = make_job(str(given), use=None, steps=("cells",), cells=WAYS[1])
    (row,) = run(job).rows
    expected = as_segment(given, WAYS[1])
    assert not expected[4].any()
    assert np.intersect1d(expected[3], expected[5]).size > 1
    np.testing.assert_array_equal(values(row.outputs[0]), expected)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.through)
def test_a_stack_that_says_nothing_has_no_cells(make_job, tmp_path, way) -> None:
    membrane = np.zeros((3, 40, 50), np.float32)
    blank = save_stack(tmp_path / "blank.tif", membrane)
    job = make_job(str(blank), use=None, steps=("cells",), cells=way, table=True)
    (row,) = run(job).rows
    assert (row.state, row.cells) == ("done", 0)
    assert "sections 0, 1, 2 have no probabilities" in row.warnings[0]
    assert not values(row.outputs[0]).any()


def always(odds: float) -> EdgeClassifier:
    """Say the same of all edges."""
    kinds = {
        kind: {
            "mean": [0.0] * n,
            "scale": [1.0] * n,
            "networks": [[[[[0.0]] * n, [odds]]]],
        }
        for kind, n in SEEN.items()
    }
    return EdgeClassifier(kinds, {"about": f"drawn, {odds:+g}"})


def test_a_project_goes_by_its_own_classifier_of_edges(make_job, em, tmp_path) -> None:
    apart, together = always(-9.0), always(9.0)
    folder = tmp_path / "p.emseg"
    with Project.create(folder, open_stack(em)) as project:
        project.tell_edges(apart)
    graph = WAYS[1]
    words = (str(folder), str(em))
    job = make_job(*words, cells=graph)
    work = run_batch(job)
    for record in work:
        if isinstance(record, RowChanged) and record.row.step == "paint":
            break
    work.close()
    # an earlier version went by the usual one
    memory = job.folder / "batch.json"
    text = memory.read_text()
    memory.write_text(text.replace(f"-edges-{apart.sha256}", ""))
    with pytest.raises(DifferentBatchError, match=r"edges of p was none, is .+…"):
        run(make_job(*words, cells=graph, resume=True))
    memory.write_text(text)
    # the batch goes on by its copy where the project's file is gone
    (folder / "weights" / f"edges-{apart.sha256[:16]}.json").unlink()
    own, usual = run(make_job(*words, cells=graph, resume=True)).rows
    membrane = own.outputs[0]
    expected = as_segment(membrane, graph, classifier=apart)
    np.testing.assert_array_equal(values(own.outputs[1]), expected)
    assert not np.intersect1d(expected[0], expected[1]).any()
    assert read_provenance(own.outputs[1]).settings["edges"] == apart.name
    assert own.warnings == (
        f"edges are weighed by the project's classifier: {apart.name}",
    )
    np.testing.assert_array_equal(values(usual.outputs[1]), as_segment(membrane, graph))
    # the one that is chosen for the batch counts for all
    chosen = replace(make_job(*words, cells=graph), edges=together)
    assert {p.context.edges_name for p in plan_batch(chosen).planned if p} == {
        together.name
    }
    (folder / "weights" / f"edges-{apart.sha256[:16]}.json").write_text("{}")
    other = make_job(*words, cells=graph, out="other")
    row, _ = plan_batch(other).rows
    assert "classifier of edges can't be read" in row.warnings[0]
    assert plan_batch(make_job(str(folder))).planned[0] is not None


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_cells, "SECTIONS", 3)
    monkeypatch.setattr(volume, "WHOLE", 1)
    monkeypatch.setattr(volume, "BLOCK", (20, 96, 64))
    monkeypatch.setattr(context, "DEEPEST", 2)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.through)
def test_it_goes_on_where_it_was_broken_off(make_job, given, way) -> None:
    chosen = {"use": None, "steps": ("cells",), "cells": way}
    whole = run(make_job(str(given), out="whole", **chosen))
    stages = ("fragments", "join", "paint", "write")
    for step in stages:
        work = run_batch(make_job(str(given), resume=step != stages[0], **chosen))
        for record in work:
            if isinstance(record, RowChanged) and record.row.step == step:
                break
        else:
            pytest.fail(f"it never came to {step}")
        work.close()
    second = run(make_job(str(given), resume=True, **chosen))
    assert second.ok
    # masks of four parts, fragments, joining, and painting of four parts at least
    assert second.reused >= 9
    one, other = (values(each.rows[0].outputs[0]) for each in (whole, second))
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "file"), [(WAYS[0], "empty.zarr/c/4"), (WAYS[1], "tables/edges-0.npz")]
)
def test_everything_killed(make_job, given, tmp_path, monkeypatch, way, file) -> None:
    """While fragments are found in 3-D, and when they were in sections."""
    monkeypatch.setattr(context, "DEEPEST", 2)  # as `program.py` has it
    out, script = tmp_path / "killed", Path(__file__).with_name("program.py")
    words = [sys.executable, str(script), str(given), "--out", str(out)]
    words += ["--steps", "cells", "--minimum-size", "5", "--through", way.through]
    words += ["--device", "cpu", "--runtime", "torch", "--invert", "no"]
    found = out / ".emseg-batch" / "given" / file
    with subprocess.Popen(words, start_new_session=True) as program:
        until = time.monotonic() + 300
        while not found.exists() and program.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
    done = not (out / ".emseg-batch").exists()
    chosen = {"use": None, "steps": ("cells",), "cells": way}
    second = run(make_job(str(given), out="killed", resume=True, **chosen))
    assert second.ok
    assert done or second.reused > 0
    np.testing.assert_array_equal(
        values(second.rows[0].outputs[0]), as_segment(given, way)
    )


MEASURED = """
import sys
from pathlib import Path

from napari_emseg.batch import BatchConfig, BatchSettings, find_inputs, run_batch
from napari_emseg.batch.where import share_arenas
from napari_emseg.core.records import drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.segmentation import volume

share_arenas()  # as the command line does
# all volumes are worked in blocks
volume.WHOLE, volume.BLOCK, volume.MARGIN = 1, (16, 96, 96), 4
path, way = sys.argv[1:]
settings = BatchSettings(steps=("cells",), cells=CellSettings(through=way))
job = BatchConfig(find_inputs([path]), Path(path).with_suffix(""), None, settings)
assert drain(run_batch(job)).ok
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line for line in lines if line.startswith("VmHWM")).split()[1])
"""


class Repeated:
    """Sections over and over again, to and fro."""

    def __init__(self, data: np.ndarray, n: int) -> None:
        self.shape, self.dtype = (n, *data.shape[1:]), data.dtype
        self._data = data

    def __getitem__(self, z: Any, /) -> np.ndarray:
        length = len(self._data)
        there, back = divmod(int(z) % (2 * length), length)
        return self._data[length - 1 - back if there else back]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("way", ["3-d", "graph"])
def test_memory_does_not_grow_with_the_number_of_sections(tmp_path, way) -> None:
    """Ids and places of the larger stack are 106 MB more than those of the smaller."""
    cells = np.asarray(synthetic((8, 192, 192), seed=2)[1])
    membrane = np.where(cells == 0, 255, 20).astype(np.uint8)
    made = Provenance(kind="membrane", threshold=0.5, scale=255.0)
    peak = {}
    for n in (80, 320):
        given = Stack(Repeated(membrane, n), voxel_size_nm=(10, 10, 10))
        path = save_stack(tmp_path / f"s{n}.tif", given, provenance=made)
        words = [sys.executable, "-c", MEASURED, str(path), way]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peak[n] = int(done.stdout.split()[-1]) / 1000
    assert peak[320] < 1.1 * peak[80], peak


def test_auto_goes_by_the_voxel_size_of_each_input(make_job, em, tmp_path) -> None:
    stack = np.asarray(open_stack(em).data[:2])
    cubes = save_stack(tmp_path / "cubes.tif", stack, voxel_size_nm=(4, 4, 4))
    bare = save_stack(tmp_path / "bare.tif", stack)
    auto = CellSettings(through="auto")
    plan = plan_batch(make_job(str(em), str(cubes), str(bare), cells=auto))
    ways = [planned.context.through for planned in plan.planned if planned]
    assert ways == ["graph", "3-d", "sections"]
    assert plan.rows[2].warnings == (
        "cells are found section by section, since its voxel size is unknown",
    )


def test_large_sections_are_refused_with_what_ends_it(make_job) -> None:
    (row,) = plan_batch(make_job(cells=WAYS[0], whole=64)).rows
    assert isinstance(row.error, WholeSectionsError)
    assert row.error.remedies == {"whole": 190}


def test_section_by_section_is_known_again_as_before(make_job) -> None:
    """Ledgers of versions that knew of no other way are gone on with."""
    assert "through" not in facts_of(make_job())["cells"]
    assert facts_of(make_job(cells=WAYS[0]))["cells"]["through"] == "3-d"
    alone = facts_of(make_job(cells=WAYS[0], steps=("membranes",)))
    assert "through" not in alone["cells"]
