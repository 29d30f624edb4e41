"""Measure batches: `python benchmarks/batch.py [--small] [--only PART ...]`.

- overhead: a batch by threads beside the plain predictor, on the same sections
- workers: two workers of one thread each, beside two processes of the plain predictor
  of one thread each that run at the same time
- memory: peak of the process of a batch over growing numbers of sections and sizes
- throughput: of each step, from which the cost of a teravoxel follows

Runs alternate and the median counts. Writes results/batch.json and the tables of
docs/batch.md. `--small` takes a minute and writes nothing. Times want a machine at
rest; memory doesn't mind company, so parts and sizes can be measured apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from machine import describe
from pages import put, table

from napari_emseg.batch import (
    BatchConfig,
    BatchSettings,
    ClusterSettings,
    find_inputs,
    run_batch,
)
from napari_emseg.batch.where import share_arenas
from napari_emseg.core.card import Card
from napari_emseg.core.records import drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.inference import predict_stack
from napari_emseg.io import open_sink, open_stack
from napari_emseg.models.weights import load_weights, save_weights
from napari_emseg.models.zoo import build
from napari_emseg.sample import vnc

RESULTS = Path(__file__).resolve().parent / "results" / "batch.json"
WEIGHTS = "isbi2012-unet"
TERA = 1e12


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--small", action="store_true")
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    words.add_argument("--sizes", nargs="+", help="of memory, such as 50x512")
    words.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.part:
        run_part(*given.part)
        return
    machine = {"machine": describe(1)}
    with tempfile.TemporaryDirectory() as place:
        for name in given.only:
            for found in PARTS[name](Path(place), given):
                print(json.dumps(found), flush=True)
                if not given.small:
                    keep(machine | {name: found})


def keep(found: dict[str, Any]) -> None:
    """Add what was found to the results, and to the page when nothing is missing."""
    if RESULTS.is_file():
        known = json.loads(RESULTS.read_text())
        rows = [*known.get("memory", []), *found.get("memory", [])]
        by_size = {(row["side"], row["sections"]): row for row in rows}
        found = known | found | {"memory": [by_size[k] for k in sorted(by_size)]}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    if set(PARTS) <= set(found):
        put("batch.md", "batch", measured(found))
        put("batch.md", "batch-cost", cost(found))


def stack_of(folder: Path, sections: int, side: int, name: str = "") -> Path:
    """Write sections made of the bundled ones, as OME-Zarr; made once."""
    path = folder / f"{name}{sections}x{side}.zarr"
    if path.exists():
        return path
    known = np.asarray(vnc().data[:])
    times = -(-side // min(known.shape[1:]))
    with open_sink(path, (sections, side, side), np.uint8) as sink:
        for z in range(sections):
            tiled = np.tile(known[z % len(known)], (times, times))[:side, :side]
            sink.write(z, tiled)
    return path


def batch(path: Path, out: Path, **given: Any) -> tuple[float, int]:
    """Run a batch; return seconds, and its parts."""
    shutil.rmtree(out, ignore_errors=True)
    weights, where = (
        given.pop("weights", WEIGHTS),
        given.pop("where", ClusterSettings()),
    )
    job = BatchConfig(
        find_inputs([str(path)]),
        out,
        load_weights(weights),
        BatchSettings(**given),
        where=where,
    )
    start = perf_counter()
    summary = drain(run_batch(job))
    if not summary.ok:
        msg = f"the batch failed: {summary.rows}"
        raise RuntimeError(msg)
    return perf_counter() - start, summary.tasks


def plain(path: Path, out: Path, settings: PredictSettings) -> float:
    """Run the plain predictor into a file; return seconds."""
    stack, weights = open_stack(path), load_weights(WEIGHTS)
    start = perf_counter()
    sink = open_sink(out, stack.shape, np.float32, overwrite=True)
    with sink:
        drain(predict_stack(stack, weights, settings=settings, sink=sink))
    return perf_counter() - start


def overhead(folder: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compare a batch by threads with the plain predictor."""
    sections, side = (4, 512) if given.small else (40, 1024)
    path = stack_of(folder, sections, side)
    predict = PredictSettings(invert="no", device="cpu")
    chosen = {"predict": predict, "probabilities": "float32"}
    steps: dict[str, list[float]] = {"membranes": [], "cells": [], "link": []}
    alone, batched = [], []
    for _ in range(1 if given.small else given.repeats):
        alone.append(plain(path, folder / "plain.zarr", predict))
        seconds, tasks = batch(path, folder / "out", steps=("membranes",), **chosen)
        batched.append(seconds)
        steps["membranes"].append(seconds)
        (made,) = (folder / "out").glob("*-membranes.zarr")
        known = made.rename(folder / "membranes.zarr")
        cells, _ = batch(known, folder / "out", steps=("cells",))
        both, _ = batch(known, folder / "out", steps=("cells", "link"))
        steps["cells"].append(cells)
        steps["link"].append(max(0.0, both - cells))
        shutil.rmtree(known)
    megapixels = sections * side * side / 1e6
    yield {
        "sections": sections,
        "side": side,
        "tasks": tasks,
        "plain_s": alone,
        "batch_s": batched,
        "overhead": median(batched) / median(alone) - 1,
        "steps": {k: 1000 * median(v) / megapixels for k, v in steps.items()},
    }


