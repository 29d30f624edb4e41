from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_emseg.core.records import Provenance


@pytest.fixture
def predicted(open_window, em):
    """A window whose stack has membranes."""
    window = open_window(em())
    window.choose_scope(window.membranes, "all sections")
    assert window.run(window.membranes).error is None
    return window


def test_before_membranes_it_says_what_to_do(open_window, em) -> None:
    window = open_window(em())
    window.settle()
    assert not window.cells.run.button.isEnabled()
    assert "run 2 Membranes first" in window.cells.state.text()


def test_cells_of_all_sections(predicted) -> None:
    window = predicted
    window.choose_scope(window.cells, "all sections")
    outcome = window.run(window.cells)
    assert outcome.error is None
    cells = window.layer("em cells")
    assert isinstance(cells, Labels)
    assert cells.data.dtype == np.uint32
    assert cells.data.any(axis=(1, 2)).all()
    ids = [set(np.unique(section)) - {0} for section in cells.data]
    assert len(set.union(*ids)) == sum(len(i) for i in ids)
    words = f"{sum(len(i) for i in ids)} cells in 4 sections"
    assert words in window.cells.run.message.text()
    made = Provenance.model_validate(cells.metadata["emseg"])
    assert made.kind == "cells"
    assert made.weights == "thin"
    np.testing.assert_allclose(cells.scale, window.layer("em").scale)


def test_scope_of_cells(predicted) -> None:
    window = predicted
    window.viewer.dims.set_current_step(0, 3)
    window.choose_scope(window.cells, "this section")
    window.run(window.cells)
    data = window.layer("em cells").data
    assert data[3].any()
    assert not data[:3].any()


def test_the_threshold_is_previewed_and_then_goes_everywhere(predicted) -> None:
    window = predicted
    z = window.viewer.dims.current_step[0]
    probability = window.layer("em membrane probability").data
    membranes = window.layer("em membranes")
    slider = window.cells.main.findChild(object, "threshold")
    slider.setValue(0.9)
    assert membranes.visible
    np.testing.assert_array_equal(membranes.data[z], probability[z] > 0.9)
    window.qtbot.waitUntil(
        lambda: np.array_equal(membranes.data, probability > 0.9), timeout=5000
    )


def test_smaller_minimum_size_gives_more_cells(predicted) -> None:
    window = predicted
    window.choose_scope(window.cells, "this section")
    window.run(window.cells)
    cells = window.layer("em cells")
    many = len(np.unique(cells.data))
    window.cells.main.findChild(object, "minimum_size").setValue(600)
    window.run(window.cells)
    assert len(np.unique(cells.data)) < many


def test_both_forms_edit_the_same_settings(open_window) -> None:
    window = open_window()
    window.cells.advanced.findChild(object, "grow").setValue(9)
    window.cells.main.findChild(object, "minimum_size").setValue(50)
    settings = window.desk.session.cell_settings
    assert (settings.grow, settings.minimum_size) == (9, 50)


def test_opened_probabilities_become_cells(open_window, drawing) -> None:
    made = Provenance(kind="membrane").model_dump(mode="json")
    window = open_window(
        Image(drawing.membrane, name="opened", metadata={"emseg": made})
    )
    window.settle()
    assert not window.membranes.run.button.isEnabled()
    assert "holds probabilities already" in window.membranes.estimate.text()
    window.cells.main.findChild(object, "minimum_size").setValue(20)
    window.run(window.cells)
    cells = window.layer("opened cells").data
    assert cells.shape == drawing.membrane.shape
    assert len(np.unique(cells)) > 3
