from __future__ import annotations

import numpy as np
from scipy import ndimage as ndi

from napari_emseg.core.records import Provenance, drain
from napari_emseg.core.stack import Stack
from napari_emseg.proofreading import paint
from napari_emseg.session import RunScope, Session
from napari_emseg.session.run_factory import RunFactory

ALL = RunScope((0, 1, 2, 3))


def find_cells(session: Session, threshold: float) -> None:
    update = {"link": True, "threshold": threshold}
    session.cell_settings = session.cell_settings.model_copy(update=update)
    drain(RunFactory(session).segment(ALL).work)


def test_of_runs_that_cannot_be_undone_nothing_is_remembered(
    session: Session, runs: RunFactory
) -> None:
    drain(runs.predict(ALL).work)
    hand = session.correcting()
    for threshold in (0.2, 0.8, 0.2):
        find_cells(session, threshold)
    steps = len(hand.history.undoable)
    assert len(hand._renewal._found) == steps > 1
    hand.history.clear()
    find_cells(session, 0.8)
    assert len(hand.history.undoable) == len(hand._renewal._found) == 1


def test_undo_of_a_run_gives_back_where_cells_were_found(
    session: Session, runs: RunFactory
) -> None:
    drain(runs.predict(ALL).work)
    source = session.source
    assert source is not None
    results = source.results
    find_cells(session, 0.2)
    found = results.found_cells
    assert sorted(found.segmented) == [0, 1, 2, 3]
    session.correcting().undo()
    assert results.segmented == {}
    session.correcting().redo()
    assert results.found_cells == found


def test_undo_of_clearing_gives_back_where_cells_were_found(
    session: Session, runs: RunFactory
) -> None:
    drain(runs.predict(ALL).work)
    source = session.source
    assert source is not None
    results = source.results
    find_cells(session, 0.2)
    found, cells = results.found_cells, results.cells.copy()
    session.correcting().clear([1, 2])
    assert sorted(results.segmented) == [0, 3]
    session.correcting().undo()
    assert results.found_cells == found
    assert (results.cells == cells).all()


def test_a_cell_painted_within_another_is_not_linked_to_it(
    session: Session, runs: RunFactory
) -> None:
    drain(runs.predict(ALL).work)
    find_cells(session, 0.5)
    hand = session.correcting()
    cells = hand.results.cells
    depth = ndi.distance_transform_edt(np.pad(cells[1], 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    around, own = cells[1, y, x], int(cells.max()) + 1
    area = slice(y - 6, y + 7), slice(x - 6, x + 7)
    hand.do(paint(hand.sheet(1), "cells", np.ones((13, 13), bool), area, own))
    find_cells(session, 0.5)
    assert cells[1, y, x] == own
    assert (cells == own).sum() == (cells[1][area] == own).sum() > 16
    assert (cells[1] == around).any()


def test_membrane_taken_away_at_the_border_is_inside_not_without_a_picture() -> None:
    """Exact zeros there are where nothing was predicted."""
    p = np.full((1, 60, 60), 0.05, np.float32)
    p[:, :, 20:40] = 0.95
    made = Provenance(kind="membrane").model_dump(mode="json")
    session = Session()
    session.select("p", Stack(p, metadata={"emseg": made}))
    hand, where = session.correcting(), np.zeros((60, 60), bool)
    where[:, 20:40] = True
    area = slice(0, 60), slice(0, 60)
    hand.do(paint(hand.sheet(0), "membranes", where, area, 0))
    drain(RunFactory(session).segment(RunScope((0,))).work)
    assert session.source is not None
    assert (session.source.results.cells == 1).all()
