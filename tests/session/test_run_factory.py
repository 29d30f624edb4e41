from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from thin import thin_weights

from napari_emseg.core.records import (
    Note,
    Progress,
    Provenance,
    SectionDone,
    TileDone,
    drain,
)
from napari_emseg.core.regions import Area
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.session import RunScope, Session, from_here
from napari_emseg.session.exports import Target, saving_class
from napari_emseg.session.run_factory import RunFactory
from napari_emseg.session.runs import affinities_of


def results(session: Session):
    assert session.source is not None
    return session.source.results


def test_prediction_equals_the_one_call_function(session, runs, drawn_stack) -> None:
    import napari_emseg

    run = runs.predict(RunScope((2, 3, 0, 1)))
    drain(run.work)
    settings = session.predict_settings
    expected = napari_emseg.predict(drawn_stack[0], session.weights, settings=settings)
    np.testing.assert_array_equal(results(session).probabilities, expected)
    np.testing.assert_array_equal(results(session).membranes, expected > 0.4)


def test_every_class_of_the_weights_gets_probabilities(
    session, runs, drawn_stack, tmp_path
) -> None:
    import napari_emseg

    further = ("mitochondria", "vesicles")
    weights = thin_weights(tmp_path, "taught", further=further)
    session.choose_weights(weights)
    run = runs.predict(RunScope((0, 1)))
    assert run.classes == further
    drain(run.work)
    expected = napari_emseg.predict(
        drawn_stack[0],
        weights,
        sections=(0, 1),
        classes=("membrane", *further),
        settings=session.predict_settings,
    )
    there = results(session)
    assert there.classes == further
    np.testing.assert_array_equal(there.probabilities[:2], expected[0])
    for name, values in zip(further, expected[1:], strict=True):
        np.testing.assert_array_equal(there.of_class(name)[:2], values)
        assert values.max() > 0
        assert there.class_provenance[name].kind == f"class {name}"
        assert there.class_provenance[name].weights == "taught"
    assert not there.of_class("mitochondria")[2:].any()
    session.exclude(1)
    drain(runs.predict(RunScope((0,))).work)
    assert not there.of_class("mitochondria")[1].any()


AFFINITIES = ("affinity z1", "affinity y1", "affinity x1")


def test_affinities_are_kept_for_cells_through_the_stack(
    session, runs, drawn_stack, tmp_path
) -> None:
    import napari_emseg

    weights = thin_weights(tmp_path, "sure", further=("vesicles", *AFFINITIES))
    session.choose_weights(weights)
    session.cell_settings = CellSettings(through="graph", minimum_size=20)
    run = runs.predict(RunScope((0, 1, 2, 3)))
    assert run.classes == ("vesicles",)
    drain(run.work)
    there = results(session)
    assert there.classes == ("vesicles",)
    assert there.with_affinities == {0, 1, 2, 3}
    p, *said = napari_emseg.predict(
        drawn_stack[0],
        weights,
        classes=("membrane", *AFFINITIES),
        settings=session.predict_settings,
    )
    for name, values in zip(AFFINITIES, said, strict=True):
        np.testing.assert_array_equal(there.affinities[name], values)
    drain(runs.segment(RunScope((0, 1, 2, 3))).work)
    expected = napari_emseg.segment(
        p,
        settings=session.cell_settings,
        source=drawn_stack[0],
        affinities=dict(zip(AFFINITIES, said, strict=True)),
    )
    np.testing.assert_array_equal(there.cells, expected)
    made = session.source.cells_provenance(session.cell_settings, 4)
    assert made.settings["affinities"] == list(AFFINITIES)
    # drawn by hand: a membrane there, whatever the network says
    there.corrections[1, 10:12, 10:12] = 1
    area: Area = (slice(0, 96), slice(0, 112))
    faces = affinities_of(session.source, area).sections(0, 4)
    assert (faces[2][1, 10:12, 10:12] == 1).all()


