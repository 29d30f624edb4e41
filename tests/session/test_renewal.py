from __future__ import annotations

from napari_emseg.core.records import drain
from napari_emseg.session import Region, Session

ALL = Region((0, 1, 2, 3))


def find_cells(session: Session, threshold: float) -> None:
    update = {"link": True, "threshold": threshold}
    session.cell_settings = session.cell_settings.model_copy(update=update)
    drain(session.stages.segment(ALL).work)


def test_of_runs_that_cannot_be_undone_nothing_is_remembered(session: Session) -> None:
    drain(session.stages.predict(ALL).work)
    hand = session.correcting()
    for threshold in (0.2, 0.8, 0.2):
        find_cells(session, threshold)
    steps = len(hand.history.undoable)
    assert len(hand._renewal._links) == steps > 1
    hand.history.clear()
    find_cells(session, 0.8)
    assert len(hand.history.undoable) == len(hand._renewal._links) == 1
