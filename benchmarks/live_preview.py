"""How soon a view is predicted once the camera rests: the live preview in a window.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/live_preview.py

A view of 512² px of a 2048² section is moved about, a new place every time; from the
last move on it is timed when the picture of each depth is in its layer, the 80 ms of
rest included. `moving` moves again every 50 ms for two seconds, before it rests: what
is outdated must not hold up what comes. `late` is how late a 10 ms timer of the window
was meanwhile. Limits are for two idle cores: look at `load_before`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from event_loop import Ticks

RESULT = Path(__file__).parent / "results" / "live_preview.json"
SIDE = 2048
VIEW = 512
WARM_UP = 3
PATIENCE = 120.0
LIMITS = {1: 0.3, 2: 1.0}
"""Seconds at each depth, on two idle cores."""


def wait_for(done: Callable[[], bool]) -> bool:
    """Let the window live until something is done; tell if it was in time."""
    from qtpy.QtWidgets import QApplication

    until = time.perf_counter() + PATIENCE
    while not done():
        if time.perf_counter() > until:
            return False
        QApplication.processEvents()
        time.sleep(0.001)
    return True


def window(weights: str, device: str) -> tuple[Any, Any]:
    """Open napari on a large section, with a view of 512² px of it, and the panel."""
    import napari

    from napari_emseg.core.settings import PredictSettings
    from napari_emseg.models.weights import list_weights
    from napari_emseg.sample import vnc
    from napari_emseg.widgets.dock import MembranesDock

    viewer = napari.Viewer()
    section = np.asarray(vnc().data[:2])
    data = np.tile(section, (1, SIDE // section.shape[1], SIDE // section.shape[2]))
    viewer.add_image(data, scale=(50, 4, 4), units=("nm",) * 3, name="VNC")
    dock = MembranesDock(viewer)
    viewer.window.add_dock_widget(dock, name="Membranes")
    viewer.window.resize(1200, 900)
    session = dock.panel._controller.session
    session.predict_settings = PredictSettings(device=device)
    session.choose_weights(list_weights()[weights])
    return viewer, dock.panel.live


class Watch:
    """Notes when the picture of each depth is shown."""

    def __init__(self, preview: Any) -> None:
        self.start = time.perf_counter()
        self.seen: dict[int, float] = {}
        self.total = 0
        self._show = preview._on_found
        preview._latest.found.disconnect(preview._on_found)
        preview._latest.found.connect(self._on_found)

    def begin(self) -> None:
        """Count from now."""
        self.seen.clear()
        self.total = 0
        self.start = time.perf_counter()

    def _on_found(self, found: Any) -> None:
        self._show(found)
        if found is not None:
            picture, _ = found
            self.total = picture.total
            self.seen[picture.depth or 0] = time.perf_counter() - self.start

    @property
    def done(self) -> bool:
        """Whether all pictures of the view are there."""
        return bool(self.total) and len(self.seen) >= self.total


def look_at(viewer: Any, y: float, x: float) -> None:
    """Put the middle of the view at a pixel, with 512² px on screen."""
    camera = viewer.scene.camera
    camera.center = (0.0, 4 * y, 4 * x)


def view_shape(preview: Any) -> tuple[int, int]:
    """Return how many px `(y, x)` are on screen."""
    from napari_emseg.widgets.camera import area_in_view

    controller = preview._controller
    area = area_in_view(controller.viewer, controller.source_layer)
    if area is None:
        return SIDE, SIDE
    return area[0].stop - area[0].start, area[1].stop - area[1].start


def zoom_to_view(viewer: Any, preview: Any) -> None:
    """Zoom until about 512² px are on screen."""
    for _ in range(6):
        y, x = view_shape(preview)
        viewer.scene.camera.zoom *= (y * x) ** 0.5 / VIEW
        wait = time.perf_counter() + 0.5
        wait_for(lambda until=wait: time.perf_counter() > until)


def measure(weights: str, device: str, moves: int) -> dict[str, Any]:
    """Move about, and time the pictures."""
    from qtpy.QtWidgets import QApplication

    viewer, preview = window(weights, device)
    rng = np.random.default_rng(0)
    places = rng.uniform(VIEW, SIDE - VIEW, (moves + WARM_UP, 2))
    look_at(viewer, SIDE / 2, SIDE / 2)
    zoom_to_view(viewer, preview)
    shape = view_shape(preview)
    watch, ticks = Watch(preview), Ticks()
    preview.box.click()
    if not wait_for(lambda: watch.done):
        msg = f"no picture: {preview.message.text()}"
        raise RuntimeError(msg)
    found: dict[str, Any] = {"view_px": list(shape), "first_s": watch.seen.copy()}
    for name in ("resting", "moving"):
        times: dict[int, list[float]] = {}
        for nth, place in enumerate(places):
            if nth == WARM_UP:
                ticks.start()
            if name == "moving":
                until = time.perf_counter() + 2
                while time.perf_counter() < until:
                    look_at(viewer, *rng.uniform(VIEW, SIDE - VIEW, 2))
                    step = time.perf_counter() + 0.05
                    wait_for(lambda step=step: time.perf_counter() > step)
            look_at(viewer, *place)
            watch.begin()
            wait_for(lambda: watch.done)
            if nth >= WARM_UP:
                for depth, seconds in watch.seen.items():
                    times.setdefault(depth, []).append(seconds)
        found[name] = {str(depth): _summary(values) for depth, values in times.items()}
        found[name]["late"] = ticks.stop()
    found["says"] = preview.message.text()
    found["on_by_itself"] = _on_by_itself(preview)
    viewer.close()
    QApplication.processEvents()
    return found


def _on_by_itself(preview: Any) -> bool | None:
    """Tell if this machine counts as quick enough."""
    from napari_emseg.session.live import is_quick, paces_of

    session = preview._controller.session
    size = session.source.stack.voxel_size_nm
    paces = paces_of(session.weights, session.predict_settings, size)
    return is_quick(paces, preview.settings)


def _summary(seconds: list[float]) -> dict[str, float]:
    values = np.asarray(seconds)
    return {
        "n": len(values),
        "median_s": round(float(np.median(values)), 3),
        "p90_s": round(float(np.percentile(values, 90)), 3),
        "worst_s": round(float(values.max()), 3),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="isbi2012-unetpp")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--moves", type=int, default=12)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 2)
    found = measure(options.weights, options.device, options.moves)
    from machine import describe  # it imports PyTorch, which a cold start has not

    machine = describe(threads=os.cpu_count() or 1) | {"load_before": load}
    resting = found["resting"]
    kept = {
        str(depth): resting[str(depth)]["p90_s"] <= limit
        for depth, limit in LIMITS.items()
        if str(depth) in resting
    }
    record = {
        "machine": machine,
        "weights": options.weights,
        "limits_s": {str(depth): limit for depth, limit in LIMITS.items()},
        **found,
        "within_limits": kept,
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
