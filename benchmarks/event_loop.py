"""How late the window is while a network runs: a 10 ms timer beside it.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/event_loop.py

In a hidden window nobody does anything: lateness is what the run costs. In a shown one
a script scrolls through the sections and zooms, as a user would, with a run and without
one: what counts is the ratio. Runs go over all sections and start by the panel's own
button; `cold` is the one that loads PyTorch, `warm` the next one, `alone` is the same
window with the same layers and no run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "event_loop.json"
TIMER_MS = 10
STEP_MS = 100
SECONDS_ALONE = 15


class Ticks:
    """A timer that notes by how much it came too late, in ms."""

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self.late: list[float] = []
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(TIMER_MS)
        self._timer.timeout.connect(self._on_tick)

    def _on_tick(self) -> None:
        now = time.perf_counter()
        self.late.append(1000 * (now - self._last) - TIMER_MS)
        self._last = now

    def start(self) -> None:
        """Begin anew."""
        self.late.clear()
        self._last = time.perf_counter()
        self._timer.start()

    def stop(self) -> dict[str, float]:
        """Return how late the ticks were."""
        self._timer.stop()
        late = np.maximum(self.late, 0)
        return {
            "ticks": len(late),
            "mean_ms": round(float(late.mean()), 2),
            "p50_ms": round(float(np.percentile(late, 50)), 2),
            "p99_ms": round(float(np.percentile(late, 99)), 2),
            "worst_ms": round(float(late.max()), 1),
            "above_250_ms": int((late > 250).sum()),
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


def window(shown: bool, sections: int, side: int) -> tuple[Any, Any]:
    """Open napari on an EM stack, and the dock."""
    import napari

    from napari_emseg.sample import vnc

    viewer = napari.Viewer(show=shown)
    tile = np.asarray(vnc().data[:])
    repeats = (-(-sections // len(tile)), *(-(-side // n) for n in tile.shape[1:]))
    data = np.tile(tile, repeats)[:sections, :side, :side]
    viewer.add_image(data, scale=(50, 4, 4), units=("nm",) * 3, name="VNC")
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
    job = panel.run._desk.job
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


def in_new_process(shown: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Return what `measure` finds in a fresh interpreter."""
    words = ["--sections", str(options.sections), "--side", str(options.side)]
    words += ["--window", "shown" if shown else "hidden"]
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
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.window is not None:
        found = measure(options.window == "shown", options.sections, options.side)
        print(json.dumps(found))
        return
    from machine import describe  # it imports PyTorch, which a cold run has not

    machine = describe(threads=os.cpu_count() or 1)
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
