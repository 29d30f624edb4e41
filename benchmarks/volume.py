"""Compare cells through the stack with drawn truth: `python benchmarks/volume.py`.

Ours in three dimensions, by one graph, and linked, beside scikit-image's watershed with
linking, and multicut and mutex watershed of bioimage-cpp alone, all on the same
probabilities of `em-membranes`; and by other weights, with their affinities. Writes
results/volume.json and the tables of docs/benchmarks/volume.md. Sections that are
scored were neither learnt by the weights or the classifier, nor looked at when settings
were chosen.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from time import process_time
from typing import Any

import numpy as np
from bioimage_cpp import distance, graph
from bioimage_cpp.graph.agglomeration import GaspClusterPolicy
from bioimage_cpp.graph.multicut import KernighanLinMulticut, MulticutObjective
from bioimage_cpp.segmentation import label, relabel_sequential, watershed
from cells import from_areas
from data_sets import RUNS
from machine import describe
from numpy.typing import NDArray
from pages import put, table
from scipy import ndimage as ndi
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tifffile import imread

import napari_emseg as emseg
from napari_emseg.core.records import drain
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.metrics import overlap_scores
from napari_emseg.models.weights import Weights, load_weights
from napari_emseg.segmentation import link_stack, segment_stack
from napari_emseg.segmentation.affinities import Affinities
from napari_emseg.segmentation.stack_graph import iter_segment_graph

HERE = Path(__file__).resolve().parent
WEIGHTS = "em-membranes"
Picture = NDArray[Any]
Method = Callable[[Stack, float], Picture]

OTHERS = {"fib25": (str(RUNS / "fib-sem-split.safetensors"),), "cortex": ()}
"""Weights whose own membranes and affinities go through our default way, beside.

