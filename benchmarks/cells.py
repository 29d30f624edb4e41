"""Compare cells with drawn truth, and time them: `python benchmarks/cells.py`.

Every method beside two watersheds of scikit-image, in each section and linked, on the
same probabilities. Writes results/cells.json and the tables of docs/cells.md. Of each
stack the sections are scored that no setting was chosen by (`SETS` says by which they
were). Weights tuned by `cells_weights.py` are used where `runs/` has them.
"""

from __future__ import annotations

import argparse
import json
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any, get_args

import numpy as np
from machine import describe
from numpy.typing import NDArray
from pages import put, table
from PIL import Image
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.measure import label
from skimage.segmentation import expand_labels, watershed
from tifffile import imread

import napari_emseg as emseg
from napari_emseg.core.labels import inside_mask
from napari_emseg.core.records import drain
from napari_emseg.core.settings import CellMethod, CellSettings, PredictSettings
from napari_emseg.core.sinks import ArraySink
from napari_emseg.core.stack import Stack
from napari_emseg.metrics import overlap_scores, v_rand_at, v_rand_v_info
from napari_emseg.models.weights import load_weights
from napari_emseg.segmentation import link_stack, section_fragments, segment_section

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUNDLED = "isbi2012-unet"
METHODS = get_args(CellMethod)
TRUE = "the truth's own profiles, linked"
PARTS = "the truth's own parts, as far as they touch"

Picture = NDArray[Any]


@dataclass(frozen=True)
class Set:
    """Sections to score; `chosen_by` are those that settings were chosen by."""

    name: str
    weights: str
    voxel_size_nm: tuple[float, float, float]
    sections: tuple[int, ...]
    chosen_by: str
    through: bool
    """The truth has ids through the stack."""


SETS = {
    "isbi": Set(
        "ISBI 2012", BUNDLED, (50, 4, 4), (0, 1, 2, 27, 28, 29), "4, 5, 25", False
    ),
    "vnc": Set("VNC", BUNDLED, (50, 4.6, 4.6), tuple(range(8, 14)), "0-3", False),
    "cortex": Set(
        "cortex", BUNDLED, (30, 6, 6), tuple(range(20, 30)), "0-9", through=True
    ),
    "fib25": Set(
        "fib25", BUNDLED, (10, 10, 10), tuple(range(55, 100)), "0-44", through=True
    ),
    "cortex tuned": Set(
        "cortex, tuned",
        "runs/cells-cortex.safetensors",
        (30, 6, 6),
        tuple(range(20, 30)),
        "0-9, right half",
        through=True,
    ),
    "fib25 tuned": Set(
        "fib25, tuned",
        "runs/cells-fib25.safetensors",
        (10, 10, 10),
        tuple(range(55, 100)),
        "0-44, right half",
        through=True,
    ),
}


def read(key: str, data: Path) -> tuple[Picture, Picture]:
    """Grey values and true cells of the sections of a set."""
    chosen = list(SETS[key].sections)
    if key == "isbi":
        images, labels = (
            np.stack(
                [
                    np.asarray(Image.open(data / "isbi2012" / kind / f"{z:02d}.png"))
                    for z in chosen
                ]
            )
            for kind in ("images", "labels")
        )
        return images, profiles(labels > 0)
    if key == "vnc":
        images = imread(data / "vnc" / "raw.tif", key=chosen)
        return images, profiles(imread(data / "vnc" / "membranes.tif", key=chosen) == 0)
    folder, span = ("cortex_ac4", "00-29") if "cortex" in key else ("fib25", "150-249")
    prefix = "" if "cortex" in key else "ts2_"
    images, ids = (
        imread(data / folder / f"{prefix}{kind}_{span}.tif") for kind in ("raw", "ids")
    )
    return images[chosen], ids[chosen].astype(np.int64)


def profiles(cells: Picture) -> Picture:
    """Return sections in which what is connected is numbered from 1."""
    return np.stack([label(section, connectivity=1) for section in cells])


def from_peaks(membrane: Picture, threshold: float) -> Picture:
    """scikit-image as in its gallery: flood the depth of cells from its peaks."""
    inside = membrane <= threshold
    depth = ndi.distance_transform_edt(inside)
    peaks = peak_local_max(depth, min_distance=10, labels=inside.astype(int))
    markers = np.zeros(membrane.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, markers)


def from_areas(membrane: Picture, threshold: float) -> Picture:
    """scikit-image with care: flood probabilities from connected areas inside."""
    areas, _ = ndi.label(membrane <= threshold)
    areas[np.bincount(areas.ravel())[areas] < CellSettings().minimum_size] = 0
    return watershed(membrane, areas)


