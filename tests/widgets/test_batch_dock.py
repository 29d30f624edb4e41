"""The dock Batch: inputs, runs, results on screen, and what is refused in words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDesktopServices, QDropEvent
from qtpy.QtWidgets import QFileDialog

from napari_emseg._napari import layer_of
from napari_emseg.batch import Row, read_recipe
from napari_emseg.batch.job import DifferentBatchError, UnfinishedBatchError
from napari_emseg.batch.planning import LockedCellsError
from napari_emseg.batch.queue import is_unfinished
from napari_emseg.core.errors import UnknownVoxelSizeError, UnusableInputsError
from napari_emseg.core.settings import CellSettings
from napari_emseg.io import AmbiguousFileError, open_stack, read_provenance, save_stack
from napari_emseg.io.errors import OutputExistsError
from napari_emseg.models.weights import load_weights
from napari_emseg.sample import synthetic
from napari_emseg.segmentation.edge_classifier import SEEN, EdgeClassifier
from napari_emseg.widgets.batch_controller import BatchController, format_error
from napari_emseg.widgets.batch_dock import BatchDock, BatchPanel
from napari_emseg.widgets.batch_table import BatchTable, format_row


@dataclass
class Bench:
    """A window with the dock Batch."""

    window: Any
    panel: BatchPanel
    out: Path

    @property
    def batching(self) -> BatchController:
        return self.panel._batching

    @property
    def said(self) -> str:
        return self.panel.foot.message.text()

    def states(self) -> list[str]:
        table = self.panel.table
        return [table.item(row, 1).text() for row in range(table.rowCount())]

    def start(self) -> None:
        self.window.click(self.panel.foot.button)
        assert self.batching.busy, self.said

    def finish(self) -> None:
        if self.batching.busy:
            with self.window.qtbot.waitSignal(self.batching.job.ended, timeout=120_000):
                pass

    def run(self) -> None:
        self.start()
        self.finish()

    def until_running(self) -> None:
        def has_begun() -> bool:
            rows = [entry.row for entry in self.panel._board.entries]
            return any(0 < row.share < 1 for row in rows)

        self.window.qtbot.waitUntil(has_begun, timeout=120_000)

    def values(self, name: str) -> np.ndarray:
        return np.asarray(open_stack(self.out / name).data[:])


@pytest.fixture
def bench(open_window, tmp_path, weights):
    window = open_window()
    session = window.controller.session
    session.choose_weights(weights["thin"])
    session.cell_settings = CellSettings(minimum_size=5, threshold=0.4)
    dock = BatchDock(window.viewer)
    window.viewer.window.add_dock_widget(dock, name="Batch")
    bench = Bench(window, dock.panel, tmp_path / "out")
    dock.panel.form.folder.setText(str(bench.out))
    yield bench
    bench.batching.job.cancel()
    bench.finish()


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Two small stacks."""
    paths = []
    for nth in range(2):
        stack, _ = synthetic((3, 64, 80), seed=nth)
        path = save_stack(tmp_path / f"em{nth}.tif", stack, voxel_size_nm=(50, 4, 4))
        paths.append(str(path))
    return paths


def slow(bench: Bench, weights) -> None:
    bench.window.controller.session.choose_weights(weights["slow"])
    bench.panel.form.advanced.show_settings(
        bench.panel.form.advanced.settings.model_copy(update={"whole": 64})
    )


def test_a_run_ends_with_results_and_a_page(bench, files, monkeypatch) -> None:
    session = bench.window.controller.session
    through = {"through": "graph"}
    session.cell_settings = session.cell_settings.model_copy(update=through)
    assert bench.panel.form.panels.text().endswith("through the stack: graph.")
    bench.panel.add_paths(files)
    assert bench.states() == ["waiting", "waiting"]
    bench.run()
    made = read_provenance(bench.out / "em0-cells.zarr").settings["cells"]
    assert made["through"] == "graph"
    assert bench.states() == ["done", "done"]
    assert bench.said == "2 of 2 inputs done"
    assert "summary.html" in bench.panel.foot.link.text()
    assert not bench.panel.foot.link.isHidden()
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", opened.append)
    bench.window.click(bench.panel.foot.link)
    assert [Path(url.toLocalFile()) for url in opened] == [bench.out / "summary.html"]
    assert bench.values("em0-cells.zarr").max() > 3
    assert bench.values("em1-membranes.zarr").shape == (3, 64, 80)
    bench.window.click(bench.panel.foot.button)
    assert "all inputs are done" in bench.said
    assert not bench.batching.busy