`fib-sem` itself has learnt from the block: `train_bundled.py fib-sem-split` makes those
of the same recipe that haven't.
"""


@dataclass(frozen=True)
class Block:
    """Sections to score."""

    name: str
    images: str
    ids: str
    first: int
    stop: int
    voxel_size_nm: tuple[float, float, float]
    pieces: bool
    """True cells are what hangs together within these sections."""


BLOCKS = {
    "fib25": Block(
        "fib25 110–149, 250²",
        "fib25/ts2_raw_110-149.tif",
        "fib25/ts2_ids_110-149.tif",
        0,
        40,
        (10, 10, 10),
        pieces=False,
    ),
    "cortex": Block(
        "cortex 14–29, 1024²",
        "cortex_ac4/raw_00-29.tif",
        "cortex_ac4/ids_00-29.tif",
        14,
        30,
        (30, 6, 6),
        pieces=True,
    ),
}


def ours(**settings: Any) -> Method:
    """Our cells by default settings but for what is named."""

    def segment(p: Stack, threshold: float) -> Picture:
        chosen = CellSettings(threshold=threshold, **settings)
        return drain(segment_stack(p, settings=chosen)).cells

    return segment


def without_classifier(p: Stack, threshold: float) -> Picture:
    """Our graph, where edges go by membrane and size."""
    return drain(iter_segment_graph(p.data, CellSettings(threshold=threshold)))


def skimage_linked(p: Stack, threshold: float) -> Picture:
    """scikit-image in each section, then our linking by overlap."""
    cells = np.stack([from_areas(s, threshold) for s in p.data]).astype(np.uint32)
    return drain(link_stack(cells)).cells


def skimage_3d(p: Stack, threshold: float) -> Picture:
    """scikit-image in three dimensions, from connected areas."""
    return from_areas(p.data, threshold).astype(np.uint32)


def plain(method: str, *, by_section: bool = False) -> Method:
    """Watershed, graph and solver of bioimage-cpp, on mean probabilities."""

    def segment(p: Stack, threshold: float) -> Picture:
        b = p.data
        if by_section:
            parts, last = [], 0
            for section in b:
                part = _fragments(section, threshold) + last
                parts.append(part)
                last = int(part.max()) + 1
            found = np.stack(parts).astype(np.uint32)
        else:
            found = _fragments(b, threshold)
        rag = graph.region_adjacency_graph(found, number_of_threads=1)
        seen = graph.features.edge_map_features(rag, found, b, number_of_threads=1)
        mean, size = np.asarray(seen).T[:2]
        mean = np.clip(mean, 1e-3, 1 - 1e-3)
        odds = np.log((1 - mean) / mean)
        if method == "multicut":
            problem = MulticutObjective(rag, odds * size / size.mean())
            nodes = KernighanLinMulticut().optimize(problem)
        else:
            policy = GaspClusterPolicy(linkage="mutex_watershed")
            nodes = policy.optimize(rag, odds)
        cells = np.asarray(nodes).astype(np.uint32)[found] + 1
        return relabel_sequential(cells)[0]

    return segment


def _fragments(b: Picture, threshold: float) -> NDArray[np.uint32]:
    depth = distance.distance_transform((b < threshold).astype(np.uint8))
    depth = ndi.gaussian_filter(depth, 1.0)
    peaks = (ndi.maximum_filter(depth, 5) == depth) & (b < threshold)
    seeds = label(peaks.astype(np.uint8)).astype(np.uint32)
    heights = 0.5 * b + 0.5 * (1 - depth / max(float(depth.max()), 1e-6))
    return (watershed(heights.astype(np.float32), seeds) - 1).astype(np.uint32)


METHODS: dict[str, dict[str, Method]] = {
    "fib25": {
        "sections, linked": ours(link=True),
        "**3-d, agglomeration** (*auto*)": ours(through="3-d"),
        "3-d, multicut": ours(through="3-d", method="multicut"),
        "3-d, mutex watershed": ours(through="3-d", method="mutex-watershed"),
        "scikit-image, sections linked": skimage_linked,
        "scikit-image, 3-D": skimage_3d,
        "bioimage-cpp alone, multicut": plain("multicut"),
        "bioimage-cpp alone, mutex watershed": plain("mutex"),
    },
    "cortex": {
        "sections, linked": ours(link=True),
        "**graph, agglomeration** (*auto*)": ours(through="graph"),
        "graph, multicut": ours(through="graph", method="multicut"),
        "graph without classifier": without_classifier,
        "scikit-image, sections linked": skimage_linked,
        "bioimage-cpp alone, multicut": plain("multicut", by_section=True),
        "bioimage-cpp alone, mutex watershed": plain("mutex", by_section=True),
    },
}


def filled(cells: Picture) -> Picture:
    """Give lines between cells, and membranes, to the nearest cell of the section."""
    out = []
    for section in cells:
        if not section.any():
            out.append(section)
            continue
        _, (y, x) = distance.distance_transform(
            (section == 0).astype(np.uint8), return_indices=True
        )
        out.append(section[y, x])
    return np.stack(out)


def pieces_of(ids: Picture, grow: int = 5) -> Picture:
    """Return ids of what hangs together within the block, from true ids.

    Profiles of one id in neighbouring sections do if they overlap when grown so much.
    """
    parts, last = [], 0
    for section in ids:
        part = np.asarray(ndi.label(section > 0, np.ones((3, 3)))[0])
        # profiles of two ids may touch
        key = np.unique(part.astype(np.int64) * (int(ids.max()) + 1) + section)
        which = np.searchsorted(key, part.astype(np.int64) * (ids.max() + 1) + section)
        part = np.where(section > 0, which + 1 + last, 0)
        last = max(last, int(part.max()))
        parts.append(part)
    whose = np.zeros(last + 1, np.int64)
    for part, section in zip(parts, ids, strict=True):
        whose[part] = section
    edges = [np.zeros((0, 2), np.int64)]
    for a, b in pairwise(parts):
        wide = np.where(a > 0, a, ndi.maximum_filter(a, 2 * grow + 1))
        pairs = np.unique(np.stack([wide.ravel(), b.ravel()], 1), axis=0)
        edges.append(
            pairs[(pairs > 0).all(1) & (whose[pairs[:, 0]] == whose[pairs[:, 1]])]
        )
    ends = np.concatenate(edges)
    ones = np.ones(len(ends), bool)
    joined = coo_array((ones, (ends[:, 0], ends[:, 1])), shape=(last + 1, last + 1))
    piece = connected_components(joined, directed=False)[1] + 1
    piece[0] = 0
    return np.stack([piece[part] for part in parts])


def score(cells: Picture, truth: Picture) -> dict[str, float]:
    """VI and adapted Rand error where the truth has cells."""
    known = truth > 0
    found = overlap_scores(cells[known][None] + 1, truth[known][None])
    return {
        "vi": found.variation_of_information,
        "split": found.vi_split,
        "merge": found.vi_merge,
        "are": found.adapted_rand_error,
    }


def predict(images: Stack, weights: Weights) -> tuple[Stack, Affinities | None]:
    """Return membranes, and affinities where the weights have them."""
    names = weights.card.affinity_classes
    settings = PredictSettings(threads=1)
    found = emseg.predict(
        images, weights, classes=("membrane", *names), settings=settings
    )
    p, *more = found
    stack = Stack(np.ascontiguousarray(p), voxel_size_nm=images.voxel_size_nm)
    shown = dict(zip(names, more, strict=True))
    return stack, Affinities.named(shown, stack.shape) if shown else None


def compare(key: str, data: Path, own: Sequence[str]) -> dict[str, Any]:
    """Score every method on a block, then our default way with other weights."""
    block = BLOCKS[key]
    at = slice(block.first, block.stop)
    truth = imread(data / block.ids)[at].astype(np.int64)
    images = Stack(imread(data / block.images)[at], voxel_size_nm=block.voxel_size_nm)
    if block.pieces:
        truth = pieces_of(truth)
    rows = {}
    weights = load_weights(WEIGHTS)
    stack, _ = predict(images, weights)
    for name, method in METHODS[key].items():
        rows[name] = measure(partial(method, stack, weights.card.threshold), truth)
        show(key, name, rows[name])
    for other in own:
        weights = load_weights(other)
        start = process_time()
        stack, affinities = predict(images, weights)
        network = process_time() - start
        ways = {"": affinities, ", membranes alone": None} if affinities else {"": None}
        for words, known in ways.items():
            name = f"`{Path(other).stem}`{words}"
            work = partial(by_default, stack, weights.card.threshold, known)
            rows[name] = measure(work, truth) | {"network": network}
            show(key, name, rows[name])
    return {"block": block.name, "rows": rows}


def by_default(p: Stack, threshold: float, affinities: Affinities | None) -> Picture:
    """Cells through the stack as one gets them who chooses nothing."""
    settings = CellSettings(threshold=threshold, through="auto")
    return drain(segment_stack(p, settings=settings, affinities=affinities)).cells


def measure(segment: Callable[[], Picture], truth: Picture) -> dict[str, Any]:
    """Make cells; score them in the whole block, its quarters, and by section."""
    start = process_time()
    cells = segment()
    seconds = process_time() - start
    cells = filled(np.asarray(cells)).astype(np.int64)
    height, width = (n // 2 for n in truth.shape[1:])
    quarters = [
        (slice(None), slice(y, y + height), slice(x, x + width))
        for y in (0, height)
        for x in (0, width)
    ]
    each = [score(cells[q], truth[q]) for q in quarters]
    profiles = [score(*pair)["are"] for pair in zip(cells, truth, strict=True)]
    return {
        **score(cells, truth),
        "seconds": seconds,
        "quarters": [one["vi"] for one in each],
        "quarters_are": [one["are"] for one in each],
        "profiles": 1 - fmean(profiles),
    }


def show(key: str, name: str, row: dict[str, Any]) -> None:
    """Print a row."""
    print(key, name, {k: np.round(v, 3) for k, v in row.items()}, flush=True)


def write_table(key: str, found: dict[str, Any]) -> None:
    """Put the numbers of a block into the page."""
    head = ["cells by", "VI (split + merge), bits", "adapted Rand error", "profiles"]
    head += ["quarters: VI", "quarters: error", "processor time"]
    body = [
        [
            name,
            f"{r['vi']:.2f} ({r['split']:.2f} + {r['merge']:.2f})",
            f"{r['are']:.3f}",
            f"{r['profiles']:.3f}",
            f"{fmean(r['quarters']):.2f} ± {stdev(r['quarters']):.2f}",
            f"{fmean(r['quarters_are']):.3f} ± {stdev(r['quarters_are']):.3f}",
            f"{r['seconds']:.1f} s",
        ]
        for name, r in found["rows"].items()
    ]
    put("benchmarks/volume.md", f"volume {key}", table(head, body))


def main() -> None:
    """Score and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data")
    parser.add_argument("--only", choices=list(BLOCKS))
    parser.add_argument("--also", nargs="+", help="other weights: names or files")
    given = parser.parse_args()
    path = HERE / "results/volume.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    for key in [given.only] if given.only else BLOCKS:
        told[key] = compare(key, given.data, given.also or OTHERS[key])
        told["machine"] = describe(1)
        path.write_text(json.dumps(told, indent=1) + "\n")
        write_table(key, told[key])


if __name__ == "__main__":
    main()