def ours(method: CellMethod, **others: Any) -> Callable[[Picture, float], Picture]:
    """Our cells by default settings but for the method, and others that are named."""

    def segment(membrane: Picture, threshold: float) -> Picture:
        chosen = CellSettings(threshold=threshold, method=method, **others)
        return segment_section(membrane, chosen)

    return segment


WAYS: dict[str, Callable[[Picture, float], Picture]] = {
    **{method: ours(method) for method in METHODS},
    "agglomeration, *Grow cells* 0": ours("agglomeration", grow=0),
    "scikit-image, from connected areas": from_areas,
    "scikit-image, from peaks": from_peaks,
}


def scores(found: Picture, truth: Picture, *, linked: bool) -> dict[str, float]:
    """1 - adapted Rand error and variation of information with its two parts, bits.

    Lines of a pixel between cells are given to the cells first: scikit-image's
    watershed leaves none.
    """
    closed = np.stack([expand_labels(section, 1.5) for section in found])
    s = overlap_scores(closed, truth, linked=linked)
    return {
        "rand": 1 - s.adapted_rand_error,
        "vi": s.variation_of_information,
        "split": s.vi_split,
        "merge": s.vi_merge,
    }


def predicted(key: str, images: Picture, cache: Path | None) -> Picture:
    """Probabilities of membrane, kept in a folder for the next time if there is one."""
    kept = None if cache is None else cache / f"{key.replace(' ', '-')}.npy"
    if kept is not None and kept.is_file():
        return np.load(kept)
    stack = Stack(images, voxel_size_nm=SETS[key].voxel_size_nm)
    weights = load_weights(where(SETS[key].weights))
    found = emseg.predict(stack, weights, settings=PredictSettings(threads=1))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, found)
    return found


def where(weights: str) -> str | Path:
    """Turn weights in `runs/` into a path."""
    return ROOT / weights if "/" in weights else weights


def is_there(weights: str) -> bool:
    """Tell if weights are bundled, or were tuned on this machine."""
    path = where(weights)
    return not isinstance(path, Path) or path.is_file()


def score_set(key: str, data: Path, cache: Path | None) -> dict[str, Any]:
    """Score every way of one set, in each section and linked."""
    images, truth = read(key, data)
    threshold = load_weights(where(SETS[key].weights)).card.threshold
    membrane = predicted(key, images, cache)
    found: dict[str, Any] = {"threshold": threshold, "apart": {}, "linked": {}}
    for way, segment in WAYS.items():
        cells = np.stack([segment(p, threshold) for p in membrane])
        found["apart"][way] = scores(cells, truth, linked=False)
        if SETS[key].through:
            through = drain(link_stack(cells)).cells
            found["linked"][way] = scores(through, truth, linked=True)
        if key == "isbi":
            mask = inside_mask(cells, "cells").astype(np.float32)
            found.setdefault("v_rand", {})[way] = float(
                v_rand_at(mask, truth, 0.5).mean()
            )
        print(key, way, found["apart"][way], found["linked"].get(way), flush=True)
    if key == "isbi":
        inside = (1 - membrane).astype(np.float32)
        best = v_rand_v_info(inside, truth, threads=1).v_rand
        fixed = float(v_rand_at(inside, truth, 1 - threshold).mean())
        found["v_rand_map"] = {"best": float(best), "at the card's threshold": fixed}
    if SETS[key].through and "tuned" not in key:
        through = drain(link_stack(profiles(truth))).cells
        found["linked"][TRUE] = scores(through, truth, linked=True)
        parts = label(truth, background=0, connectivity=1)
        found["linked"][PARTS] = scores(parts, truth, linked=True)
    return found


def timed(work: Callable[[], Any], repeat: int = 5) -> tuple[Any, float]:
    """Return what work gives and the best of some runs, s of processor time.

    All of it is single-threaded, so that is the time on a core with nothing else to do.
    """
    best = float("inf")
    for _ in range(repeat):
        started = process_time()
        result = work()
        best = min(best, process_time() - started)
    return result, best