def test_without_inputs_or_folder_it_says_so(bench, files) -> None:
    bench.window.click(bench.panel.foot.button)
    assert bench.said == "no inputs: add files, a folder or layers first"
    bench.panel.form.folder.clear()
    bench.window.click(bench.panel.foot.button)
    assert "no folder for the results" in bench.said
    bench.panel.add_paths(files)
    assert bench.panel.form.out == Path(files[0]).parent / "emseg-results"


def test_steps_that_leave_a_gap_are_refused(bench, files) -> None:
    bench.panel.add_paths(files)
    bench.panel.form.steps.tick(["membranes", "link"])
    bench.window.click(bench.panel.foot.button)
    assert bench.said.startswith("steps are membranes, cells and link")


def test_what_membranes_would_refuse_or_change_holds_here(bench, files, em) -> None:
    session, form = bench.window.controller.session, bench.panel.form
    bench.panel.add_paths(files)
    before = session.predict_settings
    wrong = {"precision": "bf16", "runtime": "torch"}
    session.choose_settings(before.model_copy(update=wrong))
    words = "bf16 runs by OpenVINO, and the runtime is set to torch"
    assert f"Precision bf16: {words}." in form.panels.text()
    bench.window.click(bench.panel.foot.button)
    assert not bench.batching.busy
    assert words in bench.said
    form.steps.tick(["cells"])  # of probabilities, which no network computes
    assert form.job().settings.predict.precision == "bf16"
    form.steps.tick(["membranes"])
    session.choose_settings(before.model_copy(update={"views": 3}))
    assert "Precision" not in form.panels.text()
    assert form.settings.predict.views == 3
    assert "three views" in form.panels.text()
    bench.window.viewer.add_layer(em())  # voxels of 50 × 4 × 4 nm
    assert form.settings.predict.views == 1
    assert "three views" not in form.panels.text()


def test_a_damaged_file_is_listed_and_the_others_go_on(bench, files, tmp_path) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(Path(files[0]).read_bytes()[:600])
    bench.panel.add_paths([files[0], str(bad)])
    bench.run()
    assert bench.states() == ["done", "failed"]
    assert bench.said.endswith("1 of 2 inputs done, 1 failed")
    assert "bad.tif" in bench.panel.table.item(1, 0).toolTip()
    assert bench.panel.retry.isEnabled()
    bad.write_bytes(Path(files[1]).read_bytes())
    bench.window.click(bench.panel.retry)
    bench.finish()
    assert bench.states() == ["done", "done"]
    assert not bench.panel.retry.isEnabled()


def test_cancel_keeps_what_is_done_and_resume_does_the_rest(
    bench, files, weights
) -> None:
    bench.panel.add_paths(files)
    bench.run()
    whole = [bench.values(f"em{n}-membranes.zarr") for n in range(2)]
    slow(bench, weights)
    bench.out = bench.out.with_name("again")
    bench.panel.form.folder.setText(str(bench.out))
    bench.start()
    assert bench.panel.foot.button.text() == "Cancel"
    bench.until_running()
    bench.window.click(bench.panel.foot.button)
    bench.finish()
    assert "cancelled" in bench.said
    assert "running" not in bench.states()
    assert is_unfinished(bench.out)
    assert bench.panel.foot.button.text() == "Resume"
    bench.run()
    assert bench.states() == ["done", "done"]
    for nth, expected in enumerate(whole):
        np.testing.assert_array_equal(bench.values(f"em{nth}-membranes.zarr"), expected)
    assert bench.panel.foot.button.text() == "Start"


def test_results_are_replaced_only_when_told(bench, files) -> None:
    bench.panel.add_paths(files[:1])
    bench.run()
    bench.panel.table.selectRow(0)
    bench.window.click(bench.panel.remove)
    assert bench.panel.table.rowCount() == 0
    bench.panel.add_paths(files[:1])
    bench.run()
    assert "exists already" in bench.said
    assert "“Replace results”" in bench.said
    bench.panel.form.replace.setChecked(True)
    bench.run()
    assert bench.said == "1 of 1 input done"


