"""How long a round of learning keeps the window's thread from running at a stretch.

    python benchmarks/interpreter_lock.py

A round runs in a thread as the plugin's does; the main thread wakes up every 3 ms and
notes how much processor time the round has used since. What holds the interpreter's
lock, such as a collection of all objects or compiled code that doesn't let go of it,
shows as a long stretch. Unlike the lateness of a timer (`event_loop.py`) this can be
measured beside other work.
"""

from __future__ import annotations

import argparse
import gc
import json
import threading
import time
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from event_loop import em
from machine import describe

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import FinetuneSettings
from napari_emseg.models.weights import load_weights
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.widgets import background

RESULT = Path(__file__).parent / "results" / "interpreter_lock.json"
OBJECTS = 300_000
"""Made beside those of the libraries: a window has 700,000 or more."""
SIDE = 512


def round_of(name: str, steps: int, folder: str) -> Generator[Any, None, Any]:
    """Learn from a stroke and a reviewed section; another one judges."""
    from napari_emseg.training.finetune import finetune_weights

    data = em(6, SIDE)
    corrections = np.zeros(data.shape, np.uint8)
    corrections[0, 40:46, 40:400] = 1
    known = TrainingSet.from_corrections(
        Stack(data, name="VNC", voxel_size_nm=(50, 4, 4)),
        corrections,
        reviewed=[Region.whole(z, (SIDE, SIDE)) for z in (1, 5)],
    )
    settings = FinetuneSettings(
        steps=steps, patience=0, invert="no", patch=128, batch=2
    )
    output = Path(folder) / "candidate.safetensors"
    return (
        yield from finetune_weights(
            load_weights(name), [known], output, settings=settings
        )
    )


def measure(name: str, steps: int) -> dict[str, Any]:
    """Run a round beside this thread; return the longest stretches, in ms."""
    full: list[bool] = []

    def note(phase: str, about: dict[str, int]) -> None:
        full.append(phase == "start" and about["generation"] == 2)

    with TemporaryDirectory() as folder:
        work = background.with_training(round_of(name, steps, folder))
        thread = threading.Thread(target=drain, args=(work,))
        gc.collect()
        gc.callbacks.append(note)
        thread.start()
        clock = time.pthread_getcpuclockid(thread.ident or 0)
        stretches, last = [], 0.0
        while thread.is_alive():
            time.sleep(0.003)
            try:
                now = time.clock_gettime(clock)
            except OSError:  # it ended meanwhile
                break
            stretches.append(1000 * (now - last))
            last = now
        thread.join()
        gc.callbacks.remove(note)
    return {
        "objects": len(gc.get_objects()),
        "full_collections": sum(full),
        "processor_seconds": round(last, 2),
        "longest_ms": [round(s, 1) for s in sorted(stretches, reverse=True)[:5]],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="isbi2012-unet")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    import napari  # noqa: F401 - its objects are looked through, too

    background.load_torch()
    ballast = [[k] for k in range(OBJECTS)]
    found = measure(options.weights, options.steps)
    record = {
        "machine": describe(threads=1),
        "weights": options.weights,
        "steps": options.steps,
        **found,
    }
    del ballast
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
