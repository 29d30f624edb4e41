"""Train the classifier of edges between fragments: `python benchmarks/train_edges.py`.

Learns from cortex (SNEMI3D training volume) sections 36–64, on the probabilities of
`em-membranes`, which learnt from 0–13. Writes `edges.json` into napari-emseg-data,
since the data isn't for commercial use; sections 14–29 are what `volume.py` scores on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tifffile import imread

import napari_emseg as emseg
from napari_emseg.core.records import drain
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import load_weights
from napari_emseg.training.edges import fit, iter_known_edges

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "packages/napari-emseg-data/src/napari_emseg_data/weights"
VOXEL_SIZE = (30.0, 6.0, 6.0)
FIRST, SECTIONS = 30, range(36, 65)


def main() -> None:
    """Predict, record, train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data")
    parser.add_argument("--membranes", type=Path, help="of sections 30–64, .npy")
    parser.add_argument("--out", type=Path, default=OUT / "edges.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.data / "cortex_ac4"
    weights = load_weights("em-membranes")
    at = slice(SECTIONS[0] - FIRST, SECTIONS[-1] - FIRST + 1)
    if given.membranes is None:
        images = Stack(imread(folder / "raw_30-64.tif")[at], voxel_size_nm=VOXEL_SIZE)
        one = PredictSettings(threads=1)
        membrane = emseg.predict(images, weights, settings=one)
    else:
        membrane = np.load(given.membranes)[at]
    ids = imread(folder / "ids_30-64.tif")[at]
    settings = CellSettings(threshold=weights.card.threshold)
    known = drain(iter_known_edges(membrane, ids, settings))
    told = {kind: fit(kind, edges, 0) for kind, edges in known.items()}
    about = {
        "about": "Which fragments of a stack of sections are one cell",
        "learnt_from": "SNEMI3D training volume (AC4), mouse cortex, sections 36-64",
        "probabilities_by": "em-membranes",
        "licence": "CC BY-NC-SA 3.0, as em-membranes, on whose results it learnt; "
        "none is stated for the data",
        "citation": "Kasthuri et al.: Saturated Reconstruction of a Volume of "
        "Neocortex. Cell 162(3):648-661 (2015); SNEMI3D challenge",
    }
    given.out.write_text(json.dumps(about | told) + "\n")
    print(given.out, given.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
