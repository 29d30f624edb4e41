"""Measure correcting: live-wire, tools, undo, and a run beside hand work.

`python benchmarks/correct.py [--out FILE]` on the bundled stack's drawn membranes,
tiled to 1024².
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import thread_time

import numpy as np
from machine import describe
from scipy import ndimage as ndi

from napari_emseg.cells import segment_section
from napari_emseg.edit import (
    History,
    Linked,
    Rerun,
    close_gap,
    cut,
    delete_membrane,
    draw_wire,
    wire_field,
)
from napari_emseg.sample import vnc_membranes

RUNS = 15
LIMITS = {"wire_field_ms": 150.0, "wire_trace_ms": 30.0}
"""What a person at the mouse doesn't notice."""


def milliseconds(act: Callable[[], object]) -> float:
    """Return the CPU time of one call, which other work on the machine leaves alone."""
    start = thread_time()
    with suppress(ValueError):  # a random place may be refused, which takes time too
        act()
    return 1000 * (thread_time() - start)


def stack() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and cells of a section of 1024²."""
    drawn = np.asarray(vnc_membranes().section(0), np.float32) / 255
    likely = np.tile(ndi.gaussian_filter(drawn, 1.0), (2, 2))
    return likely[None], segment_section(likely)[None]


def measure() -> dict[str, float]:
    """Time every tool at random places, then undo a hundred edits."""
    likely, cells = stack()
    rng = np.random.default_rng(0)
    membranes = (likely > 0.5).astype(np.uint8)
    linked = Linked(
        membranes, cells, np.zeros(cells.shape, np.uint8), probabilities=likely
    )
    history = History(linked)
    sheet = linked.sheet(0)
    walls = np.argwhere(membranes[0] > 0)
    places = walls[rng.permutation(len(walls))[:RUNS]]
    times: dict[str, list[float]] = {}

    def time(name: str, act: Callable[[], object]) -> None:
        times.setdefault(name, []).append(milliseconds(act))

    for place in places:
        time("wire_field_ms", lambda p=place: wire_field(sheet, p))
        field = wire_field(sheet, place)
        time("wire_trace_ms", lambda f=field, p=place: f.path_to(p + 200))
        path = field.path_to(place + 60)
        time("wire_edit_ms", lambda p=path: draw_wire(sheet, p))
        time("delete_ms", lambda p=place: delete_membrane(sheet, p))
        time("gap_ms", lambda p=place: close_gap(sheet, p + 8))
        stroke = np.array([place - 20, place + 20])
        time("cut_ms", lambda s=stroke: cut(sheet, s))
    out = {f"{name}": round(median(t), 2) for name, t in times.items()}
    out |= {f"{name}_max": round(max(t), 2) for name, t in times.items()}
    return out | undoing(linked, history, walls, rng) | rerunning(linked)


def undoing(
    linked: Linked, history: History, walls: np.ndarray, rng: np.random.Generator
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
    took = [milliseconds(history.undo) for _ in range(100)]
    same = all((before[n] == np.array(a)).all() for n, a in linked.arrays.items())
    arrays = sum(np.asarray(array).nbytes for array in linked.arrays.values())
    return {
        "undo_ms": round(median(took), 2),
        "undo_ms_max": round(max(took), 2),
        "hundred_steps_kB": round(memory / 1000, 1),
        "arrays_kB": round(arrays / 1000, 1),
        "first_state_back": float(same),
    }


def rerunning(linked: Linked) -> dict[str, float]:
    """Put the cells of a run beside hand work."""
    cells = np.array(linked.arrays["cells"])
    nothing = np.zeros(cells.shape[1:], np.uint8)
    whole = (slice(0, cells.shape[1]), slice(0, cells.shape[2]))
    rerun = Rerun(linked.arrays["cells"], last_id=linked.last_id)

    def run() -> None:
        rerun.put(0, whole, cells[0], nothing)
        rerun.finish()

    return {"rerun_section_ms": round(milliseconds(run), 1)}


def main() -> None:
    """Measure, compare with the limits, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    measured = measure()
    result = {
        "what": "correcting a section of 1024²: CPU time of one thread, medians in ms",
        "machine": describe(1),
        "measured": measured,
        "within": {name: measured[name] <= top for name, top in LIMITS.items()},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