@pytest.mark.parametrize(("width", "columns"), [(258, 3), (380, 4)])
def test_names_have_room_at_any_width(make_napari_viewer, qtbot, width, columns):
    table = BatchTable(make_napari_viewer())
    qtbot.addWidget(table)
    table.resize(width, 200)
    with qtbot.waitExposed(table):
        table.show()
    assert sum(not table.isColumnHidden(column) for column in range(4)) == columns
    assert table.columnWidth(0) >= 80
    assert table.horizontalScrollBar().maximum() == 0


def test_errors_name_what_ends_them_in_the_dock() -> None:
    asks = AmbiguousFileError("a.tif", "has 2 channels", "channel", [(0, "a")])
    for error, said in (
        (
            UnfinishedBatchError("x"),
            "x; go on with “Resume”, or tick “Replace res",
        ),
        (
            DifferentBatchError("x"),
            "x; choose another folder under “Results in”, or tick “Replace results” to",
        ),
        (OutputExistsError(Path("a")), "a exists already; tick “Replace results”"),
        (LockedCellsError("x", 301), "x; set “Whole sections up to” to 301"),
        (asks, "a.tif: has 2 channels; open it in 1 Data"),
        (UnusableInputsError([asks]), "can be used: a.tif: has 2 channels; open it in"),
        (UnknownVoxelSizeError("x"), "x; enter it in 1 Data"),
        (ValueError("plain"), "plain"),
    ):
        assert said in format_error(error)
    row = Row("a", "a.tif", warnings=("odd", str(asks)), error=asks)
    assert format_row(row).splitlines()[1:] == ["odd", format_error(asks)]


def test_a_double_click_shows_results_over_the_source(bench, files) -> None:
    bench.panel.add_paths(files[:1])
    bench.panel.table.asked.emit(0)
    assert "em0 has no results" in bench.said
    bench.run()
    bench.panel.table.asked.emit(0)
    layers = bench.window.viewer.layers
    assert [layer.name for layer in layers] == [
        "em0",
        "em0-membranes",
        "em0-cells",
    ]
    assert isinstance(layers["em0-cells"], Labels)
    np.testing.assert_array_equal(layers["em0-cells"].scale, layers["em0"].scale)
    bench.panel.table.asked.emit(0)
    assert len(layers) == 3


def test_layers_by_their_file_or_as_a_copy(bench, files, em) -> None:
    viewer = bench.window.viewer
    opened = Image(*layer_of(open_stack(files[0]))[:1], name="of a file")
    viewer.add_layer(opened)
    array = em("a/b ☃")
    viewer.add_layer(array)
    viewer.layers.selection = {opened, array}
    bench.window.click(bench.panel.layers)
    bench.window.click(bench.panel.layers)
    assert len(bench.states()) == 2
    given = [entry.given for entry in bench.panel._board.entries]
    assert given[0].path == files[0]
    assert given[1].name == "a_b"
    bench.run()
    assert bench.states() == ["done", "done"]
    copy = open_stack(bench.out / "layers" / "a_b.zarr")
    np.testing.assert_array_equal(copy.data[:], array.data)
    assert copy.voxel_size_nm == (50, 4, 4)
    bench.panel.table.asked.emit(1)
    cells = viewer.layers["a_b-cells"]
    np.testing.assert_array_equal(cells.scale, array.scale)
    assert len(viewer.layers) == 4


def test_layers_that_are_no_images_are_refused(bench) -> None:
    bench.window.click(bench.panel.layers)
    assert bench.said.startswith("no layer is selected")
    labels = bench.window.viewer.add_labels(np.zeros((2, 8, 8), np.uint8), name="L")
    bench.window.viewer.layers.selection = {labels}
    bench.window.click(bench.panel.layers)
    assert bench.said == "L is a labels layer; a batch takes images"
    bench.window.click(bench.panel.project)
    assert bench.said.startswith("no project is open")


