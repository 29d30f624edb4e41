"""Cell settings tried on one section, without a window."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emseg.core.labels import touching
from napari_emseg.core.records import Provenance, drain
from napari_emseg.core.regions import RunScope
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.proofreading import lock, merge_through, split_through
from napari_emseg.segmentation import segment_section
from napari_emseg.session import Session
from napari_emseg.session.run_factory import RunFactory
from napari_emseg.session.threshold_preview import (
    AgglomerationPreview,
    CellsKept,
)

LOOSE = CellSettings(minimum_size=20, join=0.95)


@pytest.fixture
def session(drawing) -> Session:
    """Two sections of probabilities that have cells."""
    made = Provenance(kind="membrane").model_dump(mode="json")
    p = np.stack([drawing.membrane, drawing.membrane])
    session = Session()
    session.select("p", Stack(p, metadata={"emseg": made}))
    session.cell_settings = CellSettings(minimum_size=20)
    drain(RunFactory(session).segment(RunScope((0, 1))).work)
    return session


def tried(session: Session, settings: CellSettings = LOOSE) -> AgglomerationPreview:
    recuts = RunFactory(session).recuts()
    drain(recuts.find(0, settings))
    recuts.show(0, settings)
    return recuts


def test_a_trial_shows_cells_of_other_settings_with_known_ids(session, drawing) -> None:
    cells = session.source.results.cells
    before = cells.copy()
    tried(session)
    wanted = segment_section(drawing.membrane, LOOSE)
    assert (
        len(np.unique(cells[0])) == len(np.unique(wanted)) < len(np.unique(before[0]))
    )
    np.testing.assert_array_equal(cells[0] > 0, wanted > 0)
    assert set(np.unique(cells[0])) <= set(np.unique(before[0]))
    np.testing.assert_array_equal(cells[1], before[1])


def test_new_cells_get_ids_that_no_other_section_has(session) -> None:
    cells = session.source.results.cells
    recuts = tried(session)
    recuts.keep()
    recuts.show(0, CellSettings(minimum_size=0, join=0.0))
    assert len(np.unique(cells[0])) > 4
    assert not set(np.unique(cells[0])) & (set(np.unique(cells[1])) - {0})


def test_a_trial_is_dropped_or_kept_as_one_step(session) -> None:
    results = session.source.results
    before = results.cells.copy()
    recuts = tried(session)
    recuts.show(0, CellSettings(minimum_size=0, join=0.2))
    recuts.show(0, LOOSE)
    recuts.drop()
    np.testing.assert_array_equal(results.cells, before)
    assert not recuts.on_trial
    recuts.show(0, LOOSE)
    recuts.keep()
    assert not np.array_equal(results.cells, before)
    session.correcting().undo()
    np.testing.assert_array_equal(results.cells, before)


def test_fragments_are_found_anew_when_their_probabilities_change(session) -> None:
    recuts = tried(session)
    assert recuts.knows(0, CellSettings(join=0.1))
    assert not recuts.knows(1, LOOSE)
    assert not recuts.knows(0, CellSettings(threshold=0.4))
    session.source.results.corrections[0, 4, 4] = 1
    assert not recuts.knows(0, LOOSE)
    with pytest.raises(ValueError, match="must be found first"):
        recuts.show(0, LOOSE)


def test_reviewed_sections_and_those_without_cells_are_left_alone(
    session, runs
) -> None:
    recuts = runs.recuts()
    assert recuts.able(0)
    session.source.editor.reviewed = frozenset({0})
    assert not recuts.able(0)
    session.source.editor.clear([1])
    assert not recuts.able(1)


def test_cells_are_not_cut_anew_of_membranes_that_are_gone(
    session, monkeypatch
) -> None:
    """As those of a project are that was opened again."""
    results, recuts = session.source.results, RunFactory(session).recuts()
    monkeypatch.setattr(type(session.source), "is_probabilities", False)
    results.note_predicted(0, tuple(slice(0, n) for n in results.shape[1:]))
    assert recuts.able(0)
    assert not recuts.able(1)
    assert recuts.missing(1) == [1]
    stack = CellSettings(through="3-d")
    assert recuts.missing(0, stack) == [1]
    assert not recuts.able(0, stack)


@pytest.fixture(params=["3-d", "graph"])
def through(request) -> Session:
    """Two tubes side by side, with a weak wall between, found through the stack."""
    p = np.full((4, 30, 60), 0.95, np.float32)
    p[:, 5:25, 5:29] = p[:, 5:25, 31:55] = 0.05
    p[:, 5:25, 29:31] = 0.7
    made = Provenance(kind="membrane").model_dump(mode="json")
    session = Session()
    session.select("p", Stack(p, metadata={"emseg": made}))
    tight = CellSettings(minimum_size=20, join=0.4, through=request.param)
    session.cell_settings = tight
    drain(RunFactory(session).segment(RunScope((0, 1, 2, 3))).work)
    return session


def test_a_run_through_the_stack_is_linked_and_one_step(through) -> None:
    results = through.source.results
    assert results.linked
    assert set(np.unique(results.cells)) - {0} == {1, 2}
    assert (results.cells[:, 15, 15] == 1).all()
    assert (results.cells[:, 15, 45] == 2).all()
    through.correcting().undo()
    assert not results.cells.any()


def test_a_trial_through_the_stack_is_shown_here_and_kept_everywhere(through) -> None:
    cells = through.source.results.cells
    before = cells.copy()
    loose = through.cell_settings.model_copy(update={"join": 0.99})
    recuts = RunFactory(through).recuts()
    assert recuts.able(1, loose)
    drain(recuts.find(1, loose))
    assert recuts.knows(3, loose), "fragments are those of all sections"
    recuts.show(1, loose)
    assert cells[1, 15, 15] == cells[1, 15, 45] > 0
    np.testing.assert_array_equal(cells[[0, 2, 3]], before[[0, 2, 3]])
    recuts.drop()
    np.testing.assert_array_equal(cells, before)
    recuts.show(1, loose)
    recuts.keep()
    assert len(np.unique(cells[cells > 0])) == 1
    assert (cells[:, 15, 15] == cells[:, 15, 45]).all()
    assert through.source.results.linked
    through.correcting().undo()
    np.testing.assert_array_equal(cells, before)


def test_a_trial_that_joins_as_a_run_did_changes_nothing(through) -> None:
    cells = through.source.results.cells
    before = cells.copy()
    touch = through.cell_settings.through == "3-d"
    assert bool(touching(before).any()) == touch
    like = through.cell_settings.model_copy(update={"join": 0.3})
    recuts = RunFactory(through).recuts()
    drain(recuts.find(1, like))
    recuts.show(1, like)
    recuts.keep()
    np.testing.assert_array_equal(cells, before)


def test_what_a_trial_keeps_is_what_a_run_gives_and_locks_stay(through) -> None:
    editor, results = through.source.editor, through.source.results
    editor.do(lock(editor.sheet(0), (15, 15)))
    locked = results.cells == 1
    loose = through.cell_settings.model_copy(update={"join": 0.99})
    recuts = RunFactory(through).recuts()
    drain(recuts.find(0, loose))
    recuts.show(0, loose)
    recuts.keep()
    np.testing.assert_array_equal(results.cells == 1, locked)
    kept = results.cells.copy()
    through.cell_settings = loose
    drain(RunFactory(through).segment(RunScope((0, 1, 2, 3))).work)
    np.testing.assert_array_equal(results.cells, kept)


def test_a_merge_by_hand_is_kept_by_the_slider_and_by_a_run(through) -> None:
    editor, results = through.source.editor, through.source.results
    found = results.cells.copy()
    editor.do(merge_through(editor.linked, (0, (15, 15)), (2, (15, 45))))
    recuts = RunFactory(through).recuts()
    tried = through.cell_settings.model_copy(update={"join": 0.39})
    drain(recuts.find(0, tried))
    recuts.show(0, tried)
    assert drain(recuts.iter_keep()) == CellsKept(1, 4, constraints=(1, 1))
    assert (results.cells[:, 15, 15] == results.cells[:, 15, 45]).all()
    through.cell_settings = tried
    run = RunFactory(through).segment(RunScope((0, 1, 2, 3)))
    assert drain(run.work).constraints == (1, 1)
    made = through.source.cells_provenance(tried, 4)
    assert made.settings["constraints"] == 1
    assert set(np.unique(results.cells)) - {0} == {1}
    while editor.constraints:
        editor.undo()
    editor.linked.settle_all()
    np.testing.assert_array_equal(results.cells, found)
    # nobody says so any more
    drain(recuts.find(0, tried))
    recuts.show(0, tried)
    assert drain(recuts.iter_keep()).cells == 2


def test_a_split_by_hand_is_kept_and_undone_bit_by_bit(through) -> None:
    editor, results = through.source.editor, through.source.results
    before = results.cells.copy()
    editor.do(split_through(editor.linked, (2, (15, 15))))
    loose = through.cell_settings.model_copy(update={"join": 0.45})
    through.cell_settings = loose
    run = RunFactory(through).segment(RunScope((0, 1, 2, 3)))
    assert drain(run.work).constraints == (1, 1)
    one, other = results.cells[1, 15, 15], results.cells[2, 15, 15]
    assert one != other
    assert (results.cells[:2, 15, 15] == one).all()
    assert (results.cells[2:, 15, 15] == other).all()
    assert (results.cells[:, 15, 45] == results.cells[0, 15, 45]).all()
    while editor.constraints:
        editor.undo()
    editor.linked.settle_all()
    np.testing.assert_array_equal(results.cells, before)


def test_a_stack_too_large_to_hold_is_not_tried(through, monkeypatch) -> None:
    recuts = RunFactory(through).recuts()
    monkeypatch.setattr("napari_emseg.session.threshold_preview.MOST_VOXELS", 100)
    assert not recuts.able(0, through.cell_settings)
    assert recuts.able(0, CellSettings())
