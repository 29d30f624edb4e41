"""Compare one view with three on FIB-SEM: `python benchmarks/views.py`.

Probabilities of `em-membranes` from planes along z alone, and from the mean of planes
along all three axes, then cells by default settings. Writes results/views.json and a
table of docs/benchmarks/volume.md. The weights learnt from other sections, 150-224.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from time import process_time
from typing import Any

import numpy as np
from machine import describe
from pages import put, table
from tifffile import imread
from volume import BLOCKS, HERE, WEIGHTS, Picture, filled, score

import napari_emseg as emseg
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import load_weights

WAYS = {
    ("one view", "sections"): (1, {"link": True}),
    ("three views", "sections"): (3, {"link": True}),
    ("one view", "3-d"): (1, {"through": "3-d"}),
    ("three views", "3-d"): (3, {"through": "3-d"}),
}
"""Views, and cells, by what they are called."""


def eighths(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Cut a block at the middle of each axis."""
    halves = [(slice(0, n // 2), slice(n // 2, n)) for n in shape]
    return [(z, y, x) for z in halves[0] for y in halves[1] for x in halves[2]]


def profiles(cells: Picture, truth: Picture) -> float:
    """1 - adapted Rand error of a section, mean."""
    return 1 - fmean(score(c, t)["are"] for c, t in zip(cells, truth, strict=True))


def measure(data: Path) -> dict[str, Any]:
    """Predict in both ways and score the cells."""
    block, weights = BLOCKS["fib25"], load_weights(WEIGHTS)
    truth = imread(data / block.ids).astype(np.int64)
    images = Stack(imread(data / block.images), voxel_size_nm=block.voxel_size_nm)
    found, seconds = {}, {}
    for views in (1, 3):
        start = process_time()
        run = PredictSettings(threads=1, views=views)
        found[views] = emseg.predict(images, weights, settings=run)
        seconds[views] = process_time() - start
    rows = {}
    for (seen, through), (views, settings) in WAYS.items():
        chosen = CellSettings(threshold=weights.card.threshold, **settings)
        cells = filled(emseg.segment(found[views], settings=chosen)).astype(np.int64)
        each = [score(cells[part], truth[part]) for part in eighths(truth.shape)]
        rows[f"{seen}, {through}"] = {
            **score(cells, truth),
            "profiles": profiles(cells, truth),
            "blocks": [one["vi"] for one in each],
            "blocks_are": [one["are"] for one in each],
            "seconds": seconds[views],
        }
        print(seen, through, rows[f"{seen}, {through}"], flush=True)
    return {"block": block.name, "rows": rows, "machine": describe(1)}


def write_table(found: dict[str, Any]) -> None:
    """Put the numbers into the page."""
    head = ["membranes, cells by", "profiles, 1 - error", "VI (split + merge), bits"]
    head += ["adapted Rand error", "8 blocks: VI", "8 blocks: error", "network"]
    body = [
        [
            name,
            f"{r['profiles']:.3f}",
            f"{r['vi']:.2f} ({r['split']:.2f} + {r['merge']:.2f})",
            f"{r['are']:.3f}",
            f"{fmean(r['blocks']):.2f} ± {stdev(r['blocks']):.2f}",
            f"{fmean(r['blocks_are']):.3f} ± {stdev(r['blocks_are']):.3f}",
            f"{r['seconds']:.1f} s",
        ]
        for name, r in found["rows"].items()
    ]
    put("benchmarks/volume.md", "volume views", table(head, body))


def main() -> None:
    """Score and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data")
    found = measure(parser.parse_args().data)
    path = HERE / "results/views.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    write_table(found)


if __name__ == "__main__":
    main()
