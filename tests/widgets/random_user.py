"""A person who does anything in any order, and a plain model of what must come of it.

Each act is what a person can do with mouse, keys and menus of a shown window. After
each, what the window holds is compared with the model: which stacks there are and which
is at work, what is reviewed, pictures after undo and redo, and what is attached to the
viewer. The same seed takes the same acts.
"""

from __future__ import annotations

import os
import random
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from finetuning import QUICK
from napari._qt.containers import QtLayerList
from napari.layers import Image, Labels, Layer, _layer_actions
from napari.utils.notifications import NotificationSeverity, notification_manager
from numpy.typing import NDArray
from qtpy.QtCore import QPoint, Qt, qInstallMessageHandler
from qtpy.QtWidgets import QApplication, QDockWidget

from napari_emseg._napari.layers import RESULT
from napari_emseg._napari.versions import camera_of
from napari_emseg.core.settings import PredictSettings
from napari_emseg.session import StackState
from napari_emseg.session.projects import KEPT
from napari_emseg.widgets.batch_controller import batch_controller_for
from napari_emseg.widgets.batch_dock import BatchDock
from napari_emseg.widgets.controller import ViewerController, controller_for
from napari_emseg.widgets.correcting import Correcting
from napari_emseg.widgets.dock import CorrectDock, EmSegmentation
from napari_emseg.widgets.linked_layers import LINKED

SHAPE = (3, 48, 56)
MOST_LAYERS = 14
WAIT_MS = 120_000
DOCKS = {"all": EmSegmentation, "correct": CorrectDock, "batch": BatchDock}
WEIGHTS = ("thin", "slow", "net")

Pictures = dict[str, NDArray[Any]]
Act = Callable[["RandomUser"], None]

ACTS: dict[str, tuple[float, Act]] = {}


def act(weight: float) -> Callable[[Act], Act]:
    """Make a method one of the acts, taken as often as its weight says."""

    def add(made: Act) -> Act:
        ACTS[made.__name__] = weight, made
        return made

    return add


@dataclass
class Known:
    """What the model knows of a stack: marks, and pictures after each edit."""

    reviewed: set[int] = field(default_factory=set)
    excluded: set[int] = field(default_factory=set)
    pictures: Pictures | None = None
    """When its project was closed; None if it has none, or a run was on."""


class Trouble:
    """Collects what must not happen: exceptions anywhere, and warnings of Qt's."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextmanager
    def watched(self, qtbot: Any) -> Iterator[None]:
        """Watch the GUI thread, other threads, Qt and napari's notifications."""
        hooks = threading.excepthook, sys.unraisablehook
        threading.excepthook = lambda args: self._note(args.exc_value)
        sys.unraisablehook = lambda args: self._note(args.exc_value)
        before = qInstallMessageHandler(self._on_message)
        told = len(notification_manager.records)
        try:
            with qtbot.capture_exceptions() as raised:
                yield
        finally:
            threading.excepthook, sys.unraisablehook = hooks
            qInstallMessageHandler(before)
        self.seen += [f"{kind.__name__}: {error}" for kind, error, _ in raised]
        for record in list(notification_manager.records)[told:]:
            if record.severity >= NotificationSeverity.ERROR and hasattr(
                record, "exception"
            ):
                self._note(record.exception)

    def _note(self, error: object) -> None:
        self.seen.append(f"{type(error).__name__}: {error}")

    def _on_message(self, kind: Any, _: Any, message: str) -> None:
        if kind.name in ("QtWarningMsg", "QtCriticalMsg", "QtFatalMsg"):
            self.seen.append(f"Qt: {message}")


