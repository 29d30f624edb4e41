"""A viewer with the dock in it, and weights that load in no time."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
from napari import Viewer
from napari._qt.qt_main_window import _QtMainWindow
from napari.layers import Image
from napari.utils.events import EventEmitter
from napari.utils.notifications import notification_manager
from npe2 import PluginManifest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt, QThreadPool
from qtpy.QtWidgets import QAbstractButton, QApplication
from superqt.utils import WorkerBase
from thin import thin_weights

from napari_emseg.core.settings import PredictSettings
from napari_emseg.inference import throughput
from napari_emseg.models.weights import Weights
from napari_emseg.session import projects
from napari_emseg.widgets import (
    background,
    live_view,
    project_row,
    run,
    train_panel,
    weights_box,
)
from napari_emseg.widgets.cells_panel import CellsPanel
from napari_emseg.widgets.controller import ViewerController, controller_for
from napari_emseg.widgets.data_panel import DataPanel
from napari_emseg.widgets.dock import EmSegmentation
from napari_emseg.widgets.evaluate_panel import EvaluatePanel
from napari_emseg.widgets.jobs import JobResult
from napari_emseg.widgets.membranes_panel import MembranesPanel
from napari_emseg.widgets.project_row import RemadeProbabilities
from napari_emseg.widgets.run import ScopeRow


@pytest.fixture(autouse=True, scope="package")
def _plugins_are_found_once() -> Iterator[None]:
    """Each viewer would look through all packages and read the manifests of plugins."""
    found = list(PluginManifest.discover())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", lambda *_, **__: iter(found))
        yield


@pytest.fixture(autouse=True, scope="package")
def _napari_loses_no_time() -> Iterator[None]:
    """Two things that napari does some ten thousand times a window.

    It reads the signature of a method each time it is connected or disconnected, and
    looks at every event of the program to show a menu bar that somebody has hidden.
    """
    read, known = EventEmitter._check_signature, WeakKeyDictionary()

    def check_signature(callback: Callable[..., Any]) -> bool:
        if not inspect.ismethod(callback):
            return read(callback)
        if callback.__func__ not in known:
            known[callback.__func__] = read(callback)
        return known[callback.__func__]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventEmitter, "_check_signature", staticmethod(check_signature))
        patch.delattr(_QtMainWindow, "eventFilter", raising=False)
        yield


@contextmanager
def _no_collection() -> Iterator[None]:
    """Do as that of the window does, but leave frozen what is frozen."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="package")
