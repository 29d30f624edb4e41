"""Compare cells with drawn truth: `python benchmarks/cells.py`.

Our cells beside two watersheds of scikit-image, on the same probabilities of the
bundled weights: 1 - adapted Rand error and variation of information (bits), truth 0
left out. Prints the table of docs/cells.md and the time of a section of 1024² px.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.segmentation import watershed
from tifffile import imread

import napari_emseg as emseg
from napari_emseg.cells import segment_section
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = "isbi2012-unet"
THRESHOLD = 0.5
ISBI_HELD_OUT = (0, 2, 27, 29)

Picture = NDArray[Any]
Pair = tuple[Stack, list[Picture]]


def vnc(data: Path) -> Pair:
    """Sections 0, 5 and 10 of the VNC stack; cells are what membranes enclose."""
    raw, membranes = (imread(data / "vnc" / f"{n}.tif") for n in ("raw", "membranes"))
    truth = [ndi.label(membranes[z] == 0)[0] for z in (0, 5, 10)]
    return Stack(raw[[0, 5, 10]], voxel_size_nm=(50, 4.6, 4.6)), truth


def isbi(data: Path) -> Pair:
    """ISBI 2012 sections that the weights were neither trained nor chosen by."""
    images, labels = (
        np.stack(
            [
                np.asarray(Image.open(data / "isbi2012" / kind / f"{z:02d}.png"))
                for z in ISBI_HELD_OUT
            ]
        )
        for kind in ("images", "labels")
    )
    truth = [ndi.label(section > 0)[0] for section in labels]
    return Stack(images, voxel_size_nm=(50, 4, 4)), truth


def cortex(data: Path) -> Pair:
    """Two sections of mouse cortex, a tissue that the weights don't know."""
    raw, ids = (imread(data / "cortex_ac4" / f"{n}_00-29.tif") for n in ("raw", "ids"))
    return Stack(raw[[0, 20]], voxel_size_nm=(30, 6, 6)), [ids[0], ids[20]]


def ours(membrane: Picture) -> Picture:
    """Our cells with default settings, grown by 5 px."""
    return segment_section(membrane, CellSettings(threshold=THRESHOLD, grow=5))


def ours_inside(membrane: Picture) -> Picture:
    """Our cells with default settings."""
    return segment_section(membrane, CellSettings(threshold=THRESHOLD))


def from_peaks(membrane: Picture) -> Picture:
    """scikit-image as in its gallery: flood the depth of cells from its peaks."""
    inside = membrane <= THRESHOLD
    depth = ndi.distance_transform_edt(inside)
    peaks = peak_local_max(depth, min_distance=10, labels=inside.astype(int))
    markers = np.zeros(membrane.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, markers)


def from_areas(membrane: Picture) -> Picture:
    """scikit-image with care: flood probabilities from connected areas inside."""
    areas, _ = ndi.label(membrane <= THRESHOLD)
    areas[np.bincount(areas.ravel())[areas] < CellSettings().minimum_size] = 0
    return watershed(membrane, areas)


METHODS: dict[str, Callable[[Picture], Picture]] = {
    "this project": ours,
    "this project, Grow cells 0": ours_inside,
    "scikit-image, from connected areas": from_areas,
    "scikit-image, from peaks": from_peaks,
}


def scores(found: Picture, truth: Picture) -> tuple[float, float]:
    """Return 1 - adapted Rand error, and variation of information in bits."""
    error, _, _ = adapted_rand_error(truth, found, ignore_labels=(0,))
    information = variation_of_information(truth, found, ignore_labels=(0,))
    return 1 - float(error), float(sum(information))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    settings = PredictSettings(threads=args.threads)
    columns = {}
    for name, pair in {"VNC": vnc, "ISBI 2012": isbi, "cortex": cortex}.items():
        stack, truth = pair(args.data)
        membrane = emseg.predict(stack, WEIGHTS, settings=settings)
        columns[name] = membrane, truth
    print("| cells by | " + " | ".join(columns) + " | 1024², s |")
    print("|---|" + "---|" * (len(columns) + 1))
    for method, segment in METHODS.items():
        row = []
        for membrane, truth in columns.values():
            pairs = zip(membrane, truth, strict=True)
            rand, information = np.mean([scores(segment(p), t) for p, t in pairs], 0)
            row.append(f"{rand:.3f} / {information:.2f}")
        started = perf_counter()
        for membrane in columns["VNC"][0]:
            segment(membrane)
        seconds = (perf_counter() - started) / len(columns["VNC"][0])
        print(f"| {method} | " + " | ".join(row) + f" | {seconds:.2f} |")


if __name__ == "__main__":
    main()
