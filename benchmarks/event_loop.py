"""How late the window is while a network runs: a 10 ms timer beside it.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/event_loop.py

In a hidden window nobody does anything: lateness is what the run costs. In a shown one
a script scrolls through the sections and zooms, as a user would, with a run and without
one: what counts is the ratio. Runs go over all sections and start by the panel's own
button; `cold` is the one that loads PyTorch, `warm` the next one, `alone` is the same
window with the same layers and no run.

`--training` measures painting instead: a script strokes over the corrections of a
shown window ten times a second, alone, with weights that learn in the plugin's thread,
and with the same round in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.stack import Stack

RESULT = Path(__file__).parent / "results" / "event_loop.json"
TRAINING = RESULT.with_name("event_loop_training.json")
BUNDLED = ["isbi2012-unet", "isbi2012-unetpp"]
TIMER_MS = 10
STEP_MS = 100
SECONDS_ALONE = 15
WORST = 8
"""Ticks of which it is told when they were late."""


class Ticks:
    """A timer that notes by how much it came too late, in ms.

    Beside that: how much of the time since the tick before the window's thread was at
    work itself (the rest it waited for a core or for another thread), and how long
    collections of all of Python's objects took.
    """

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self.late: list[float] = []
        self._own: list[float] = []
        self._at: list[float] = []
        self._collections: list[tuple[float, float]] = []
        self._last, self._spent = time.perf_counter(), time.thread_time()
        gc.callbacks.append(self._on_collection)
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(TIMER_MS)
        self._timer.timeout.connect(self._on_tick)

    def _on_tick(self) -> None:
        now, spent = time.perf_counter(), time.thread_time()
        self.late.append(1000 * (now - self._last) - TIMER_MS)
        self._own.append(1000 * (spent - self._spent))
        self._at.append(now - self._began)
        self._last, self._spent = now, spent

    def _on_collection(self, phase: str, about: dict[str, int]) -> None:
        if about["generation"] == 2 and phase == "start":
            self._collecting = time.perf_counter()
        elif about["generation"] == 2:
            took = time.perf_counter() - self._collecting
            self._collections.append((self._collecting, took))

    def start(self) -> None:
        """Begin anew."""
        for noted in (self.late, self._own, self._at, self._collections):
            noted.clear()
        self._began = self._last = time.perf_counter()
        self._spent = time.thread_time()
        self._timer.start()

    def stop(self) -> dict[str, Any]:
        """Return how late the ticks were."""
        self._timer.stop()
        late, own = np.maximum(self.late, 0), np.array(self._own)
        worst = np.argsort(-late)[:WORST]
        return {
            "ticks": len(late),
            "mean_ms": round(float(late.mean()), 2),
            "p50_ms": round(float(np.percentile(late, 50)), 2),
            "p99_ms": round(float(np.percentile(late, 99)), 2),
            "worst_ms": round(float(late.max()), 1),
            "above_150_ms": int((late > 150).sum()),
            "above_250_ms": int((late > 250).sum()),
            "own_p99_ms": round(float(np.percentile(own, 99)), 2),
            "worst_at_s_late_own_ms": [
                [round(self._at[n], 1), round(float(late[n])), round(float(own[n]))]
                for n in worst
            ],
            "full_collections_at_s_ms": [
                [round(at - self._began, 1), round(1000 * took)]
                for at, took in self._collections
            ],
        }


def script(viewer: Any) -> Callable[[], None]:
    """Return what a user does every `STEP_MS`: scroll on, and zoom in and out."""
    step = 0

    def act() -> None:
        nonlocal step
        step += 1
        n = int(viewer.dims.nsteps[0])
        viewer.dims.set_current_step(0, step % n)
        camera = viewer.scene.camera
        camera.zoom *= 1.02 if step % 20 < 10 else 1 / 1.02

    return act


def em(sections: int, side: int) -> NDArray[np.uint8]:
    """Return the bundled sections, repeated to a size."""
    from napari_emseg.sample import vnc

    tile = np.asarray(vnc().data[:])
    repeats = (-(-sections // len(tile)), *(-(-side // n) for n in tile.shape[1:]))
    return np.tile(tile, repeats)[:sections, :side, :side]


def window(shown: bool, sections: int, side: int) -> tuple[Any, Any]:
    """Open napari on an EM stack, and the dock."""
    import napari

    viewer = napari.Viewer(show=shown)
    viewer.add_image(
        em(sections, side), scale=(50, 4, 4), units=("nm",) * 3, name="VNC"
    )
    if shown:
        viewer.window.resize(1400, 900)
    _, dock = viewer.window.add_plugin_dock_widget("napari-emseg", "EM segmentation")
    return viewer, dock


def measure(shown: bool, sections: int, side: int) -> dict[str, Any]:
    """Measure one window: the script alone, then with a cold and a warm run."""
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication

    viewer, dock = window(shown, sections, side)
    app = QApplication.instance()
    panel = dock.panel("Membranes")
    panel.scope.choice.setCurrentText("all sections")
    job = panel.run._controller.job
    job.ended.connect(app.exit)
    steps = QTimer()
    steps.setInterval(STEP_MS)
    steps.timeout.connect(script(viewer))
    ticks = Ticks()

    def during(seconds: float, act: Callable[[], None] | None = None) -> None:
        if act is not None:
            QTimer.singleShot(0, act)
        else:
            QTimer.singleShot(int(1000 * seconds), app.exit)
        app.exec()

    during(3)
    if shown:
        steps.start()
        during(3)
    found: dict[str, Any] = {}
    if "torch" in sys.modules:
        msg = "PyTorch is loaded before the run that was to load it"
        raise RuntimeError(msg)
    for name in ("cold", "warm"):
        ticks.start()
        start = time.perf_counter()
        during(0, panel.run.button.click)
        found[name] = ticks.stop()
        found[name]["seconds"] = round(time.perf_counter() - start, 1)
        during(2)
    ticks.start()
    during(SECONDS_ALONE)
    found["alone"] = ticks.stop()  # at last, so that it has the result layers too
    steps.stop()
    result = viewer.layers["VNC membrane probability"].data
    found["sections_done"] = int(result.any(axis=(1, 2)).sum())
    viewer.close()
    return found


def strokes(layer: Any) -> Callable[[], None]:
    """Return what a user does every `STEP_MS`: a short stroke on a labels layer."""
    step = 0
    side = int(layer.data.shape[-1])
    layer.mode, layer.selected_label, layer.brush_size = "paint", 1, 6

    def act() -> None:
        nonlocal step
        step += 1
        y, x = 40 + 11 * step % (side - 80), 40 + 37 * step % (side - 80)
        with layer.block_history():
            for k in range(4):
                layer.paint((0, y, x + 4 * k), 1)

    return act


def measure_training(name: str, way: str, options: argparse.Namespace) -> Any:
    """Measure strokes in a shown window while weights learn, or while nothing does."""
    from napari_emseg.models.weights import load_weights

    viewer, dock = window(True, options.sections, options.side)
    controller, panel = dock.panel("Train")._controller, dock.panel("Train")
    run = Loop()
    session = controller.session
    controller.learning.folder = Path(options.folder)
    controller.learning.settings = controller.learning.settings.model_copy(
        update={"steps": options.steps, "patience": 0}
    )
    session.choose_weights(load_weights(name))
    dock.panel("Membranes").scope.choice.setCurrentText("this section")
    run.until(controller.job.ended, dock.panel("Membranes").run.button.click)
    dock.panel("Correct").classes.paint(1)
    session.review(1)
    session.review(3)
    run.seconds(3)
    steps, ticks = Timer(strokes(viewer.layers.selection.active)), Ticks()
    run.seconds(3)
    if way == "alone":
        ticks.start()
        run.seconds(SECONDS_ALONE)
        return finish(viewer, steps, ticks)
    ticks.start()
    start = time.perf_counter()
    if way == "thread":
        run.until(controller.training.job.ended, panel.run.start.click)
    else:
        words = [sys.executable, "-W", "ignore", __file__, "--round", name]
        words += ["--folder", options.folder, "--steps", str(options.steps)]
        words += ["--sections", str(options.sections), "--side", str(options.side)]
        run.while_alive(subprocess.Popen(words))
    found = finish(viewer, steps, ticks)
    found["seconds"] = round(time.perf_counter() - start, 1)
    if way == "thread":
        found["error"] = controller.training.error
        ms = [record.ms_per_step for record in controller.training.curve]
        found["ms_per_step"] = round(float(np.median(ms)))
    return found


def finish(viewer: Any, steps: Timer, ticks: Ticks) -> dict[str, Any]:
    """Stop everything, and return how late the ticks were."""
    found: dict[str, Any] = ticks.stop()
    steps.stop()
    found["strokes"] = steps.count
    viewer.close()
    return found


class Timer:
    """Does something every `STEP_MS`."""

    def __init__(self, act: Callable[[], None]) -> None:
        from qtpy.QtCore import QTimer

        self.count = 0
        self._act = act
        self._timer = QTimer()
        self._timer.setInterval(STEP_MS)
        self._timer.timeout.connect(self._on_time)
        self._timer.start()
        self.stop = self._timer.stop

    def _on_time(self) -> None:
        self.count += 1
        self._act()


class Loop:
    """Lets the window live until something has happened."""

    def __init__(self) -> None:
        from qtpy.QtWidgets import QApplication

        self._app = QApplication.instance()

    def seconds(self, seconds: float) -> None:
        """Wait."""
        from qtpy.QtCore import QTimer

        QTimer.singleShot(int(1000 * seconds), self._app.exit)
        self._app.exec()

    def until(self, signal: Any, act: Callable[[], None]) -> None:
        """Do something, and wait for a signal."""
        from qtpy.QtCore import QTimer

        signal.connect(self._app.exit)
        QTimer.singleShot(0, act)
        self._app.exec()
        signal.disconnect(self._app.exit)

    def while_alive(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a process, as a panel would that listens to it."""
        while process.poll() is None:
            self.seconds(0.1)


