"""How soon cells are found, and follow a slider: seconds on the clock, in a window.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/recut.py

A section of 1024² px of real EM: its membranes once, then its cells again and again,
from the click on Run (`cells`) and without a window (`cells alone`). Then *Merge
threshold* is moved, a new value every time, and it is timed when the cells are others
and the canvas has been drawn (`slider`). Limits are for two idle cores: look at
`load_before` of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import describe

RESULT = Path(__file__).parent / "results" / "recut.json"
PATIENCE = 10.0
LIMITS = {"cells alone": 0.2, "slider": 0.05}


def until(done: Callable[[], bool]) -> None:
    """Let the window live until something is done."""
    from qtpy.QtWidgets import QApplication

    while not done():
        QApplication.processEvents()
        time.sleep(0.0005)


def measure(weights: str, times: int) -> dict[str, list[float]]:
    """Open a window, run, and move the slider."""
    import napari

    from napari_emseg.core.records import drain
    from napari_emseg.core.settings import CellSettings
    from napari_emseg.sample import vnc
    from napari_emseg.segmentation import segment_stack

    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    _, dock = viewer.window.add_plugin_dock_widget("napari-emseg", "EM segmentation")
    section = np.asarray(vnc().data[:2])
    data = np.pad(section, [(0, 0), (0, 512), (0, 512)], mode="symmetric")
    viewer.add_image(data, scale=(50, 4, 4), units=("nm",) * 3, name="VNC")
    box = dock.panel("Membranes").weights
    until(lambda: box.findText(weights) >= 0)
    box.setCurrentIndex(box.findText(weights))
    box.activated.emit(box.currentIndex())
    job = dock.panel("Membranes").run._controller.job

    def run(name: str) -> float:
        dock.panel(name).scope.choice.setCurrentText("this section")
        button = dock.panel(name).run.button
        until(button.isEnabled)
        start = time.perf_counter()
        button.click()
        until(lambda: not job.busy)
        return time.perf_counter() - start

    run("Membranes")
    found: dict[str, list[float]] = {"cells": [run("Cells") for _ in range(times + 2)]}
    membrane = np.asarray(viewer.layers["VNC membranes"].data)
    if membrane.dtype == np.uint8:
        membrane = membrane.astype(np.float32) / 255
    alone = []
    for _ in range(times + 1):
        start = time.perf_counter()
        drain(segment_stack(membrane, settings=CellSettings()))
        alone.append(time.perf_counter() - start)
    found["cells alone"] = alone
    found["slider"] = moves(viewer, dock.panel("Cells"), 2 * times)
    viewer.close()
    # the first ones compile, or fill caches
    return {name: seconds[1:] for name, seconds in found.items()}


def moves(viewer: Any, panel: Any, times: int) -> list[float]:
    """Move *Merge threshold*; seconds until the cells are others and are drawn."""
    drawn: list[float] = []
    canvas = viewer.window._qt_viewer.canvas._scene_canvas
    canvas.events.draw.connect(lambda _: drawn.append(time.perf_counter()))
    cells = viewer.layers["VNC cells"]
    slider = panel.main.findChild(object, "join")
    found = []
    for k in range(times):
        value = 0.75 + 0.005 * k if k % 2 else 0.45 + 0.005 * k  # each cuts otherwise
        before = np.array(cells.data[viewer.dims.current_step[0]])
        start = time.perf_counter()
        slider.setValue(float(value))
        until(partial(differ, before, cells, viewer, start))
        drawn.clear()
        until(lambda: bool(drawn))
        found.append(drawn[-1] - start)
        pause = time.perf_counter() + 0.3
        until(lambda pause=pause: time.perf_counter() > pause)
    return found


def differ(before: Any, cells: Any, viewer: Any, start: float) -> bool:
    """Tell if a section's cells are others; an error after ten seconds."""
    if time.perf_counter() - start > PATIENCE:
        msg = "the cells did not follow the slider"
        raise RuntimeError(msg)
    return not np.array_equal(before, cells.data[viewer.dims.current_step[0]])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="isbi2012-unet")
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    record: dict[str, Any] = {
        "machine": describe(threads=os.cpu_count() or 1),
        "weights": options.weights,
    }
    for name, seconds in measure(options.weights, options.times).items():
        row = {"median": round(median(seconds), 4), "worst": round(max(seconds), 4)}
        record[name] = row | {"n": len(seconds)}
        limit = f", {LIMITS[name]} s asked" if name in LIMITS else ""
        print(f"{name}: {row['median']} s, at worst {row['worst']} s{limit}")
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