def test_sections_of_a_run_without_affinities_have_none(
    session, runs, tmp_path
) -> None:
    session.choose_weights(thin_weights(tmp_path, "sure", further=AFFINITIES))
    session.cell_settings = CellSettings(through="graph")
    drain(runs.predict(RunScope((0, 1, 2))).work)
    session.choose_weights(thin_weights(tmp_path, "without"))
    area: Area = (slice(10, 50), slice(20, 90))
    drain(runs.predict(RunScope((1,), area)).work)
    faces = affinities_of(session.source, (slice(0, 96), slice(0, 112))).sections(0, 3)
    assert np.isnan(faces[1][1][area]).all()
    assert not np.isnan(faces[1][1, 60:]).any()
    assert not np.isnan(faces[1][2, 1:]).any()
    session.exclude(2)
    drain(runs.predict(RunScope((0,))).work)
    assert results(session).with_affinities == {1}


def test_a_class_is_saved_as_probabilities(session, runs, tmp_path) -> None:
    target = Target(tmp_path / "m.tif", "tiff", stored="uint8")
    with pytest.raises(ValueError, match="has no mitochondria yet"):
        saving_class(session.source, "mitochondria", target)
    session.choose_weights(thin_weights(tmp_path, "taught", further=("mitochondria",)))
    drain(runs.predict(RunScope((0, 1, 2, 3))).work)
    path = drain(saving_class(session.source, "mitochondria", target))
    saved = open_stack(path)
    values = results(session).of_class("mitochondria")
    made = Provenance.model_validate(saved.metadata["emseg"])
    assert (made.kind, made.scale) == ("class mitochondria", 255)
    np.testing.assert_array_equal(saved.data[:], np.rint(values * 255))
    # it is no membrane: 3 Cells must not take it for one
    assert not session.select("b", saved).is_probabilities


def test_sections_come_in_the_order_that_was_asked_for(session, runs) -> None:
    run = runs.predict(RunScope(from_here(range(4), 2)))
    done: list[int] = []
    drain(run.work, lambda r: done.append(r.z) if isinstance(r, SectionDone) else None)
    assert done == [2, 3, 0, 1]


def test_a_scoped_run_leaves_the_rest_alone(session, runs) -> None:
    area: Area = (slice(10, 50), slice(20, 90))
    drain(runs.predict(RunScope((1,), area)).work)
    there = results(session)
    assert there.predicted == (1,)
    assert there.probabilities[1][area].any()
    outside = np.ones(there.shape, bool)
    outside[1][area] = False
    assert not there.probabilities[outside].any()
    np.testing.assert_array_equal(there.unknown(1), outside[1])


def test_excluded_sections_are_skipped_and_forgotten(session, runs) -> None:
    drain(runs.predict(RunScope((0, 1))).work)
    session.exclude(1)
    drain(runs.predict(RunScope((0, 1))).work)
    assert results(session).predicted == (0,)
    assert not results(session).probabilities[1].any()
    with pytest.raises(ValueError, match="every section of this run is excluded"):
        runs.predict(RunScope((1,)))


def test_stopping_keeps_what_is_finished(session, runs) -> None:
    run = runs.predict(RunScope((0, 1, 2, 3)))
    for record in run.work:
        if isinstance(record, SectionDone):
            break
    run.work.close()
    assert results(session).unknown(0) is None
    assert results(session).probabilities[0].any()


def test_cells_are_found_where_membranes_are(session, runs, drawn_stack) -> None:
    drain(runs.predict(RunScope((0, 1, 2, 3))).work)
    drain(runs.segment(RunScope((0, 1, 2, 3))).work)
    cells = results(session).cells
    assert cells.dtype == np.uint32
    truth = drawn_stack[1]
    for z in range(4):
        largest = np.bincount(truth[z].ravel())[1:].argmax() + 1
        inside = cells[z][truth[z] == largest]
        assert (inside == np.bincount(inside).argmax()).mean() > 0.8


def test_cells_of_several_runs_never_share_an_id(session, runs) -> None:
    drain(runs.predict(RunScope((0, 1, 2, 3))).work)
    for z in (0, 1):
        drain(runs.segment(RunScope((z,))).work)
    cells = results(session).cells
    first, second = (set(np.unique(cells[z])) - {0} for z in (0, 1))
    assert first
    assert second
    assert not first & second


def test_no_cells_where_nothing_was_predicted(session, runs) -> None:
    area: Area = (slice(0, 96), slice(0, 56))
    drain(runs.predict(RunScope((1,), area)).work)
    drain(runs.segment(RunScope((0, 1, 2))).work)
    cells = results(session).cells
    assert cells[1][area].any()
    assert not cells[1][:, 57:].any()
    assert not cells[[0, 2, 3]].any()