def workers(folder: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compare two workers of one thread with two processes of the plain predictor."""
    sections, side = (4, 512) if given.small else (40, 1024)
    half = stack_of(folder, sections // 2, side, "half-")
    whole = stack_of(folder, sections, side)
    predict = PredictSettings(invert="no", device="cpu", threads=1)
    apart, together = [], []
    for _ in range(1 if given.small else given.repeats):
        start = perf_counter()
        programs = [
            subprocess.Popen(
                [
                    sys.executable,
                    __file__,
                    "--part",
                    "plain",
                    str(half),
                    f"{folder}/{n}.zarr",
                ]
            )
            for n in "ab"
        ]
        if any(program.wait() for program in programs):
            msg = "a process of the plain predictor failed"
            raise RuntimeError(msg)
        apart.append(perf_counter() - start)
        seconds, _ = batch(
            whole,
            folder / "out",
            steps=("membranes",),
            predict=predict,
            probabilities="float32",
            where=ClusterSettings(workers=2),
        )
        together.append(seconds)
    yield {
        "sections": sections,
        "side": side,
        "two_processes_s": apart,
        "two_workers_s": together,
        "share": median(apart) / median(together),
    }


def memory(folder: Path, given: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Measure the peak of processes that run batches of growing size."""
    sizes = [(50, 512), (500, 512), (2, 4096), (2, 8192), (2, 16384), (5000, 512)]
    if given.small:
        sizes = [(20, 256), (60, 256)]
    if given.sizes:
        sizes = [tuple(int(n) for n in size.split("x")) for size in given.sizes]
    tiny = tiny_weights(folder)
    found = []
    for sections, side in sizes:
        path = stack_of(folder, sections, side)
        words = [sys.executable, __file__, "--part", str(tiny), str(path)]
        done = subprocess.run(
            [*words, str(folder / "out")],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        seen = json.loads(done.stdout.splitlines()[-1])
        found.append({"sections": sections, "side": side, **seen})
        shutil.rmtree(path)
        yield found


def run_part(what: str, path: str, out: str) -> None:
    """Do what a measurement needs a process of its own for."""
    if what == "plain":
        plain(
            Path(path), Path(out), PredictSettings(invert="no", device="cpu", threads=1)
        )
        return
    share_arenas()  # as `emseg batch` does
    predict = PredictSettings(
        invert="no", device="cpu", runtime="torch", tile=1024, threads=1
    )
    seconds, tasks = batch(
        Path(path),
        Path(out),
        weights=what,
        predict=predict,
        whole=2048,
        block=1024,
        steps=("membranes", "cells", "link"),
    )
    print(json.dumps({"peak_bytes": peak(), "seconds": seconds, "tasks": tasks}))


def peak() -> int:
    """Return the most memory that this program held so far, bytes; on Linux.

    What `resource` says begins with that of the program that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def tiny_weights(folder: Path) -> Path:
    """Save a network of one level that takes what is dark for membrane.

    It smooths before, so that there are about as many cells as a real one finds.
    """
    config = {"base": 2, "levels": 1, "n_classes": 2, "normalisation": "none"}
    state = build("unet", config).state_dict()
    for values in state.values():
        values.zero_()
    for name in ("down.0.0", "down.0.2", "up.0.2"):
        state[f"{name}.weight"][0, 0] = 1 / 9
    state["down.0.0.bias"][0] = 1
    state["up.0.0.weight"][0, [0, 2], 1, 1] = 1
    state["head.weight"][0, 0], state["head.bias"][0] = -12, 12 * 1.5
    card = Card(name="tiny", architecture="unet", config=config)
    return save_weights(folder / "tiny.safetensors", state, card, half=False).path


def measured(found: dict[str, Any]) -> str:
    """Return the table of what was measured."""
    about, lead, two = found["machine"], found["overhead"], found["workers"]
    rows = [
        (
            f"batch over the plain predictor, {lead['sections']} × {lead['side']}²",
            f"{lead['overhead']:+.1%}",
        ),
        ("two workers, of what two plain processes do", f"{two['share']:.2f}"),
    ]
    rows += [
        (
            f"peak of a process, {m['sections']:,} section{'s' * (m['sections'] > 1)} "
            f"of {m['side']:,}²",
            f"{m['peak_bytes'] / 1e9:.2f} GB, {m['seconds']:.0f} s",
        )
        for m in found["memory"]
    ]
    on = f"{about['processor']}, {about['cores']} cores, {about['date']}"
    return f"{table(('what', 'measured'), rows)}\n\nOn {on}; {WEIGHTS}, float32."


def cost(found: dict[str, Any]) -> str:
    """Return the table of what a teravoxel costs."""
    cores = found["machine"]["cores"]
    rows = []
    for step, ms in found["overhead"]["steps"].items():
        hours = ms / 1000 * TERA / 1e6 / 3600 * cores
        rows.append(
            (step, f"{ms:.0f} ms/Mpx on {cores} cores", f"{hours:,.0f} core-hours")
        )
    blocks = TERA / 2048**2
    rows.append(("storage", "uint8 and uint32, packed", "about 1 TB"))
    rows.append(("parts", f"{blocks:,.0f} blocks, four times", f"{4 * blocks:,.0f}"))
    return table(("step", "measured", "a teravoxel"), rows)


PARTS = {"overhead": overhead, "workers": workers, "memory": memory}
"""What is measured; each gives what it knows so far, the whole at last."""


if __name__ == "__main__":
    main()
