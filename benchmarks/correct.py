"""Measure correcting: live-wire, tools, undo, and a run beside hand work.

`python benchmarks/correct.py [--clock cpu|wall] [--out FILE]` on the bundled stack's
drawn membranes, tiled to 1024². CPU time leaves other work on the machine alone; wall
time is what a person waits, and means something only where the load is low.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time

import numpy as np
from machine import describe
from scipy import ndimage as ndi

from napari_emseg.proofreading import (
    History,
    LinkedLabels,
    Rerun,
    SectionView,
    close_gap,
    cut,
    delete_membrane,
    draw_wire,
    wire_field,
)
from napari_emseg.sample import vnc_membranes
from napari_emseg.segmentation import segment_section

RUNS = 15
LIMITS = {"wire_field_ms": 150.0, "wire_trace_ms": 30.0}
"""What a person at the mouse doesn't notice."""


CLOCKS = {"cpu": thread_time, "wall": perf_counter}


class Stopwatch:
    """Times calls by one of the clocks."""

    def __init__(self, clock: str) -> None:
        self._now = CLOCKS[clock]
        self.times: dict[str, list[float]] = {}

    def milliseconds(self, act: Callable[[], object]) -> float:
        """Return how long one call took."""
        start = self._now()
        with suppress(ValueError):  # a random place may be refused, which takes time
            act()
        return 1000 * (self._now() - start)

    def time(self, name: str, act: Callable[[], object]) -> None:
        """Note how long one call took."""
        self.times.setdefault(name, []).append(self.milliseconds(act))

    def summary(self) -> dict[str, float]:
        """Return medians and maxima."""
        out = {name: round(median(t), 2) for name, t in self.times.items()}
        return out | {f"{name}_max": round(max(t), 2) for name, t in self.times.items()}


def stack() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and cells of a section of 1024²."""
    drawn = np.asarray(vnc_membranes().section(0), np.float32) / 255
    likely = np.tile(ndi.gaussian_filter(drawn, 1.0), (2, 2))
    return likely[None], segment_section(likely)[None]


def measure(watch: Stopwatch) -> dict[str, float]:
    """Time every tool at random places, then undo a hundred edits."""
    likely, cells = stack()
    rng = np.random.default_rng(0)
    membranes = (likely > 0.5).astype(np.uint8)
    linked = LinkedLabels(
        membranes, cells, np.zeros(cells.shape, np.uint8), probabilities=likely
    )
    history = History(linked)
    walls = np.argwhere(membranes[0] > 0)
    places = walls[rng.permutation(len(walls))[:RUNS]]
    using_tools(watch, linked.sheet(0), places)
    summary = watch.summary()
    return (
        summary | undoing(watch, linked, history, walls, rng) | rerunning(watch, linked)
    )


def using_tools(watch: Stopwatch, sheet: SectionView, places: np.ndarray) -> None:
    """Time every tool at some places on membranes."""
    for place in places:
        watch.time("wire_field_ms", lambda p=place: wire_field(sheet, p))
        field = wire_field(sheet, place)
        watch.time("wire_trace_ms", lambda f=field, p=place: f.path_to(p + 200))
        path = field.path_to(place + 60)
        watch.time("wire_edit_ms", lambda p=path: draw_wire(sheet, p))
        watch.time("delete_ms", lambda p=place: delete_membrane(sheet, p))
        watch.time("gap_ms", lambda p=place: close_gap(sheet, p + 8))
        stroke = np.array([place - 20, place + 20])
        watch.time("cut_ms", lambda s=stroke: cut(sheet, s))


def undoing(
    watch: Stopwatch,
    linked: LinkedLabels,
    history: History,
    walls: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Make a hundred edits of live-wire and deleting, and take them back."""
    before = {name: np.array(array) for name, array in linked.arrays.items()}
    while len(history.undoable) < 100:
        place = walls[rng.integers(len(walls))]
        sheet = linked.sheet(0)
        try:
            if rng.random() < 0.5:
                path = wire_field(sheet, place).path_to(
                    place + rng.integers(-80, 80, 2)
                )
                history.do(draw_wire(sheet, path))
            else:
                history.do(delete_membrane(sheet, place))
        except ValueError:
            continue
    memory = history.nbytes
    took = [watch.milliseconds(history.undo) for _ in range(100)]
    same = all((before[n] == np.array(a)).all() for n, a in linked.arrays.items())
    arrays = sum(np.asarray(array).nbytes for array in linked.arrays.values())
    return {
        "undo_ms": round(median(took), 2),
        "undo_ms_max": round(max(took), 2),
        "hundred_steps_kB": round(memory / 1000, 1),
        "arrays_kB": round(arrays / 1000, 1),
        "first_state_back": float(same),
    }


def rerunning(watch: Stopwatch, linked: LinkedLabels) -> dict[str, float]:
    """Put the cells of a run beside hand work."""
    cells = np.array(linked.arrays["cells"])
    nothing = np.zeros(cells.shape[1:], np.uint8)
    whole = (slice(0, cells.shape[1]), slice(0, cells.shape[2]))
    rerun = Rerun(linked.arrays["cells"], last_id=linked.last_id)

    def run() -> None:
        rerun.put(0, whole, cells[0], nothing)
        rerun.finish()

    return {"rerun_section_ms": round(watch.milliseconds(run), 1)}


def main() -> None:
    """Measure, compare with the limits, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="cpu")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    measured = measure(Stopwatch(options.clock))
    result = {
        "what": "correcting a section of 1024², one thread: medians and maxima in ms",
        "clock": options.clock,
        "load_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
        "machine": describe(1),
        "measured": measured,
        "within": {name: measured[name] <= top for name, top in LIMITS.items()},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