def freeze_modules() -> Iterator[Callable[..., None]]:
    """Freeze all that there is, if modules were imported since or it was thawed."""
    known = 0

    def freeze_modules(*, thawed: bool = False) -> None:
        nonlocal known
        if thawed or len(sys.modules) > known + 20:
            gc.collect()
            gc.freeze()
            known = len(sys.modules)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "no_collection", _no_collection)
        yield freeze_modules
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _modules_are_no_rubbish(
    freeze_modules, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Looking for viewers that nobody holds any more, napari looks at all there is.

    That is half a million objects, nearly all of them those of modules. Each viewer
    leaves 8,000 more, such as its menus, once napari has collected all rubbish.
    """
    freeze_modules()
    yield
    if "make_napari_viewer" in request.fixturenames:
        gc.freeze()


@pytest.fixture(scope="package")
def _saved_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Weights]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "thin": thin_weights(folder, threshold=0.4),
        "slow": thin_weights(folder, "slow", delay_ms=30),
        "broken": thin_weights(folder, "broken", failure="shapes don't fit"),
    }


@pytest.fixture
def weights(
    _saved_weights: dict[str, Weights], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Weights]:
    """The weights that the panel offers: `thin`, and `slow` with 30 ms a tile."""
    known = dict(_saved_weights)
    throughput._MS_PER_MEGAPIXEL.clear()  # how fast they were in another test
    monkeypatch.setattr(weights_box, "list_weights", lambda *_: known)
    return known


@dataclass
class Window:
    """A viewer with the dock, and a hand to press its buttons."""

    viewer: Viewer
    dock: EmSegmentation
    qtbot: QtBot

    @property
    def controller(self) -> ViewerController:
        return controller_for(self.viewer)

    @property
    def data(self) -> DataPanel:
        return self.dock.panel("Data")

    @property
    def membranes(self) -> MembranesPanel:
        return self.dock.panel("Membranes")

    @property
    def cells(self) -> CellsPanel:
        return self.dock.panel("Cells")

    @property
    def evaluate(self) -> EvaluatePanel:
        return self.dock.panel("Evaluate")

    def click(self, button: QAbstractButton) -> None:
        assert button.isEnabled(), button.toolTip()
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def choose_weights(self, name: str) -> None:
        box = self.membranes.weights
        box.setCurrentIndex(box.findText(name))
        box.activated.emit(box.currentIndex())

    def choose_scope(self, panel: Any, words: str) -> None:
        panel.scope.choice.setCurrentText(words)
        self.settle()

    def settle(self) -> None:
        """Wait until panels have noticed a change of the view."""
        QApplication.processEvents()
        self.qtbot.waitUntil(self._is_at_rest)
        QApplication.processEvents()

    def _is_at_rest(self) -> bool:
        rows = self.dock.findChildren(ScopeRow)
        return not any(row._timer.isActive() for row in rows)

    def start(self, panel: Any) -> None:
        self.settle()
        self.click(panel.run.button)
        assert self.controller.job.busy, panel.run.message.text()

    def finish(self, timeout: int = 120_000) -> JobResult:
        if not self.controller.job.busy:
            return self.controller.job._outcome
        with self.qtbot.waitSignal(self.controller.job.ended, timeout=timeout) as ended:
            pass
        return ended.args[0]

    def run(self, panel: Any) -> JobResult:
        self.start(panel)
        return self.finish()

    def layer(self, name: str) -> Any:
        return self.viewer.layers[name]


OpenWindow = Callable[..., Window]


@pytest.fixture(autouse=True)
def no_memory_of_others(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember no projects of whoever runs the tests, and none for them."""
    monkeypatch.setattr(projects, "memory", lambda: tmp_path / "state" / "recent.json")


@pytest.fixture(autouse=True)
def _nothing_was_notified_before() -> None:
    """napari keeps what it notified of as long as the process lives."""
    notification_manager.records.clear()


@pytest.fixture(autouse=True)
def _views_settle_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels wait for a moment after the last change; tests wait for them each time."""
    for module in (run, train_panel, project_row):
        for name in ("SETTLE_MS", "SOON_MS"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 10)


@pytest.fixture(autouse=True)
def no_preview_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the live preview off until somebody wants it."""
    monkeypatch.setattr(live_view, "is_quick", lambda *_: None)


@pytest.fixture
def open_window(make_napari_viewer, qtbot, weights) -> Iterator[OpenWindow]:
    """Open a viewer on some layers, and the dock."""
    windows: list[Window] = []

    def open_window(*layers: Image, show: bool = False) -> Window:
        viewer = make_napari_viewer(show=show)
        for layer in layers:
            viewer.add_layer(layer)
        dock = EmSegmentation(viewer)
        viewer.window.add_dock_widget(dock, name="EM segmentation")
        window = Window(viewer, dock, qtbot)
        window.controller.session.predict_settings = PredictSettings(
            runtime="torch", device="cpu", tile=64, threads=1
        )
        windows.append(window)
        return window

    yield open_window
    for window in windows:
        again = window.controller.shared(RemadeProbabilities).job
        for job in (again, window.controller.job):
            if not job.busy:
                continue
            with qtbot.waitSignal(job.ended, timeout=120_000):
                job.cancel()
        window.controller._compiler.drop()
    # whatever works for a window ends with its test: no thread of it is at work on
    # what the next test has changed, such as what a module keeps. No event is handled
    # meanwhile, which would delete a window that its test has closed.
    for worker in set(WorkerBase._worker_set):
        worker.quit()
    assert QThreadPool.globalInstance().waitForDone(120_000)


@pytest.fixture
def em(drawn_stack) -> Callable[..., Image]:
    """Make an image layer of the drawn stack."""

    def em(name: str = "em", **options: Any) -> Image:
        stack, _ = drawn_stack
        spatial = {"scale": (50, 4, 4), "units": ("nm",) * 3}
        return Image(np.array(stack.data), name=name, **(spatial | options))

    return em
