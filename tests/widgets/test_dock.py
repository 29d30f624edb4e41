from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from nested import nested_weights
from npe2 import PluginManifest
from qtpy.QtCore import QEvent, QObject, QPoint
from qtpy.QtWidgets import QPushButton, QWidget

import napari_emseg
from napari_emseg.models.weights import read_weights
from napari_emseg.widgets import commands
from napari_emseg.widgets.batch_dock import BatchDock
from napari_emseg.widgets.dock import HELP, PANELS, STEPS
from napari_emseg.widgets.theme import DOCS, SPACING
from napari_emseg.widgets.train_panel import TrainPanel

LOW = 400
"""Of a dock in a window of 768 px at a scaling of 150 %."""
PACKAGE = Path(napari_emseg.__file__).parent


def test_panels_are_numbered_open_for_the_main_job_and_linked_to_their_pages(
    open_window, em
) -> None:
    window = open_window(em("specimen"))
    panels_are_numbered_in_the_order_of_work(window)
    the_main_job_is_open_and_the_rest_folded(window)
    title_bars_say_what_is_chosen(window)
    tooltips_explain_settings(window)
    each_panel_has_a_link_to_a_page_that_is_there(window)


def panels_are_numbered_in_the_order_of_work(window) -> None:
    titles = [fold.text() for fold in window.dock.folds.values()]
    numbered = [f"{STEPS[name]}  {name}" for name in PANELS]
    assert [t.strip("▾▸ ") for t in titles] == numbered
    assert numbered[0] == "1  Data"
    assert numbered[-1] == "6  Evaluate"
    assert [STEPS[name] for name in PANELS] == sorted(STEPS[name] for name in PANELS)


def the_main_job_is_open_and_the_rest_folded(window) -> None:
    open_ = [name for name, fold in window.dock.folds.items() if fold.isExpanded()]
    assert open_ == ["Data", "Membranes", "Cells"]


def test_panels_fold_and_unfold_by_a_click(open_window) -> None:
    window = open_window()
    fold = window.dock.folds["Data"]
    assert fold.isExpanded()
    window.click(fold.toggleButton())
    assert not fold.isExpanded()
    assert not fold.content().isVisibleTo(fold), "keys would get to it"
    assert fold.text().startswith("▸")
    window.click(fold.toggleButton())
    assert fold.content().isVisibleTo(fold)


def title_bars_say_what_is_chosen(window) -> None:
    assert window.dock.folds["Data"].summary.text() == "specimen"
    assert window.dock.folds["Membranes"].summary.text() == "thin"


def test_the_manifest_offers_the_dock_and_each_panel() -> None:
    manifest = PluginManifest.from_file(PACKAGE / "napari.yaml")
    widgets = manifest.contributions.widgets or []
    names = [widget.display_name for widget in widgets]
    numbered = [f"{STEPS[name]} {name}" for name in PANELS]
    assert names == ["EM segmentation", *numbered, "Batch"]
    menus = manifest.contributions.menus or {}
    rooms = ("segment", "annotate", "measure", "data")
    assert set(menus) <= {f"napari/layers/{room}" for room in rooms}
    listed = [item.command for items in menus.values() for item in items]
    assert sorted(listed) == sorted(widget.command for widget in widgets)


def test_preferences_have_titles() -> None:
    manifest = PluginManifest.from_file(PACKAGE / "napari.yaml")
    found = {
        f"{category}.{name}"
        for category, part in (manifest.contributions.configurations or {}).items()
        for name, about in part.properties.items()
        if about.title
    }
    assert found == {"runs.device", "runs.weights", "annotation.author"}


def test_no_panel_imports_another_and_none_uses_private_parts_of_napari() -> None:
    for file in (PACKAGE / "widgets").glob("*.py"):
        text = file.read_text()
        private = re.findall(r"(?:viewer|window|layer|dims)\._[a-z]\w*", text)
        assert not private, f"{file.name}: {private}"
        if file.name.endswith("_panel.py"):
            assert not re.search(r"import .*Panel\b", text), file.name


def tooltips_explain_settings(window) -> None:
    for form in (window.membranes.advanced, window.cells.advanced):
        for name in type(form.settings).model_fields:
            field = form.findChild(QWidget, name)
            assert field is None or field.toolTip()