def learn_in_process(name: str, options: argparse.Namespace) -> None:
    """Run a round of the same kind without a window, with the priority of a run."""
    os.nice(10)
    from napari_emseg.core.records import drain
    from napari_emseg.core.regions import Region
    from napari_emseg.core.training import FinetuneSettings
    from napari_emseg.models.weights import load_weights
    from napari_emseg.training.corrections import TrainingSet
    from napari_emseg.training.finetune import finetune_weights

    data = em(options.sections, options.side)
    stack = Stack(data, name="VNC", voxel_size_nm=(50, 4, 4))
    corrections = np.zeros(data.shape, np.uint8)
    corrections[0, 40:46, 40:400] = 1
    whole = [Region.whole(z, data.shape[1:]) for z in (1, 3)]
    known = TrainingSet.from_corrections(stack, corrections, reviewed=whole)
    settings = FinetuneSettings(steps=options.steps, patience=0, invert="no")
    output = Path(options.folder) / "process.safetensors"
    drain(finetune_weights(load_weights(name), [known], output, settings=settings))


def training_cases(options: argparse.Namespace) -> dict[str, Any]:
    """Return each way beside the others, in turn."""
    found: dict[str, Any] = {}
    for name in options.weights:
        found[name] = {}
        for way in ("alone", "thread", "process"):
            words = ["--case", way, "--weights", name, "--steps", str(options.steps)]
            with TemporaryDirectory() as folder:
                found[name][way] = _in_new_process(options, *words, "--folder", folder)
            print(name, way, json.dumps(found[name][way]), flush=True)
    return found