def test_a_dry_run_says_what_it_takes_and_writes_nothing(bench, files, em) -> None:
    bench.panel.add_paths(files)
    layer = em("array")
    bench.window.viewer.add_layer(layer)
    bench.window.viewer.layers.selection = {layer}
    bench.panel.add_layers()
    bench.window.click(bench.panel.foot.dry)
    bench.finish()
    assert bench.said.startswith("10 sections, about ")
    assert "on disk" in bench.said
    assert not bench.out.exists()
    assert bench.states() == ["waiting"] * 3


def test_files_can_be_dropped(bench, files) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(path) for path in files])
    event = QDropEvent(
        QPointF(5, 5),
        Qt.DropAction.CopyAction,
        data,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    bench.panel.table.dropEvent(event)
    assert event.isAccepted()
    assert len(bench.states()) == 2


def test_rows_at_work_stay(bench, files, weights) -> None:
    slow(bench, weights)
    bench.panel.add_paths(files)
    bench.start()
    bench.until_running()
    bench.panel.table.selectRow(0)
    bench.window.click(bench.panel.remove)
    assert "cancel it before" in bench.said
    assert len(bench.states()) == 2


def test_closing_the_window_in_mid_run_keeps_what_is_done(
    bench, files, weights
) -> None:
    slow(bench, weights)
    bench.panel.add_paths(files)
    bench.start()
    bench.until_running()
    job = bench.batching.job
    with bench.window.qtbot.waitSignal(job.ended, timeout=120_000):
        bench.window.viewer.close()
    assert is_unfinished(bench.out)
    assert (bench.out / ".emseg-batch" / "ledger.jsonl").stat().st_size > 0


def test_the_dock_may_be_closed_meanwhile(bench, files, weights) -> None:
    slow(bench, weights)
    bench.panel.form.steps.tick(["membranes"])
    bench.panel.form.steps.edited.emit()
    bench.panel.add_paths(files)
    bench.start()
    bench.until_running()
    dock = BatchDock(bench.window.viewer)
    bench.window.viewer.window.add_dock_widget(dock, name="Batch again")
    bench.panel.deleteLater()
    bench.panel = dock.panel
    assert bench.states()[0] == "running"
    assert bench.panel.foot.button.text() == "Cancel"
    bench.finish()
    assert bench.states() == ["done", "done"]
    assert bench.panel.form.out == bench.out
    assert bench.panel.form.steps.ticked == ("membranes",)


def test_a_project_runs_with_what_was_done_by_hand(bench, files, tmp_path) -> None:
    window = bench.window
    window.viewer.add_layer(Layer.create(*layer_of(open_stack(files[0]))))
    window.controller.session.exclude(1)
    project = window.data.project
    project.save_path(tmp_path / "kept")
    window.qtbot.waitUntil(lambda: not project.busy, timeout=120_000)
    bench.window.click(bench.panel.project)
    bench.window.click(bench.panel.layers)  # the same
    assert len(bench.states()) == 1
    assert bench.panel._board.entries[0].given.is_project
    bench.run()
    assert bench.states() == ["done"], bench.said
    cells = bench.values("kept-cells.zarr")
    assert [bool(section.any()) for section in cells] == [True, False, True]
    bench.panel.table.asked.emit(0)
    assert [layer.name for layer in window.viewer.layers][:1] == ["em0"]
    assert "kept-cells" in window.viewer.layers


def test_typed_words(bench, files, qtbot) -> None:
    line = bench.panel.typed
    line.setText(str(Path(files[0]).parent / "em*.tif"))
    qtbot.keyClick(line, Qt.Key.Key_Return)
    assert len(bench.states()) == 2
    assert line.text() == ""
    line.setText(str(Path(files[0]).parent / "none*.tif"))
    qtbot.keyClick(line, Qt.Key.Key_Return)
    assert "no file matches" in bench.said
    assert line.text() != ""


def test_a_folder_of_stacks_is_an_input_for_each(bench, files, tmp_path) -> None:
    bench.panel.add_paths([str(tmp_path)])
    names = [entry.given.name for entry in bench.panel._board.entries]
    assert names == ["em0", "em1"]


def test_another_run_in_the_window_goes_on(bench, files, em, weights) -> None:
    window = bench.window
    window.viewer.add_layer(em())
    slow(bench, weights)
    bench.panel.add_paths(files)
    bench.start()
    bench.until_running()
    window.choose_scope(window.membranes, "this section")
    assert window.run(window.membranes).error is None
    bench.finish()
    assert bench.states() == ["done", "done"]


def all_apart() -> EdgeClassifier:
    """A classifier by which no edge joins."""
    kinds = {
        kind: {
            "mean": [0.0] * n,
            "scale": [1.0] * n,
            "networks": [[[[[0.0]] * n, [-9.0]]]],
        }
        for kind, n in SEEN.items()
    }
    return EdgeClassifier(kinds, {"about": "nothing"})


class TestRecipes:
    def test_what_is_set_is_saved_and_set_again(self, bench, tmp_path) -> None:
        """In another sitting, where everything was changed meanwhile."""
        session, form = bench.window.controller.session, bench.panel.form
        form.steps.boxes["link"].setChecked(True)
        session.cell_settings = CellSettings(
            minimum_size=7, threshold=0.37, through="graph"
        )
        session.edges = edges = all_apart()
        settings, weights = form.settings, session.weights
        bench.panel.write_recipe(tmp_path / "r.json")
        assert bench.said == "saved as r.json"

        form.steps.boxes["link"].setChecked(False)
        session.cell_settings = CellSettings()
        session.edges = None
        session.choose_weights(load_weights("isbi2012-unet"))
        bench.panel.take_recipe(tmp_path / "r.json")
        assert bench.said == "set as r.json says"
        assert form.settings == settings
        assert session.weights == weights
        assert bench.batching.settings == settings
        form.folder.setText(str(bench.out))
        label = read_recipe(tmp_path / "r.json").label
        assert form.job().recipe == label
        assert form.job().edges.sha256 == edges.sha256
        session.edges = None
        assert form.job().recipe is None  # other edges than the recipe's
        session.edges = edges
        assert form.job().recipe == label
        session.cell_settings = CellSettings(minimum_size=8)
        assert form.job().recipe is None  # it isn't what the recipe says any more

    def test_a_bad_one_changes_nothing(self, bench, tmp_path) -> None:
        before = bench.panel.form.settings
        path = tmp_path / "r.json"
        path.write_text("{}")
        bench.panel.take_recipe(path)
        assert bench.said == "r.json is no recipe of emseg"
        bench.panel.write_recipe(path)
        said = json.loads(path.read_text())
        said["settings"]["steps"] = ["membranes"]
        said["weights"]["sha256"] = "0" * 64
        path.write_text(json.dumps(said))
        bench.panel.take_recipe(path)
        assert "r.json asks for the weights" in bench.said
        assert bench.said.endswith("; then open the recipe again")
        assert "beside the recipe" in bench.said
        assert "--" not in bench.said
        assert bench.panel.form.settings == before

    def test_a_project_that_is_not_there_is_named(self, bench, tmp_path) -> None:
        path = tmp_path / "r.json"
        bench.panel.write_recipe(path)
        said = json.loads(path.read_text())
        path.write_text(json.dumps({**said, "project": "mine.emseg"}))
        bench.panel.take_recipe(path)
        assert bench.said.startswith("set as r.json says; its project mine.emseg isn't")
        assert "“Folder…”" in bench.said

    def test_the_buttons_ask_where(self, bench, tmp_path, monkeypatch) -> None:
        path = tmp_path / "mine"
        for name in ("getSaveFileName", "getOpenFileName"):
            answer = (str(path if "Save" in name else path.with_suffix(".json")), "")
            monkeypatch.setattr(QFileDialog, name, lambda *_, a=answer: a)
        bench.window.click(bench.panel.save_recipe)
        assert bench.said == "saved as mine.json"
        bench.window.click(bench.panel.open_recipe)
        assert bench.said == "set as mine.json says"

    def test_presets(self, bench) -> None:
        form = bench.panel.form
        form.preset.setCurrentIndex(form.preset.findData("volume"))
        form.preset.activated.emit(form.preset.currentIndex())
        assert form.steps.ticked == ("membranes", "cells", "link")
        assert form.settings.table
        assert form.settings.cells.threshold == 0.4  # as in 3 Cells
        assert form.preset.currentData() == ""
        assert bench.batching.settings == form.settings