def times(vnc: Picture, cortex: Picture, isbi: Picture) -> dict[str, Any]:
    """Time one section of 1024² px, its re-cuts, and the linking of 30 sections."""
    found: dict[str, Any] = {"section": {}, "again": {}}
    section = vnc[0]
    for way in (*METHODS, "scikit-image, from connected areas"):
        found["section"][way] = timed(lambda way=way: WAYS[way](section, 0.4), 3)[1]
    fragments = section_fragments(section, 0.4)
    seams = fragments.seams
    kept = (fragments.labels, fragments.reach, seams.pixels, seams.edges)
    found["fragments_bytes_per_px"] = sum(a.nbytes for a in kept) / section.size
    found["fragments"] = int(fragments.labels.max())
    for method in METHODS:
        chosen = CellSettings(method=method, join=0.7)
        found["again"][method] = timed(lambda chosen=chosen: fragments.cells(chosen))[1]
    volumes = {"30 × 512²": isbi, "30 × 1024²": cortex}
    found["link"] = {name: link_time(volume) for name, volume in volumes.items()}
    return found


def link_time(membrane: Picture) -> dict[str, float]:
    """Time the linking of 30 sections (of fewer, back and forth) and its memory."""
    order = [*range(len(membrane)), *reversed(range(len(membrane)))] * 5
    cells = {z: segment_section(membrane[z], CellSettings()) for z in set(order[:30])}
    volume = np.stack([cells[z] for z in order[:30]])
    seconds = timed(lambda: drain(link_stack(volume)), 1)[1]
    tracemalloc.start()
    drain(link_stack(volume, sink=Nowhere(volume.shape)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = 3 * volume[0].size  # sections that the linker holds
    return {"seconds": seconds, "peak_bytes_per_voxel_held": peak / held}


class Nowhere(ArraySink):
    """Takes sections and forgets them."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape, self.dtype = shape, np.dtype(np.uint32)

    def write(self, z: int, section: Picture) -> None:
        """Do nothing."""


def scores_table(found: dict[str, Any], kind: str, keys: Sequence[str]) -> str:
    """Return a table of the ways and the sets: rand / vi."""
    rows = []
    for way in (*WAYS, TRUE, PARTS):
        cells = [found[key][kind].get(way) for key in keys]
        if any(cells):
            said = (f"{c['rand']:.3f} / {c['vi']:.2f}" if c else "" for c in cells)
            rows.append([way, *said])
    return table(["cells by", *(SETS[key].name for key in keys)], rows)


def v_rand_table(found: dict[str, Any]) -> str:
    """Return V_Rand on held-out ISBI."""
    rows = [[f"cells by {way}", f"{v:.4f}"] for way, v in found["v_rand"].items()]
    maps = found["v_rand_map"].items()
    rows += [[f"probabilities, thinned, {k}", f"{v:.4f}"] for k, v in maps]
    return table(["on held-out ISBI 2012", "V_Rand"], rows)


def times_table(found: dict[str, Any]) -> str:
    """Return times and memory."""
    again = "again by another *Join below*"
    rows = [
        *([f"1024² px, {w}", f"{s:.2f} s"] for w, s in found["section"].items()),
        *([f"{again}, {w}", f"{1e3 * s:.0f} ms"] for w, s in found["again"].items()),
        ["kept for that", f"{found['fragments_bytes_per_px']:.1f} bytes/px"],
    ]
    for name, link in found["link"].items():
        per_voxel = f"{link['peak_bytes_per_voxel_held']:.0f} bytes a voxel"
        rows.append([f"linking {name} px", f"{link['seconds']:.1f} s, {per_voxel}"])
    return table(["", "one core"], rows)


def main() -> None:
    """Score, time, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, help="folder to keep probabilities in")
    parser.add_argument("--sets", nargs="*", choices=SETS, help="others stay as before")
    args = parser.parse_args()
    keys = [key for key, s in SETS.items() if is_there(s.weights)]
    machine = describe(1)
    results = HERE / "results" / "cells.json"
    before = {} if args.sets is None else json.loads(results.read_text())["sets"]
    found = {
        key: before[key]
        if key in before and key not in args.sets
        else score_set(key, args.data, args.cache)
        for key in keys
    }
    stacks = (
        predicted(key, read(key, args.data)[0], args.cache)
        for key in ("vnc", "cortex", "isbi")
    )
    record = {"machine": machine, "sets": found, "times": times(*stacks)}
    results.write_text(json.dumps(record, indent=1) + "\n")
    through = [key for key in keys if SETS[key].through]
    put("cells.md", "cells apart", scores_table(found, "apart", keys))
    put("cells.md", "cells linked", scores_table(found, "linked", through))
    put("cells.md", "cells v_rand", v_rand_table(found["isbi"]))
    put("cells.md", "cells times", times_table(record["times"]))


if __name__ == "__main__":
    main()