def in_new_process(shown: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Return what `measure` finds in a fresh interpreter."""
    return _in_new_process(options, "--window", "shown" if shown else "hidden")


def _in_new_process(options: argparse.Namespace, *more: str) -> dict[str, Any]:
    words = ["--sections", str(options.sections), "--side", str(options.side), *more]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", type=int, default=8)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--window", choices=("shown", "hidden"))
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--case", choices=("alone", "thread", "process"))
    parser.add_argument("--round")
    parser.add_argument("--weights", nargs="+", default=BUNDLED)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--folder", default="")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.out = options.out or (TRAINING if options.training else RESULT)
    if options.round is not None:
        learn_in_process(options.round, options)
        return
    if options.case is not None:
        found = measure_training(options.weights[0], options.case, options)
        print(json.dumps(found))
        return
    if options.window is not None:
        found = measure(options.window == "shown", options.sections, options.side)
        print(json.dumps(found))
        return
    from machine import describe  # it imports PyTorch, which a cold run has not

    machine = describe(threads=os.cpu_count() or 1)
    if options.training:
        shape = [options.sections, options.side, options.side]
        about = {"stack": shape, "timer_ms": TIMER_MS, "steps": options.steps}
        record = {"machine": machine, **about, **training_cases(options)}
        options.out.write_text(json.dumps(record, indent=2) + "\n")
        return
    results = {w: in_new_process(w == "shown", options) for w in ("hidden", "shown")}
    ratios = {
        name: round(results["shown"]["warm"][name] / results["shown"]["alone"][name], 2)
        for name in ("mean_ms", "p99_ms", "worst_ms")
    }
    record = {
        "machine": machine,
        "stack": [options.sections, options.side, options.side],
        "timer_ms": TIMER_MS,
        **results,
        "shown_with_run_per_alone": ratios,
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
