"""Cell settings tried on one section, without a window."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emseg.core.records import Provenance, drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.segmentation import segment_section
from napari_emseg.session import Session
from napari_emseg.session.run_factory import RunFactory
from napari_emseg.session.run_scope import RunScope
from napari_emseg.session.runs import AgglomerationPreview

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
