"""The window stays alive while a network runs: a 10 ms timer beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Image, Labels
from qtpy.QtCore import Qt, QTimer

from napari_emseg.core.card import Card
from napari_emseg.models.weights import bundled_folders, save_weights
from napari_emseg.models.zoo import build

TIMER_MS = 10
P99_MS = 50
GAP_MS = 250


class Ticks(QTimer):
    """By how much each tick came too late, in ms."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[float] = []
        self.setTimerType(Qt.TimerType.PreciseTimer)
        self.setInterval(TIMER_MS)
        self._last = time.perf_counter()
        self.timeout.connect(self._on_tick)
        self.start()

    def _on_tick(self) -> None:
        now = time.perf_counter()
        self.late.append(1000 * (now - self._last) - TIMER_MS)
        self._last = now


def ms_to_add_a_layer(window) -> float:
    """What napari itself takes here for the dearest thing in a run's course."""
    layer = Labels(np.zeros((4, 512, 512), np.uint32), name="for comparison")
    start = time.perf_counter()
    window.viewer.add_layer(layer)
    window.qtbot.wait(1)
    spent = 1000 * (time.perf_counter() - start)
    window.viewer.layers.remove(layer)
    return spent


def test_a_run_does_not_hold_up_the_window(open_window, tmp_path) -> None:
    config = {"base": 8, "levels": 3}
    network = build("unet", config)
    card = Card(name="small", architecture="unet", config=config)
    own = save_weights(tmp_path / "small.safetensors", network.state_dict(), card)
    values = np.random.default_rng(0).integers(0, 255, (12, 512, 512), np.uint8)
    window = open_window(Image(values, name="em"))
    settings = window.controller.session.predict_settings
    window.controller.session.predict_settings = settings.model_copy(
        update={"tile": None, "threads": None}
    )
    window.membranes.add_weights(own.path)
    window.choose_scope(window.membranes, "all sections")
    # other programs of the machine can only make ticks later: the best of three counts
    for _ in range(3):
        adding = ms_to_add_a_layer(window)
        window.settle()
        ticks = Ticks()
        outcome = window.run(window.membranes)
        ticks.stop()
        assert outcome.error is None
        assert len(ticks.late) > 100
        most = np.percentile(ticks.late, 99)
        # what needs longer for one layer can't keep to 250 ms with two of them
        if most <= P99_MS and max(ticks.late) <= max(GAP_MS, 2 * adding):
            return
    pytest.fail(f"late by {most:.0f} ms (99 %), {max(ticks.late):.0f} ms at most")


@pytest.mark.slow
def test_bundled_weights_in_a_new_process_do_not_either() -> None:
    if not any(bundled_folders()[0].glob("*.safetensors")):
        pytest.skip("no bundled weights")
    script = Path(__file__).parents[2] / "benchmarks" / "event_loop.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, "--window", "hidden"],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("cold", "warm"):
        assert found[name]["p99_ms"] <= P99_MS
        assert found[name]["worst_ms"] <= GAP_MS
