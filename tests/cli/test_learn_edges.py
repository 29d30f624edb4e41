"""`emseg learn-edges`: corrected cells in, a classifier of edges out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn_edges import drawn, ended
from thin import thin_weights

from napari_emseg.api import learn_edges, segment
from napari_emseg.cli import learn_edges as command
from napari_emseg.core.records import Progress, Provenance, drain
from napari_emseg.core.regions import RunScope
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, save_stack
from napari_emseg.segmentation.edge_classifier import SEEN, EdgeClassifier, read_edges
from napari_emseg.session import Session
from napari_emseg.session.projects import save_project
from napari_emseg.session.run_factory import RunFactory
from napari_emseg.training import edges

LEARN = ("learn-edges", "p.tif", "cells.tif", "edges.json")

FLAT = {
    kind: {"mean": [0.0] * n, "scale": [1.0] * n, "networks": [[[[[0.0]] * n, [0.0]]]]}
    for kind, n in SEEN.items()
}
"""A classifier that says even odds of everything."""


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learnt is compared, and needn't be good."""
    monkeypatch.setattr(edges, "STEPS", 10)
    monkeypatch.setattr(edges, "EPOCHS", 1)


@pytest.fixture
def taught(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write probabilities and cells as emseg and a person leave them."""
    p, cells = drawn(1)
    cells = ended(cells).astype(np.uint32)
    made = Provenance(kind="membrane", weights="w", threshold=0.45)
    save_stack(tmp_path / "p.tif", Stack(p), provenance=made)
    save_stack(tmp_path / "cells.tif", Stack(cells))
    return p, cells


@pytest.mark.usefixtures("without_data")
def test_what_it_writes_is_what_python_learns_and_segment_takes(emseg, taught):
    p, cells = taught
    done = emseg(*LEARN)
    assert done.code == 0, done.err
    expected = learn_edges(p, cells, threshold=0.45)
    assert read_edges(Path("edges.json")).sha256 == expected.sha256
    within, between = expected.about["edges"].values()
    assert f"from {within:,} edges within sections and {between:,} between" in done.out
    assert "from nothing" in done.out
    assert "left-out edges within sections are right" in done.err

    words = ("--through", "graph", "--edges", "edges.json")
    assert emseg("segment", "p.tif", "c.tif", *words).code == 0
    made = segment(p, through="graph", threshold=0.45, edges=expected)
    np.testing.assert_array_equal(open_stack("c.tif").data[:], made)

    refused = emseg(*LEARN)
    assert refused.code == 2
    assert "edges.json exists already; overwrite it with --overwrite" in refused.err
    on = emseg(*LEARN[:3], "on.json", "--start", "edges.json", "--json")
    told = json.loads(on.out)
    assert (told["output"], told["threshold"]) == ("on.json", 0.45)
    assert told["start"] == expected.name
    assert told["edges"] == {"within": within, "between": between}
    both = learn_edges(p, cells, threshold=0.45, start=expected)
    assert read_edges(Path("on.json")).sha256 == both.sha256


@pytest.mark.usefixtures("without_data")
def test_cells_may_be_of_what_is_asked_for_or_of_all(emseg, taught):
    p, cells = taught
    scope = ("--sections", "1:6", "--roi", "0:120,4:128", "--exclude", "4")
    assert emseg(*LEARN, *scope).code == 0
    part = np.where(np.arange(6)[:, None, None] == 4, np.float32(np.nan), p)
    area = (slice(1, 6), slice(0, 120), slice(4, 128))
    expected = learn_edges(part[area], cells[area], threshold=0.45)
    assert read_edges(Path("edges.json")).sha256 == expected.sha256
    huge = np.where(cells[area] > 0, cells[area] + np.uint64(2**63), np.uint64(0))
    assert learn_edges(part[area], huge, threshold=0.45).sha256 == expected.sha256
    save_stack("cells.tif", Stack(cells[area]), overwrite=True)
    assert emseg(*LEARN, *scope, "--overwrite").code == 0
    assert read_edges(Path("edges.json")).sha256 == expected.sha256


@pytest.mark.usefixtures("without_data")
def test_of_em_it_learns_what_weights_say_of_affinities(emseg, taught, tmp_path):
    p, _ = taught
    weights = thin_weights(tmp_path, further=("affinity z1",))
    grey = np.rint(255 * (1 - p)).astype(np.uint8)
    save_stack("em.tif", Stack(grey))
    words = ("--input-is", "em", "--weights", weights.path, "--threshold", "0.4")
    done = emseg("learn-edges", "em.tif", "cells.tif", "edges.json", *words)
    assert done.code == 0, done.err
    assert read_edges(Path("edges.json")).knows_affinities("between")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Session]:
    """Yield a sitting with p.emseg on em.tif: membranes, and cells all reviewed."""
    p, cells = drawn(1)
    save_stack(tmp_path / "em.tif", Stack(np.rint(255 * (1 - p)).astype(np.uint8)))
    session = Session(cell_settings=CellSettings(through="graph", shift=9))
    session.choose_weights(thin_weights(tmp_path, further=("affinity z1",)))
    source = session.select("em", open_stack(tmp_path / "em.tif"))
    drain(RunFactory(session).predict(RunScope(tuple(range(6)))).work)
    for z, ids in enumerate(ended(cells).astype(np.uint32)):
        source.editor.put_cells(z, (slice(0, 128), slice(0, 128)), ids)
    source.results.note_links(range(6), linked=True)
    source.editor.finish_run()
    save_project(session, tmp_path / "p.emseg")
    for z in range(6):
        session.review(z)
    session.project.flush()
    yield session
    session.forget("em")


@pytest.mark.usefixtures("without_data")
def test_of_a_project_it_learns_what_the_window_does(emseg, project):
    project.redo_reviewed = True
    first = drain(RunFactory(project).learn_edges().work).classifier
    assert first.knows_affinities("between")
    before = contents("p.emseg")
    done = emseg("learn-edges", "p.emseg", "first.json", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert read_edges(Path("first.json")).sha256 == told["sha256"] == first.sha256
    assert told["weights_sha256"] == project.weights.sha256
    assert (told["shift"], told["start_sha256"], told["affinities"]) == (9, None, True)
    assert contents("p.emseg") == before

    project.edges = first
    project.project.flush()
    on = drain(RunFactory(project).learn_edges().work).classifier
    words = ("learn-edges", "p.emseg", "on.json")
    assert f"beginning from the classifier {first.sha256[:8]}" in emseg(*words).out
    assert read_edges(Path("on.json")).sha256 == on.sha256 != first.sha256
    anew = emseg(*words, "--overwrite", "--start", "nothing", "--shift", "9")
    assert "beginning from nothing" in anew.out
    assert read_edges(Path("on.json")).sha256 == first.sha256


def contents(folder: str) -> dict[Path, bytes]:
    """Return what is in the files of a folder."""
    return {f: f.read_bytes() for f in Path(folder).rglob("*") if f.is_file()}


@pytest.mark.usefixtures("without_data")
def test_what_a_project_says_itself_or_lacks_is_refused(emseg, project):
    def refused(*words: str) -> str:
        done = emseg("learn-edges", *words)
        assert (done.code, done.out) == (2, "")
        assert not Path("e.json").exists()
        return done.err

    assert "cells of its own; leave out em.tif" in refused(
        "p.emseg", "em.tif", "e.json"
    )
    assert "--sections is for files" in refused("p.emseg", "e.json", "--sections", "1:")
    assert "--cells.level is for files" in refused(
        *("p.emseg", "e.json", "--cells.level", "0")
    )
    assert "lies in the input p.emseg" in refused("p.emseg", "p.emseg/weights/e.json")
    assert "no such project: q.emseg" in refused("q.emseg", "e.json")
    assert "only em.tif and e.json are named" in refused("em.tif", "e.json")

    project.edges = EdgeClassifier(FLAT, {})
    project.project.flush()
    (kept,) = Path("p.emseg/weights").glob("edges-*.json")
    kept.unlink()
    assert "the project's classifier of edges can't be read" in refused(
        "p.emseg", "e.json"
    )
    for file in Path("p.emseg/weights").glob("*.safetensors"):
        file.unlink()
    nothing = ("p.emseg", "e.json", "--start", "nothing")
    assert "name some with --weights" in refused(*nothing)
    project.review(0, reviewed=False)
    for z in range(1, 6):
        project.review(z, reviewed=False)
    project.project.flush()
    assert "no cell is known to be right through the stack" in refused(*nothing)
    save_stack("em.tif", Stack(np.zeros((6, 128, 128), np.uint8)), overwrite=True)
    assert "em has changed since the project was made" in refused(*nothing)
    Path("em.tif").unlink()
    assert "say where it is now in napari, which asks" in refused(*nothing)


def test_what_teaches_nothing_is_refused_before_anything_is_read(emseg, taught):
    p, cells = taught

    def refused(given: np.ndarray, *more: str, **facts: object) -> str:
        save_stack("cells.tif", Stack(given), overwrite=True, **facts)
        done = emseg(*LEARN, *more)
        assert done.code == 2
        assert done.out == ""
        assert not Path("edges.json").exists()
        return done.err

    assert "all are 0, which says nothing" in refused(np.zeros_like(cells))
    assert "there is one" in refused(cells, "--sections", "2")
    alone = np.where(cells > 0, cells + 1000 * np.arange(6)[:, None, None], 0)
    assert "no id is in two neighbouring sections" in refused(alone.astype(np.uint32))
    assert "cells has 6 × 60 × 128 voxels (z, y, x), but 6 × 128 × 128" in refused(
        cells[:, :60]
    )
    assert "must be whole numbers, got 0.5" in refused(
        np.where(cells > 0, np.float32(0.5), 0)
    )
    made = Provenance(kind="membrane")
    assert "cells holds membrane, not cells" in refused(p, provenance=made)
    one = np.where(cells == cells[0, 64, 64], cells, 0)
    assert "at least 50 are needed" in refused(one)
    assert "p.tif holds no classifier of edges" in refused(cells, "--start", "p.tif")


def test_neither_input_is_replaced_and_cancelling_leaves_nothing(
    emseg, taught, monkeypatch
):
    Path("start.json").write_text("{}")
    assert "must end in .json" in emseg(*LEARN[:3], "p.tif", "--overwrite").err
    monkeypatch.setattr(command, "read_edges", lambda _: None)
    done = emseg(*(*LEARN[:3], "start.json"), *("--start", "start.json", "--overwrite"))
    assert done.code == 2
    assert "start.json is the input" in done.err

    def interrupted(work):
        assert isinstance(next(work), Progress)
        work.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_with_progress", interrupted)
    before = sorted(Path().iterdir())
    assert emseg(*LEARN).code == 130
    assert sorted(Path().iterdir()) == before