def test_the_command_palette_offers_the_acts(open_window, em, monkeypatch) -> None:
    manifest = PluginManifest.from_file(PACKAGE / "napari.yaml")
    offered = [
        c for c in manifest.contributions.commands or [] if "commands:" in c.python_name
    ]
    assert len(offered) > 10
    window = open_window(em())
    monkeypatch.setattr(commands, "current_viewer", lambda: window.viewer)
    told = []
    monkeypatch.setattr(commands, "show_info", told.append)
    window.settle()
    for command in offered:
        act = getattr(commands, command.python_name.split(":")[1])
        assert act.__doc__
        if command.id.endswith(("open_project", "save_project")):
            continue  # these open a dialog
        act()
        if window.controller.job.busy:
            assert window.finish().error is None
    assert "em membrane probability" in window.viewer.layers
    assert any("not possible now" in words or words for words in told)
    assert window.dock.panel("Correct").where_next.isExpanded(), "as a button in it was"
    docks = [x for x in window.viewer.window.dock_widgets.values() if x is window.dock]
    assert len(docks) == len(window.viewer.window.dock_widgets)


class Styled(QObject):
    """Counts how often a panel is styled, and all that is in it."""

    times = 0

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        panel = isinstance(watched, TrainPanel)
        self.times += panel and event.type() == QEvent.Type.StyleChange
        return False


def test_a_command_opens_the_dock_that_the_menu_knows(
    make_napari_viewer, weights, qapp
) -> None:
    viewer = make_napari_viewer()
    styled = Styled()
    qapp.installEventFilter(styled)
    dock = commands.open_dock(viewer)
    qapp.removeEventFilter(styled)
    assert styled.times == 1, "time that a user waits for"
    assert commands.open_dock(viewer) is dock
    assert list(viewer.window.dock_widgets) == ["EM segmentation (EM segmentation)"]


def top_and_bottom(window, widget: QWidget) -> tuple[int, int]:
    """Return where a widget is in what is seen of the dock."""
    top = widget.mapTo(window.dock, QPoint(0, 0)).y()
    return top, top + widget.height()


def test_a_panel_that_is_opened_comes_into_view(open_window, em) -> None:
    window = open_window(em(), show=True)
    dock, height = window.dock, window.dock.viewport().height
    window.qtbot.waitUntil(dock.isVisible)
    for name in ("Evaluate", "Correct", "Train"):
        window.click(dock.folds[name].toggleButton())
        window.qtbot.waitUntil(lambda: not dock._soon.isActive())
        top, bottom = top_and_bottom(window, dock.folds[name])
        assert top >= 0
        assert bottom <= height() or top <= 2 * SPACING
    window.click(dock.folds["Train"].toggleButton())
    window.qtbot.waitUntil(lambda: not dock._soon.isActive())
    assert top_and_bottom(window, dock.folds["Train"])[0] >= 0


@pytest.mark.parametrize("width", [300, 400])
def test_run_is_seen_where_a_panel_was_opened(
    open_window, em, tmp_path, width: int
) -> None:
    window = open_window(em(), show=True)
    window.controller.session.choose_weights(
        read_weights(nested_weights(tmp_path).path)
    )
    window.dock.parentWidget().setFixedSize(width, LOW)
    buttons = {
        "Membranes": window.membranes.run.button,
        "Cells": window.cells.run.button,
        "Train": window.dock.panel("Train").run.start,
        "Evaluate": window.evaluate.run.button,
    }
    for name, button in buttons.items():
        window.dock.folds[name].expand()
        window.settle()
        down = button.mapTo(window.dock.folds[name], QPoint(0, button.height())).y()
        assert down <= LOW, name


def test_batch_and_the_panels_are_tabs_of_one_area(open_window, em) -> None:
    window = open_window(em(), show=True)
    high = window.dock.height()
    batch = BatchDock(window.viewer)
    window.viewer.window.add_dock_widget(batch, name="Batch")
    shell, main = batch.parentWidget(), batch.parentWidget().parentWidget()
    window.qtbot.waitUntil(lambda: bool(main.tabifiedDockWidgets(shell)))
    assert main.tabifiedDockWidgets(shell) == [window.dock.parentWidget()]
    window.qtbot.waitUntil(lambda: not batch.visibleRegion().isEmpty())
    assert batch.height() > high / 2


def each_panel_has_a_link_to_a_page_that_is_there(window) -> None:
    pages = PACKAGE.parents[1] / "docs"
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())
    assert project["project"]["urls"]["Documentation"] == f"{DOCS}/index.md"
    for name, kind in PANELS.items():
        links = window.dock.panel(name).findChildren(QPushButton)
        (link,) = [x.toolTip() for x in links if x.text() == "Help"]
        page, _, anchor = HELP[kind].partition("#")
        assert link == f"{DOCS}/{HELP[kind]}"
        headings = re.findall(r"^#+ (.*)$", (pages / page).read_text(), re.MULTILINE)
        assert not anchor or anchor in {h.lower().replace(" ", "-") for h in headings}
