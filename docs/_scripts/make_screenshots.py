"""Make the pictures of the docs; only the bundled EM sample is shown in them.

`xvfb-run -a -s "-screen 0 1600x1000x24" python docs/_scripts/make_screenshots.py`
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import napari
import numpy as np
from napari import Viewer
from napari.settings import get_settings
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QApplication

from napari_emseg.widgets.cells_panel import CellsPanel
from napari_emseg.widgets.controller import controller_for
from napari_emseg.widgets.data_panel import DataPanel
from napari_emseg.widgets.dock import STEPS, EmSegmentation
from napari_emseg.widgets.evaluate_panel import EvaluatePanel
from napari_emseg.widgets.membranes_panel import MembranesPanel

get_settings(path=None)  # read nobody's preferences, and keep none
IMAGES = Path(__file__).parents[1] / "images"
PATIENCE = 600.0


def wait_for(done: Callable[[], bool]) -> None:
    """Let the window live until something is done."""
    until = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > until:
            msg = f"not done after {PATIENCE:.0f} s"
            raise TimeoutError(msg)
        QApplication.processEvents()
        time.sleep(0.01)


def settle(seconds: float = 1.5) -> None:
    """Give the window time to draw."""
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until)


def open_window() -> tuple[Viewer, EmSegmentation]:
    """Open napari on the bundled stack, with the dock."""
    get_settings().application.gui_notification_level = "error"
    viewer = napari.Viewer()
    viewer.open_sample("napari-emseg", "vnc")
    _, dock = viewer.window.add_plugin_dock_widget("napari-emseg", "EM segmentation")
    if not isinstance(dock, EmSegmentation):
        msg = f"expected the dock, got {dock!r}"
        raise TypeError(msg)
    viewer.window.resize(1500, 960)
    settle()
    viewer.reset_view()
    settle()
    return viewer, dock


def run(viewer: Viewer, panel: MembranesPanel | CellsPanel) -> None:
    """Press Run and wait for the end."""
    job = controller_for(viewer).job
    panel.scope.choice.setCurrentText("all sections")
    settle()
    panel.run.button.click()
    wait_for(lambda: not job.busy)
    settle()


def evaluate(viewer: Viewer, panel: EvaluatePanel) -> None:
    """Compare all sections with what was drawn, and go to a mistake in the middle."""
    panel.scope.setCurrentText("all sections")
    panel.run.button.click()
    wait_for(lambda: not panel.run.job.busy)
    settle()
    rings = next(layer for layer in viewer.layers if layer.name == "mistakes")
    middle = np.asarray(viewer.layers["VNC"].data.shape[1:]) / 2
    off_centre = np.abs(rings.data[:, 1:] - middle).max(axis=1)
    panel.result.mistakes.table.setCurrentCell(int(off_centre.argmin()), 0)
    viewer.layers["VNC cells"].visible = False
    settle()
    viewer.window.screenshot(
        str(IMAGES / "mistakes.png"), canvas_only=True, flash=False, size=(600, 600)
    )


def picture_of(dock: EmSegmentation, name: str) -> QPixmap:
    """Take a picture of a panel, scrolled so that Run isn't held in view over it."""
    fold = dock.folds[name]
    end = fold.y() + fold.height() - dock.viewport().height()
    dock.verticalScrollBar().setValue(end)
    settle(0.3)
    return fold.grab()


def keep(data: DataPanel, folder: str) -> None:
    """Save a project of the stack at work, which is then kept up to date."""
    data.project.save_path(Path(folder) / "vnc")
    wait_for(lambda: not data.project.busy)
    wait_for(lambda: "saved" in data.project.state.text())


def main() -> None:
    """Run the main job in a window; take pictures of it and of each panel."""
    IMAGES.mkdir(exist_ok=True)
    viewer, dock = open_window()
    data: DataPanel = dock.panel("Data")
    controller = controller_for(viewer)
    data.checks.button.click()
    wait_for(lambda: controller.session.source.findings is not None)
    run(viewer, dock.panel("Membranes"))
    run(viewer, dock.panel("Cells"))
    viewer.window.screenshot(str(IMAGES / "panels.png"), canvas_only=False, flash=False)
    for fold in dock.folds.values():
        fold.expand()
    folder = TemporaryDirectory()
    keep(data, folder.name)
    evaluate(viewer, dock.panel("Evaluate"))
    dock.panel("Correct").tools["Live-wire"].click()
    settle()
    for name in dock.folds:
        picture_of(dock, name).save(str(IMAGES / f"{STEPS[name]}-{name.lower()}.png"))
    viewer.close()
    folder.cleanup()


if __name__ == "__main__":
    main()
