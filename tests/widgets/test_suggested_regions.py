"""The list of regions: walked by N, ticked by J, and taken back by Ctrl+Z."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Shapes
from napari.utils.key_bindings import coerce_keybinding
from nested import nested_weights

from napari_emseg._napari.versions import camera_of
from napari_emseg.active_learning import Suggestion
from napari_emseg.core.records import Progress
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import PredictSettings
from napari_emseg.widgets import suggested_regions
from napari_emseg.widgets.camera import section_on_screen
from napari_emseg.widgets.correcting import NAME, REVIEWED, TO_DO, Correcting
from napari_emseg.widgets.suggested_regions import SuggestedRegions

REGIONS = (
    Region(2, 8, 10, 40, 42),
    Region(0, 50, 60, 82, 92),
    Region(1, 0, 0, 32, 32),
)


@pytest.fixture
def window(open_window, em, monkeypatch):
    """All sections have membranes and cells; looking for regions gives three."""

    def found(session, sections):
        yield Progress("looking for regions", 1, 1)
        assert set(sections) <= {0, 1, 2, 3}
        return tuple(
            Suggestion(r, r.top + 16, r.left + 16, 1.0, f"reason {k}")
            for k, r in enumerate(REGIONS)
        )

    monkeypatch.setattr(suggested_regions, "iter_suggest", found)
    window = open_window(em())
    for panel in (window.membranes, window.cells):
        window.choose_scope(panel, "all sections")
        window.run(panel)
    window.dock.folds["Correct"].expand()
    return window


def row_of(window) -> SuggestedRegions:
    return window.dock.panel("Correct").suggested


def find(window) -> SuggestedRegions:
    row = row_of(window)
    with window.qtbot.waitSignal(row.find.job.ended, timeout=120_000):
        row.find.button.click()
    return row


def press(window, key: str) -> None:
    """Press a key over the canvas."""
    window.viewer.keymap[coerce_keybinding(key)](window.viewer)


def texts(row: SuggestedRegions, column: int) -> list[str]:
    return [row.table.item(k, column).text() for k in range(row.table.rowCount())]


def here(window) -> int:
    return section_on_screen(window.viewer, window.layer("em"))


def said(window) -> str:
    return window.dock.panel("Correct").message.text()


def test_regions_are_found_walked_and_done(window) -> None:
    without_a_region_left_n_goes_to_sections(window)
    a_list_is_found_and_walked(window)
    outlines_show_what_is_to_do_and_what_is_reviewed(window)
    press(window, "Control-Z")
    done_ticks_and_goes_on_and_can_be_undone(window)
    a_region_out_of_view_is_shown_before_it_is_marked(window)
    it_says_why_nothing_can_be_found(window)


def test_marked_by_hand_unseen_and_of_another_stack(window, em) -> None:
    the_view_can_be_marked_and_taken_back(window)
    window.viewer.dims.ndisplay = 2
    a_region_is_not_done_where_no_section_is_seen(window)
    window.viewer.layers.remove("more")
    a_long_reason_is_read_whole(window)
    another_stack_has_another_list(window, em)


def a_list_is_found_and_walked(window) -> None:
    row = find(window)
    assert texts(row, 1) == ["2", "0", "1"]
    assert texts(row, 2) == ["reason 0", "reason 1", "reason 2"]
    assert here(window) == 2
    assert said(window) == "region 1 of 3: reason 0"
    centre = window.layer("em").data_to_world((2, 24, 26))
    np.testing.assert_allclose(camera_of(window.viewer).center[-2:], centre[-2:])
    for section in (0, 1, 2):
        press(window, "N")
        assert here(window) == section
    row.table.cellClicked.emit(1, 0)
    assert here(window) == 0


def done_ticks_and_goes_on_and_can_be_undone(window) -> None:
    row = find(window)
    press(window, "J")
    assert texts(row, 0) == ["✓", "", ""]
    assert row.count.text() == "1 of 3 regions done"
    assert here(window) == 0
    source = window.controller.session.source
    assert source.reviewed_regions == (REGIONS[0],)
    assert (source.results.corrections[2][REGIONS[0].area] > 0).all()
    press(window, "J")
    press(window, "J")
    assert texts(row, 0) == ["✓"] * 3
    press(window, "Control-Z")
    assert texts(row, 0) == ["✓", "✓", ""]
    assert source.reviewed_regions == REGIONS[:2]
    press(window, "N")
    assert here(window) == 1
    # what was undone is the one at hand again, not the one that came up after it
    press(window, "Control-Z")
    assert here(window) == REGIONS[1].z
    assert row.table.currentRow() == 1
    centre = window.layer("em").data_to_world((0, 66, 76))
    np.testing.assert_allclose(camera_of(window.viewer).center[-2:], centre[-2:])
    press(window, "J")
    assert texts(row, 0) == ["✓", "✓", ""]
    assert source.reviewed_regions == REGIONS[:2]


def a_region_out_of_view_is_shown_before_it_is_marked(window) -> None:
    row, source = row_of(window), window.controller.session.source

    def refused() -> bool:
        press(window, "J")
        assert source.reviewed_regions == REGIONS[:2]
        assert here(window) == REGIONS[2].z
        return "was out of view; look at it" in said(window)

    row.table.cellClicked.emit(2, 0)
    window.viewer.dims.set_point(0, 150)
    assert refused()
    with pytest.MonkeyPatch.context() as patch:
        elsewhere = (slice(40, 96), slice(0, 112))
        patch.setattr(suggested_regions, "area_in_view", lambda *_: elsewhere)
        assert refused()
    press(window, "J")
    assert set(source.reviewed_regions) == set(REGIONS)


def without_a_region_left_n_goes_to_sections(window) -> None:
    window.viewer.dims.set_point(0, 0)
    press(window, "N")
    assert here(window) == 1
    press(window, "J")
    assert said(window) == "go to a region first (N)"


def outlines_show_what_is_to_do_and_what_is_reviewed(window) -> None:
    row = find(window)
    layer = window.layer(NAME)
    assert isinstance(layer, Shapes)
    assert len(layer.data) == 3
    press(window, "J")
    layer = window.layer(NAME)
    colours = layer.edge_color
    assert colours[0] == pytest.approx(REVIEWED, abs=0.01)
    assert colours[2] == pytest.approx(TO_DO, abs=0.01)
    corner = layer.data_to_world(layer.data[0][0])
    expected = window.layer("em").data_to_world((2, 7.5, 9.5))
    np.testing.assert_allclose(corner, expected)
    assert window.viewer.layers.selection.active is not layer
    # it is no box that somebody drew
    window.membranes.scope.choice.setCurrentText("drawn box")
    with pytest.raises(ValueError, match="no box yet"):
        window.membranes.scope.region()
    assert row.outlines.layer is layer


def the_view_can_be_marked_and_taken_back(window) -> None:
    row, source = row_of(window), window.controller.session.source
    window.viewer.dims.set_point(0, 50)
    row.regions.view.click()
    assert source.reviewed_regions == (Region.whole(1, (96, 112)),)
    assert "reviewed: 96 × 112 px of section 1" in said(window)
    row.regions.view.click()
    assert "reviewed already" in said(window)
    row.regions.back.click()
    assert source.reviewed_regions == ()
    assert NAME not in window.viewer.layers
    row.regions.back.click()
    assert "no reviewed region in the middle" in said(window)
    window.viewer.dims.ndisplay = 3
    row.regions.view.click()
    assert "in 2-D" in said(window)
    assert source.reviewed_regions == ()


def another_stack_has_another_list(window, em) -> None:
    row = find(window)
    other = window.viewer.add_layer(em("other"))
    window.controller.choose(other)
    assert row.table.rowCount() == 0
    window.qtbot.waitUntil(lambda: NAME not in window.viewer.layers)
    row.regions.view.click()
    assert "nothing to correct yet" in said(window)


def it_says_why_nothing_can_be_found(window) -> None:
    row, session = row_of(window), window.controller.session
    for z in range(4):
        session.review(z)
    row.find.button.click()
    assert "nothing is left to look at" in row.find.message.text()


def test_regions_are_found_by_the_network(open_window, em, tmp_path) -> None:
    window = open_window(em())
    session = window.controller.session
    session.predict_settings = PredictSettings(device="cpu", threads=1)
    session.choose_weights(nested_weights(tmp_path))
    row = find(window)
    assert row.table.rowCount() > 0
    assert all(texts(row, 2))


def a_region_is_not_done_where_no_section_is_seen(window) -> None:
    row = find(window)
    n = window.controller.session.source.stack.shape[0]
    more = np.zeros((n + 2, 8, 8), np.uint8)
    window.viewer.add_image(more, name="more", scale=(50, 4, 4), units=("nm",) * 3)
    window.viewer.dims.set_current_step(0, n + 1)
    press(window, "J")
    assert said(window) == f"em has no section here; move the slider to 0-{n - 1}"
    assert not window.controller.session.source.editor.regions
    assert row.left == len(REGIONS)


def a_long_reason_is_read_whole(window) -> None:
    row = find(window)
    low = row.table.rowHeight(0)
    words = "one cell or two? the wall between them is weak, and the heads differ"
    long = Suggestion(REGIONS[0], 0, 0, 1.0, words * 2)
    key = window.controller.session.source.key
    window.controller.shared(Correcting).list_suggestions(key, [long])
    row.table.resize(200, 200)
    assert texts(row, 2) == [words * 2]
    assert row.table.item(0, 2).toolTip() == words * 2
    assert row.table.rowHeight(0) > low
    assert row.table.height() > row.table.rowHeight(0)
