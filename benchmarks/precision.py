"""Compare int8 and bf16 with float32: `python benchmarks/precision.py`.

Weights run over the validation sections of the data sets, each precision in turn, one
thread: processor seconds of a section, how far probabilities and scores differ, and
whether a tiled section is the one of one pass. Writes results/precision.json and the
table of docs/speed.md. Needs `napari-emseg[nncf]` and the shared data.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
from data_sets import DATA
from machine import describe
from numpy.typing import NDArray

from napari_emseg.core.errors import OtherPrecisionError
from napari_emseg.core.labels import as_labels, inside_mask
from napari_emseg.core.records import drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import Predictor
from napari_emseg.inference.openvino_runtime import cpu_facts
from napari_emseg.metrics import v_rand_v_info
from napari_emseg.metrics.overlap import average, overlap_by_section
from napari_emseg.models.weights import load_weights
from napari_emseg.segmentation import usual_cells

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs" / "speed.md"
SHARED = HERE.parents[1] / "shared" / "data"

PAIRS = (
    ("isbi2012-unet", "isbi2012"),
    ("isbi2012-unetpp", "isbi2012"),
    ("isbi2012-cenet", "isbi2012"),
    *(("em-membranes", data) for data in ("isbi2012", "vnc", "cortex_ac4", "fib25")),
    ("fib-sem", "fib25_isotropic"),
)


def run(
    predictor: Predictor, stack: Stack, z: int, settings: PredictSettings
) -> tuple[NDArray[np.float32], float]:
    """Return probabilities of a section, and the processor seconds of its run."""
    start = process_time()
    found = drain(predictor.run(stack, settings=settings, sections=[z])).probabilities
    values = np.zeros(0, np.float32) if found is None else found[0]
    return values, process_time() - start


def compare(weights: str, data: str, folder: Path, runs: int) -> list[dict[str, Any]]:
    """Return a row for each precision."""
    source = DATA[data].source(folder)
    sections = source.split.validation
    labels = np.stack([np.asarray(source.labels.section(z)) for z in sections])
    names = ["float32", "int8"]
    names += ["bf16"] if "BF16" in cpu_facts().capabilities else []
    loaded = load_weights(weights)
    plain = PredictSettings(device="cpu", threads=1, invert="no")
    ways = {name: plain.model_copy(update={"precision": name}) for name in names}
    predictors = {name: Predictor(loaded) for name in names}
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names[1:]:
        try:
            run(predictors[name], source.images, sections[0], ways[name])
        except OtherPrecisionError as e:
            print(weights, data, e, flush=True)
            del ways[name]
    names = list(ways)
    for z in sections:
        for nth in range(runs + 1):
            for name, way in ways.items():
                values, took = run(predictors[name], source.images, z, way)
                if nth:  # the first one calibrates and compiles
                    seconds[name].append(took)
                if nth == runs:
                    found[name].append(values)
    rows = []
    for name in names:
        tiled = ways[name].model_copy(update={"tile": 448})
        again = run(predictors[name], source.images, sections[-1], tiled)[0]
        rows.append(
            {
                **{"weights": weights, "data": data, "precision": name},
                "sections": list(sections),
                "cpu_seconds": round(median(seconds[name]), 4),
                "tiled_differs": float(np.abs(again - found[name][-1]).max()),
                **scores(found[name], found["float32"], labels, source.meaning, loaded),
            }
        )
        print(rows[-1], flush=True)
    return rows


def scores(
    found: list[NDArray[np.float32]],
    exact: list[NDArray[np.float32]],
    labels: NDArray[Any],
    meaning: Any,
    weights: Any,
) -> dict[str, float]:
    """Return how good a precision is, and how near to float32."""
    membranes, plain = np.stack(found), np.stack(exact)
    cells_of = usual_cells(weights.card.threshold)
    cells, own = (np.stack([cells_of(p) for p in each]) for each in (membranes, plain))
    ids = as_labels(labels, meaning) if meaning == "cells" else None
    inside = np.stack([inside_mask(section, meaning) for section in labels])
    rand = v_rand_v_info(1 - membranes, inside, threads=1)
    truth = inside.astype(np.uint8) if ids is None else ids
    vi = average(overlap_by_section(cells, truth)).variation_of_information
    near = average(overlap_by_section(cells, own))
    return {
        "mean_difference": float(np.abs(membranes - plain).mean()),
        "largest_difference": float(np.abs(membranes - plain).max()),
        "v_rand": round(rand.v_rand, 5),
        "v_info": round(rand.v_info, 5),
        "cells_vi": round(vi, 5),
        "cells_apart": round(near.adapted_rand_error, 5),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of docs/speed.md."""
    lines = [
        "| weights | on | precision | processor s | float32 takes | mean difference | "
        "V_Rand | V_Info | cells' VI (bits) | tiled differs by at most |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        exact = next(
            r
            for r in rows
            if (r["weights"], r["data"], r["precision"])
            == (row["weights"], row["data"], "float32")
        )
        times = exact["cpu_seconds"] / row["cpu_seconds"]
        lines.append(
            f"| {row['weights']} | {row['data']} | {row['precision']} "
            f"| {row['cpu_seconds']:.3f} "
            f"| {times:.2f}× | {row['mean_difference']:.4f} | {row['v_rand']:.4f} "
            f"| {row['v_info']:.4f} | {row['cells_vi']:.3f} "
            f"| {row['tiled_differs']:.1g} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", help="these weights; of others what is known stays")
    options = parser.parse_args()
    out = HERE / "results" / "precision.json"
    known = json.loads(out.read_text())["rows"] if options.only else []
    rows = []
    for weights, data in PAIRS:
        if options.only in (None, weights):
            rows += compare(weights, data, options.data, options.runs)
        else:
            rows += [r for r in known if (r["weights"], r["data"]) == (weights, data)]
    made = {"machine": describe(1), "cpu": list(cpu_facts().capabilities)}
    out.write_text(json.dumps(made | {"rows": rows}, indent=1) + "\n")
    begin, end = "<!-- begin precision -->", "<!-- end precision -->"
    head, rest = DOCS.read_text().split(begin)
    DOCS.write_text(f"{head}{begin}\n\n{table(rows)}\n\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