def test_cells_of_a_rectangle_stay_in_it(session, runs) -> None:
    drain(runs.predict(RunScope((1,))).work)
    area: Area = (slice(30, 60), slice(40, 80))
    drain(runs.segment(RunScope((1,), area)).work)
    cells = results(session).cells[1].copy()
    assert cells[area].any()
    cells[area] = 0
    assert not cells.any()


def test_a_threshold_is_cut_anew(session, runs) -> None:
    drain(runs.predict(RunScope((0, 1))).work)
    session.cell_settings = CellSettings(threshold=0.9)
    drain(runs.cut().work)
    there = results(session)
    np.testing.assert_array_equal(there.membranes, there.probabilities > 0.9)


def test_probabilities_can_be_the_stack_itself(drawing) -> None:
    stack = Stack(
        np.round(drawing.membrane * 255).astype(np.uint8)[None],
        metadata={"emseg": {"kind": "membrane", "scale": 255.0}},
    )
    session = Session()
    session.select("p", stack)
    runs = RunFactory(session)
    with pytest.raises(ValueError, match="holds probabilities already"):
        runs.predict(RunScope((0,)))
    drain(runs.segment(RunScope((0,))).work)
    assert results(session).cells.any()
    np.testing.assert_array_equal(results(session).membranes[0], drawing.membrane > 0.5)


@pytest.mark.parametrize("what", ["predict", "segment", "cut"])
def test_without_a_stack_it_says_what_to_do(what) -> None:
    call = getattr(RunFactory(Session()), what)
    with pytest.raises(ValueError, match="1 Data"):
        call() if what == "cut" else call(RunScope((0,)))


def test_cells_before_membranes_say_what_to_do(session, runs) -> None:
    with pytest.raises(ValueError, match="run 2 Membranes first"):
        runs.segment(RunScope((0,)))


def test_an_absurd_voxel_size_is_refused_at_once(session, runs, tmp_path) -> None:
    session.choose_weights(thin_weights(tmp_path, pixel_size_nm=(4000, 4000)))
    with pytest.raises(ValueError, match="check the voxel size"):
        runs.predict(RunScope((0,)))


def test_rescaling_is_told_and_undone(session, runs, tmp_path) -> None:
    session.choose_weights(thin_weights(tmp_path, pixel_size_nm=(3, 3)))
    said: list[str] = []
    run = runs.predict(RunScope((0,)))
    drain(run.work, lambda r: said.append(r.message) if isinstance(r, Note) else None)
    assert any("4 → 3 nm/px" in note for note in said)
    assert results(session).unknown(0) is None


def test_the_estimate_counts_the_tiles_of_the_run(session, runs) -> None:
    region = RunScope((0, 1, 2))
    tiles = 0
    for record in runs.predict(region).work:
        tiles += isinstance(record, TileDone)
    assert runs.estimate(region).tiles == tiles
    session.exclude(0)
    assert runs.estimate(region).sections == 2


def test_a_session_that_estimates_loads_no_torch(tmp_path) -> None:
    thin_weights(tmp_path)
    code = f"""
import sys
import numpy as np
from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import read_weights
from napari_emseg.session import RunScope, Session
from napari_emseg.session.run_factory import RunFactory
from pathlib import Path
session = Session()
session.select("a", Stack(np.zeros((2, 64, 64), np.uint8)))
session.choose_weights(read_weights(Path({str(tmp_path / "thin.safetensors")!r})))
assert RunFactory(session).estimate(RunScope((0, 1))).sections == 2
assert not {{"torch", "qtpy", "napari"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_takes_long_is_named_the_first_time(runs) -> None:
    def phases(run) -> list[str]:
        found: list[str] = []
        drain(run.work, lambda r: found.append(r.step) if is_phase(r) else None)
        return found

    def is_phase(record) -> bool:
        return isinstance(record, Progress) and not record.total

    everything = RunScope((0, 1, 2, 3))
    preparing = "preparing the network (first time only)"
    assert preparing in phases(runs.predict(everything))
    assert phases(runs.predict(everything)) == []
    drain(runs.segment(everything).work)  # of this process, the first or not
    assert phases(runs.segment(everything)) == []