class RandomUser:
    """Takes acts in a shown window, and compares after each."""

    def __init__(self, viewer: Any, qtbot: Any, seed: int, folder: Path) -> None:
        self.viewer, self.qtbot, self.folder = viewer, qtbot, folder
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.trouble = Trouble()
        self.log: list[str] = []
        self.known: dict[str, Known] = {}
        self.docks: dict[str, Any] = {}
        self.made = 0
        self.kept: dict[Path, Known] = {}
        self.followed: WeakSet[Any] = WeakSet()
        self.bare = self._attached()
        self.open_dock("all")
        self.controller.session.predict_settings = PredictSettings(
            invert="no", runtime="torch", device="cpu", tile=64, threads=1
        )
        self.open_stack()

    @property
    def controller(self) -> ViewerController:
        return controller_for(self.viewer)

    @property
    def source(self) -> StackState | None:
        return self.controller.session.source

    def go_on(self, acts: int, *, only: tuple[str, ...] = ()) -> None:
        """Take so many acts."""
        names = [name for name in ACTS if not only or name in only]
        weights = [ACTS[name][0] for name in names]
        for _ in range(acts):
            name = self.random.choices(names, weights)[0]
            self.take(name)

    def take(self, name: str) -> None:
        """Take one act, let the window come to rest, and compare."""
        self.log.append(name)
        self._write()
        self._follow()
        with self.trouble.watched(self.qtbot):
            ACTS[name][1](self)
            self.rest()
        self._write()
        assert not self.trouble.seen, self._story(self.trouble.seen)
        wrong = list(self.differences())
        assert not wrong, self._story(wrong)

    def _follow(self) -> None:
        """Hear of steps that are undone and redone, of marks among them."""
        for each in self.controller.session.sources:
            hand = each.editor if each.editor.begun else None
            if hand is not None and hand not in self.followed:
                self.followed.add(hand)
                hand.edited.connect(partial(self._on_step, each.key))

    def _on_step(self, key: str, step: str, edit: Any) -> None:
        if step == "made" or not edit.whole:
            return  # marks that are made are acts of their own
        known = self.known.setdefault(key, Known())
        more, fewer = (edit.finish, edit.exclude), (edit.reopen, edit.include)
        if step == "undone":
            more, fewer = fewer, more
        known.reviewed = (known.reviewed | more[0]) - fewer[0]
        known.excluded = (known.excluded | more[1]) - fewer[1]

    def note(self, words: object) -> None:
        """Write into the log what an act was about."""
        self.log[-1] += f" {words}"

    def _write(self) -> None:
        if "EMSEG_RANDOM_LOG" in os.environ:
            with Path(os.environ["EMSEG_RANDOM_LOG"]).open("a") as file:
                file.write(f"{len(self.log)} {self.log[-1]}\n")

    def rest(self) -> None:
        """Let events be handled until none waits."""
        for _ in range(4):
            QApplication.sendPostedEvents()
            QApplication.processEvents()

    def _story(self, wrong: list[str]) -> str:
        return "\n".join([*wrong, f"after {len(self.log)} acts:", *self.log[-12:]])

    # The model -----------------------------------------------------------------

    def differences(self) -> Iterator[str]:
        """Say where the window isn't as the model has it."""
        yield from self._of_sources()
        yield from self._of_pictures()
        yield from self._of_attachments()

    def _of_sources(self) -> Iterator[str]:
        sources, source = self.controller.sources(), self.source
        keys = {str(layer.unique_id) for layer in sources}
        if source is not None and source.key not in keys:
            yield f"{source.name} is at work and not in the list"
        unmade = [layer.name for layer in sources if RESULT not in layer.metadata]
        if unmade and source is None and not self.controller.session.refusal:
            yield f"no stack is at work; there are {unmade}"
        for each in self.controller.session.sources:
            known = self.known.get(each.key, Known())
            if set(each.reviewed) != known.reviewed:
                yield f"reviewed {set(each.reviewed)}, marked {known.reviewed}"
            if set(each.excluded) != known.excluded:
                yield f"excluded {set(each.excluded)}, marked {known.excluded}"
        used = self.controller.session.weights
        for panel in self._panels("Membranes"):
            if used is not None and panel.weights.currentText() != used.card.name:
                yield f"{panel.weights.currentText()} is shown, not {used.card.name}"
        for dock in self._panels("Data"):
            listed = [dock.layers.itemText(i) for i in range(dock.layers.count())]
            if listed != [layer.name for layer in sources]:
                yield f"1 Data lists {listed}, not {[x.name for x in sources]}"

    def _of_pictures(self) -> Iterator[str]:
        for each in self.controller.session.sources:
            results = each.results
            if not each.editor.begun:
                continue
            corrections = each.editor.corrections
            if (results.membranes[corrections == 1] == 0).any():
                yield "drawn membrane isn't membrane"
            if (results.membranes[corrections > 1] != 0).any():
                yield "drawn inside is membrane"
            layers = self.controller.results(each.key)
            for name in LINKED if layers is not None else ():
                layer = layers.get(name)
                if layer is None:
                    continue
                array = each.editor.linked.arrays[name]
                if not np.shares_memory(np.asarray(layer.data), array):
                    yield f"{layer.name} shows something else than is corrected"

    def _of_attachments(self) -> Iterator[str]:
        names = [layer.name for layer in self.viewer.layers]
        if len(set(names)) < len(names):
            yield f"two layers of one name: {names}"
        now, seen = self._attached(), self._correct_is_seen()
        tools = {b for p in self._panels("Correct") for b in p.tools.values()}
        active = any(b.isChecked() for b in tools)
        for kind in ("drag", "move"):
            if now[kind] != self.bare[kind] + active:
                yield f"{now[kind]} {kind} callbacks, tool {active}"
        if not seen and active:
            yield "a tool is active and can't be seen"
        if ("K" in now["keys"]) != seen:
            yield f"keys {now['keys']}, panel seen: {seen}"
        shown = self._overlays()
        for name, layers in shown.items():
            if len(layers) > 1:
                yield f"{len(layers)} layers of {name}"
        if not seen and shown["regions"]:
            yield "regions are shown and no panel"

    def _overlays(self) -> dict[str, list[Layer]]:
        ours = {
            n: self.controller.overlay(n).layer for n in ("regions", "preview", "live")
        }
        return {n: [x] if x is not None else [] for n, x in ours.items()}

    def _attached(self) -> dict[str, Any]:
        return {
            "drag": len(self.viewer.mouse_drag_callbacks),
            "move": len(self.viewer.mouse_move_callbacks),
            "keys": sorted(str(key) for key in self.viewer.keymap),
        }

    def _correct_is_seen(self) -> bool:
        for kind, dock in self.docks.items():
            shell = dock.parentWidget()
            front = shell.isVisible() and not shell.visibleRegion().isEmpty()
            unfolded = kind == "correct" or (
                kind == "all" and dock.folds["Correct"].isExpanded()
            )
            if front and unfolded:
                return True
        return False

    def _panels(self, name: str) -> list[Any]:
        panels = []
        for kind, dock in self.docks.items():
            if kind == "all" and name != "Batch":
                panels.append(dock.panel(name))
            elif name.lower() == kind:
                panels.append(dock.panel)
        return panels

    def panel(self, name: str) -> Any:
        """Return one of the panels that are open; None if there is none."""
        found = self._panels(name)
        return self.random.choice(found) if found else None

    # Layers --------------------------------------------------------------------

    @act(3)
    def open_stack(self) -> None:
        if len(self.viewer.layers) >= MOST_LAYERS or len(self.controller.sources()) > 3:
            return
        self.made += 1
        shape = SHAPE if self.random.random() < 0.8 else SHAPE[1:]
        grey = self.numbers.integers(60, 200, shape, dtype=np.uint8)
        grey[..., ::12, :] = grey[..., ::14] = 5
        scale = {"scale": (50, 4, 4)[-len(shape) :], "units": ("nm",) * len(shape)}
        panel = self.panel("Data")
        if len(shape) == 3 and panel is not None and self.random.random() < 0.5:
            np.save(self.folder / f"file {self.made}.npy", grey)
            panel.open_path(str(self.folder / f"file {self.made}.npy"))
            self._wait_for(panel._opening)
            return
        self.viewer.add_layer(Image(grey, name=f"stack {self.made}", **scale))

    @act(1)
    def add_own_layer(self) -> None:
        if len(self.viewer.layers) >= MOST_LAYERS:
            return
        kind = self.random.choice(["labels", "shapes", "points"])
        self.note(kind)
        if kind == "labels":
            self.viewer.add_labels(np.zeros(SHAPE, np.uint8))
        elif kind == "shapes":
            corners = [[0, 5, 5], [0, 5, 30], [0, 30, 30], [0, 30, 5]]
            self.viewer.add_shapes([corners], shape_type="rectangle")
        else:
            self.viewer.add_points([[0, 5, 5]])

    @act(2)
    def delete_layers(self) -> None:
        layers = list(self.viewer.layers)
        if layers:
            chosen = self.random.sample(
                layers, self.random.randint(1, min(3, len(layers)))
            )
            self._delete(chosen)

    @act(0.5)
    def delete_all_layers(self) -> None:
        self._delete(list(self.viewer.layers))

    def _delete(self, layers: list[Layer]) -> None:
        self.note([layer.name for layer in layers])
        for layer in layers:
            self._forget(str(layer.unique_id))
        self.viewer.layers.selection = set(layers)
        shown = self.viewer.window._qt_window.findChild(QtLayerList)
        self.qtbot.keyClick(shown, Qt.Key.Key_Delete)

    def _forget(self, key: str) -> None:
        """Have no more to do with a stack; its project can be opened again."""
        known = self.known.pop(key, Known())
        source = next(
            (x for x in self.controller.session.sources if x.key == key), None
        )
        project = self.controller.session.projects.get(key)
        if source is None or project is None:
            return
        known.pictures = None
        if not self.controller.job.busy:
            self.controller.shared(Correcting).layers._absorb_all()
            known.pictures = self._pictures(source.editor)
        self.kept[project.path] = known

    @act(2)
    def rename_layer(self) -> None:
        layer = self._any_layer()
        if layer is not None:
            names = ["regions", "em", "日本", "a" * 60, "live membranes", "x membranes"]
            layer.name = self.random.choice(names)
            self.note(layer.name)

    @act(2)
    def reorder_layers(self) -> None:
        n = len(self.viewer.layers)
        if n > 1:
            moved = self.random.sample(range(n), self.random.randint(1, n))
            moved.sort()  # napari itself raises IndexError for some other orders
            self.viewer.layers.move_multiple(moved, self.random.randrange(n))

    @act(1)
    def duplicate_layer(self) -> None:
        layer = self._any_layer()
        if layer is not None and len(self.viewer.layers) < MOST_LAYERS:
            self.note(layer.name)
            self.viewer.layers.selection = {layer}
            _layer_actions._duplicate_layer(self.viewer.layers)

    @act(3)
    def select_layers(self) -> None:
        layers = list(self.viewer.layers)
        count = self.random.choice([0, 1, 1, 1, len(layers)])
        chosen = self.random.sample(layers, min(count, len(layers)))
        self.viewer.layers.selection = set(chosen)
        self.note([layer.name for layer in chosen])

    @act(0.5)
    def convert_own_labels(self) -> None:
        layer = self._any_layer(lambda x: isinstance(x, Labels) and self._is_own(x))
        if layer is not None:
            self.viewer.layers.selection = {layer}
            _layer_actions._convert_dtype(self.viewer.layers, "int32")

    @act(0.5)
    def convert_kind(self) -> None:
        layer = self._any_layer(lambda x: isinstance(x, Image) and self._is_own(x))
        if layer is not None and np.issubdtype(layer.data.dtype, np.integer):
            self.note(layer.name)
            self._forget(str(layer.unique_id))
            self.viewer.layers.selection = {layer}
            with warnings.catch_warnings():  # of napari's, about its projection mode
                warnings.simplefilter("ignore", UserWarning)
                _layer_actions._convert_to_labels(self.viewer.layers)

    @act(0.7)
    def replace_stack(self) -> None:
        layer = self._any_layer(lambda x: x in self.controller.sources())
        if layer is None or self.controller.job.busy:
            return
        same = self.random.random() < 0.5
        shape = (
            layer.data.shape
            if same
            else (layer.data.shape[0] + 4, *layer.data.shape[1:])
        )
        self.note((layer.name, shape))
        if not same:
            self._forget(str(layer.unique_id))
        layer.data = self.numbers.integers(0, 255, shape, dtype=np.uint8)

    @act(1)
    def toggle_visible(self) -> None:
        layer = self._any_layer()
        if layer is not None:
            layer.visible = not layer.visible

    @act(1)
    def change_voxel_size(self) -> None:
        layer = self.controller.source_layer
        if layer is not None:
            layer.scale = self.random.choice([(50, 4, 4), (1, 1, 1), (30, 8, 8)])[
                -layer.ndim :
            ]

    def _any_layer(self, wanted: Callable[[Layer], bool] = lambda _: True) -> Any:
        layers = [layer for layer in self.viewer.layers if wanted(layer)]
        return self.random.choice(layers) if layers else None

    def _is_in_view(self, layer: Layer) -> bool:
        """Tell if the sliders are within a layer, along each axis that has one."""
        hidden = list(layer._slice_input.not_displayed)
        at = np.round(layer.world_to_data(self.viewer.dims.point))[hidden]
        return bool(((at >= 0) & (at < np.array(layer.data.shape)[hidden])).all())

    def _is_own(self, layer: Layer) -> bool:
        ours = [x for xs in self._overlays().values() for x in xs]
        return self.controller.results_with(layer) is None and layer not in ours

    # View ----------------------------------------------------------------------

    @act(4)
    def go_to_section(self) -> None:
        n = self.viewer.dims.nsteps[0]
        self.viewer.dims.set_current_step(0, self.random.randrange(max(1, int(n))))

    @act(1)
    def turn_view(self) -> None:
        self.random.choice([self.viewer.dims.roll, self.viewer.dims.transpose])()

    @act(1)
    def toggle_3d(self) -> None:
        self.viewer.dims.ndisplay = 5 - self.viewer.dims.ndisplay

    @act(4)
    def turn_back(self) -> None:
        self.viewer.dims.ndisplay = 2
        self.viewer.dims.order = tuple(range(self.viewer.dims.ndim))

    @act(1)
    def zoom(self) -> None:
        camera_of(self.viewer).zoom *= self.random.choice([0.5, 1.5, 2])

    @act(1)
    def fit(self) -> None:
        self.viewer.reset_view()

    # Docks ---------------------------------------------------------------------

    def open_dock(self, kind: str) -> None:
        """Open a dock that isn't open."""
        dock = DOCKS[kind](self.viewer)
        self.viewer.window.add_dock_widget(dock, name=f"dock {kind}")
        self.docks[kind] = dock
        if kind == "all":
            dock.folds["Correct"].expand()
        self.qtbot.waitUntil(dock.parentWidget().isVisible)
        self.rest()

    @act(2)
    def open_or_close_dock(self) -> None:
        kind = self.random.choice(list(DOCKS))
        self.note(kind)
        if kind not in self.docks:
            self.open_dock(kind)
            return
        shell = self.docks.pop(kind).parentWidget()
        self.qtbot.mouseClick(
            shell.titleBarWidget().close_button, Qt.MouseButton.LeftButton
        )

    @act(1)
    def hide_or_show_dock(self) -> None:
        dock = self._any_dock()
        if dock is not None:
            dock.toggleViewAction().trigger()

    @act(1)
    def tab_docks(self) -> None:
        shells = [dock.parentWidget() for dock in self.docks.values()]
        if len(shells) > 1:
            front, back = self.random.sample(shells, 2)
            self.viewer.window._qt_window.tabifyDockWidget(back, front)
            front.show()
            self.random.choice([front, back]).raise_()

    @act(0.5)
    def float_dock(self) -> None:
        dock = self._any_dock()
        if dock is not None:
            dock.setFloating(not dock.isFloating())

    @act(1)
    def fold(self) -> None:
        dock = self.docks.get("all")
        if dock is not None:
            name = self.random.choice(list(dock.folds))
            self.note(name)
            self._click(dock.folds[name].toggleButton())

    def _any_dock(self) -> QDockWidget | None:
        shells = [dock.parentWidget() for dock in self.docks.values()]
        return self.random.choice(shells) if shells else None

    # Runs ----------------------------------------------------------------------

    @act(2)
    def choose_stack(self) -> None:
        panel = self.panel("Data")
        if panel is not None and panel.layers.count():
            index = self.random.randrange(panel.layers.count())
            panel.layers.setCurrentIndex(index)
            panel.layers.activated.emit(index)

    @act(1)
    def choose_weights(self) -> None:
        panel = self.panel("Membranes")
        if panel is not None:
            self._choose_weights(panel, self.random.choice(WEIGHTS))

    def _choose_weights(self, panel: Any, name: str) -> None:
        panel.weights.setCurrentIndex(panel.weights.findText(name))
        panel.weights.activated.emit(panel.weights.currentIndex())

    @act(1)
    def choose_scope(self) -> None:
        panel = self.panel(self.random.choice(["Membranes", "Cells"]))
        if panel is not None:
            choice = panel.scope.choice
            choice.setCurrentIndex(self.random.randrange(choice.count()))

    @act(5)
    def run(self) -> None:
        panel = self.panel(self.random.choice(["Membranes", "Cells"]))
        if panel is not None:
            self._click(panel.run.button)
            self._wait_for(self.controller.job)
            self.note(panel.run.message.text())

    @act(3)
    def get_ready(self) -> None:
        """Have membranes and cells of a whole stack, as whoever corrects next has."""
        if "all" not in self.docks:
            self.open_dock("all")
        if self.source is None:
            self.open_stack()
            self.rest()
        names = ("Membranes", "Cells")
        for panel in (self.docks["all"].panel(name) for name in names):
            panel.scope.choice.setCurrentText("all sections")
            self.rest()
            self._click(panel.run.button)
            self._wait_for(self.controller.job)
            self.note(panel.run.message.text())

    @act(0.5)
    def run_batch(self) -> None:
        panel = self.panel("Batch")
        if panel is None:
            return
        self.made += 1
        self.viewer.layers.selection = set(self.controller.sources()[:2])
        self._click(panel.layers)
        panel.form.folder.setText(str(self.folder / f"results {self.made}"))
        self._click(panel.foot.button)
        if self.random.random() < 0.3:
            self.rest()
            self._click(panel.foot.button)
        self._wait_for(panel._batching.job)
        self.note(panel.foot.message.text())
        panel.table.selectAll()
        self._click(panel.remove)

    @act(1)
    def run_and_meanwhile(self) -> None:
        panel = self.panel(self.random.choice(["Membranes", "Cells"]))
        if panel is None:
            return
        self._click(panel.run.button)
        for _ in range(2):
            names = ["rename_layer", "select_layers", "delete_layers", "go_to_section"]
            name = self.random.choice([*names, "press_key", "choose_stack"])
            self.note(name)
            ACTS[name][1](self)
            self.rest()
        if self.random.random() < 0.5:
            self.controller.job.cancel()
        self._wait_for(self.controller.job)

    @act(1)
    def change_threshold(self) -> None:
        panel = self.panel("Cells")
        if panel is not None:
            made = panel.main.findChild(object, "threshold")
            made.setValue(self.random.choice([0.3, 0.5, 0.7]))

    @act(0.5)
    def toggle_live(self) -> None:
        panel = self.panel("Membranes")
        if panel is not None:
            self._click(panel.live.box)

    def _wait_for(self, job: Any) -> None:
        if job.busy:
            with self.qtbot.waitSignal(job.ended, timeout=WAIT_MS):
                pass

    def _wait_for_threshold(self) -> None:
        """Wait until a new threshold has reached the sections that aren't on screen."""
        self.rest()
        panel = self.panel("Cells")
        if panel is not None:
            self.qtbot.waitUntil(
                lambda: not (panel._due or panel._others.busy),
                timeout=WAIT_MS,
            )

    def _click(self, made: Any) -> None:
        if made.isEnabled():
            self.qtbot.mouseClick(made, Qt.MouseButton.LeftButton)

    # Corrections ---------------------------------------------------------------

    @act(4)
    def press_key(self) -> None:
        key = self.random.choice("WGKTDIHSUNQ")
        self.note(key)
        self._key(getattr(Qt.Key, f"Key_{key}"))

    @act(1)
    def press_enter_or_escape(self) -> None:
        self._key(self.random.choice([Qt.Key.Key_Return, Qt.Key.Key_Escape]))

    @act(8)
    def use_tool(self) -> None:
        panel = self.panel("Correct")
        if panel is None or not self._correct_is_seen():
            return
        made = self.random.choice(list(panel.tools.values()))
        self.note(made.text())
        if not made.isChecked():
            self._click(made)
        self._click_on_canvas()
        self._drag_on_canvas()
        self.note(panel.message.text())

    @act(3)
    def click_on_canvas(self) -> None:
        self._click_on_canvas()

    @act(3)
    def paint(self) -> None:
        layer = self._any_layer(lambda x: isinstance(x, Labels) and x.editable)
        if layer is None or not layer.visible or not isinstance(layer.data, np.ndarray):
            return
        flat = layer.ndim == 2 and self.viewer.dims.ndisplay == 3
        if flat or not self._is_in_view(layer):
            return  # napari's brush itself raises IndexError there
        self.note(layer.name)
        self.viewer.layers.selection = {layer}
        layer.brush_size = 4
        layer.selected_label = self.random.randint(0, 2)
        layer.mode = self.random.choice(["paint", "erase", "fill"])
        self._drag_on_canvas()
        layer.mode = "pan_zoom"

    @act(3)
    def undo_and_redo(self) -> None:
        """Undo some edits, redo them: the pictures are as before, bit for bit."""
        source = self.source
        if source is None or not self._correct_is_seen():
            return
        self._lose_foreign_strokes()
        self._wait_for_threshold()
        hand = source.editor if source.editor.begun else None
        count = self.random.randint(1, 4)
        before = None if hand is None else self._pictures(hand)
        steps = 0 if hand is None else min(count, len(hand.history.undoable))
        control = Qt.KeyboardModifier.ControlModifier
        both = control | Qt.KeyboardModifier.ShiftModifier
        for _ in range(steps):
            self._key(Qt.Key.Key_Z, control)
            self.rest()
        for _ in range(steps):
            self._key(Qt.Key.Key_Z, both)
            self.rest()
        if hand is None or before is None:
            return
        self._compare(before, self._pictures(hand))

    @act(2)
    def undo(self) -> None:
        self._key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)

    @act(1)
    def redo(self) -> None:
        both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
        self._key(Qt.Key.Key_Z, both)

    @act(2)
    def mark_section(self, status: str = "") -> None:
        panel = self.panel("Correct")
        if panel is None or self.source is None or self.controller.source_layer is None:
            return
        status = status or self.random.choice(["to do", "reviewed", "excluded"])
        shown = re.match(r"Section (\d+)", panel.review.label.text())
        if shown is None:
            return
        z = int(shown[1])
        known = self.known.setdefault(self.source.key, Known())
        panel.review.status.setCurrentText(status)
        panel.review.status.activated.emit(panel.review.status.currentIndex())
        known.reviewed.discard(z)
        known.excluded.discard(z)
        {"reviewed": known.reviewed, "excluded": known.excluded}.get(status, set()).add(
            z
        )
        self.note(f"{z} {status}")

    @act(2)
    def review_view(self) -> None:
        panel = self.panel("Correct")
        if panel is not None:
            row = panel.suggested.regions
            self._click(self.random.choice([row.view, row.view, row.back]))
            self.note(panel.message.text())

    def _pictures(self, hand: Any) -> Pictures:
        hand.linked.settle_all()
        return {name: np.array(a) for name, a in hand.linked.arrays.items()}

    def _lose_foreign_strokes(self) -> None:
        """Make sure that undo is meant for corrections, not for labels of one's own."""
        self.viewer.layers.selection = set()

    def _canvas(self) -> Any:
        return self.viewer.window._qt_viewer.canvas.native

    def _key(self, key: Any, modifiers: Any = None) -> None:
        none = Qt.KeyboardModifier.NoModifier
        self.qtbot.keyClick(self._canvas(), key, modifiers or none)

    def _point(self) -> QPoint:
        canvas = self._canvas()
        x = self.random.uniform(0.3, 0.7) * canvas.width()
        y = self.random.uniform(0.2, 0.8) * canvas.height()
        return QPoint(int(x), int(y))

    def _click_on_canvas(self) -> None:
        at = self._point()
        self.qtbot.mouseMove(self._canvas(), at)
        self.qtbot.mouseClick(self._canvas(), Qt.MouseButton.LeftButton, pos=at)

    def _drag_on_canvas(self) -> None:
        canvas, left = self._canvas(), Qt.MouseButton.LeftButton
        start, end = self._point(), self._point()
        self.qtbot.mousePress(canvas, left, pos=start)
        for part in (0.3, 0.6, 1.0):
            self.qtbot.mouseMove(canvas, start + (end - start) * part)
        self.qtbot.mouseRelease(canvas, left, pos=end)

    # Projects ------------------------------------------------------------------

    @act(0.7)
    def save_project(self) -> None:
        panel = self.panel("Data")
        if panel is None or self.source is None:
            return
        self.made += 1
        panel.project.save_path(self.folder / f"p{self.made}.emseg")
        self._wait_for(panel.project._job)
        self.note(panel.project.message.text())

    @act(1)
    def open_project(self) -> None:
        """Open a project whose stack was removed: all is as it was then."""
        panel = self.panel("Data")
        if panel is None or not self.kept or len(self.controller.sources()) > 3:
            return
        path = self.random.choice(list(self.kept))
        self.note(path.name)
        keys = {source.key for source in self.controller.session.sources}
        panel.project.open_path(path)
        self._wait_for(panel.project._job)
        self.rest()
        source = self.source
        project = self.controller.session.project
        if source is None or source.key in keys or project is None:
            self.note(panel.project.message.text() or "its stack is in no file")
            return
        known = self.kept.pop(path)
        self.known[source.key] = known
        if known.pictures is not None:
            # membranes aren't kept: they come back from cells, or by a run
            after = self._pictures(source.editor)
            self._compare(known.pictures, {name: after[name] for name in KEPT})

    def _compare(self, before: Pictures, after: Pictures) -> None:
        for name, picture in after.items():
            if not np.array_equal(picture, before[name]):
                self.trouble.seen.append(f"{name} is another one than before")

    # Learning ------------------------------------------------------------------

    @act(1)
    def train(self) -> None:
        panel = self.panel("Train")
        if panel is None:
            return
        learning = self.controller.learning
        learning.settings = QUICK.model_copy(update={"rehearsal": 0.0, "steps": 2})
        learning.folder = self.folder / "own"
        if self._correct_is_seen() and self.random.random() < 0.8:
            self.mark_section("reviewed")
        used = self.controller.session.weights
        if used is not None and used.card.name in ("thin", "slow"):  # they can't learn
            self._choose_weights(self.panel("Membranes"), "net")
        self.qtbot.waitUntil(lambda: not panel._soon.isActive(), timeout=WAIT_MS)
        self.qtbot.waitUntil(lambda: not panel._asking.waiting, timeout=WAIT_MS)
        self._click(panel.run.start)
        self._wait_for(self.controller.training.job)
        self.note(panel.run.message.text() or panel.learns.text())

    @act(1)
    def judge(self) -> None:
        panel = self.panel("Train")
        if panel is not None and panel.candidate.round is not None:
            box = panel.candidate
            self._click(self.random.choice([box.accept, box.reject, box.flip]))
            self.note(box.said.text())

    @act(0.5)
    def roll_back(self) -> None:
        panel = self.panel("Train")
        if panel is None:
            return
        rounds = panel.rounds
        if rounds.table.rowCount() and self.random.random() < 0.5:
            rounds.table.selectRow(self.random.randrange(rounds.table.rowCount()))
        self._click(rounds.roll_back)
        self.note(rounds.said.text())

    @act(0.5)
    def find_regions(self) -> None:
        panel = self.panel("Correct")
        if panel is not None:
            self._click(panel.suggested.find.button)
            self._wait_for(panel.suggested.find.job)
            self.note(panel.message.text())

    @act(0.5)
    def measure(self) -> None:
        panel = self.panel("Correct")
        if panel is not None:
            self._click(panel.cells.measure)
            self._wait_for(panel.cells._job)

    def end(self) -> None:
        """Let all that is on come to its end."""
        batch = batch_controller_for(self.viewer).job
        for job in (self.controller.job, self.controller.training.job, batch):
            job.cancel()
            self._wait_for(job)
        self.rest()
