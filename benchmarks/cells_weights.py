"""Tune the bundled weights to two tissues: `python benchmarks/cells_weights.py cortex`.

The bundled weights know fly neuropil in ssTEM; on mouse cortex and FIB-SEM their
membranes are poor, and no way from membranes to cells can mend that. `cells.py` shows
its methods on membranes of these tuned weights too. They stay in `runs/`: what they
learnt from may not be shipped.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage as ndi
from tifffile import imread

from napari_emseg.core.card import Card
from napari_emseg.core.records import EpochDone, drain
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import TrainSettings
from napari_emseg.models.weights import load_weights, save_weights
from napari_emseg.training.card import threshold_of
from napari_emseg.training.dataset import read_examples
from napari_emseg.training.patches import PatchSource
from napari_emseg.training.trainer import Trainer
from napari_emseg.training.validation import isbi_validation

ROOT = Path(__file__).resolve().parents[1]
PARENT = "isbi2012-unet"


@dataclass(frozen=True)
class Tissue:
    """Learns from columns up to `right` of sections that are enlarged `zoom` times.

    The columns beyond choose the best step and its threshold.
    """

    images: str
    ids: str
    sections: tuple[int, ...]
    right: int
    zoom: int
    pixel_size_nm: float
    steps: int


TISSUES = {
    "cortex": Tissue(
        "cortex_ac4/raw_00-29.tif",
        "cortex_ac4/ids_00-29.tif",
        (0, 3, 6, 9),
        512,
        1,
        6.0,
        300,
    ),
    "fib25": Tissue(
        "fib25/ts2_raw_150-249.tif",
        "fib25/ts2_ids_150-249.tif",
        tuple(range(0, 45, 3)),
        125,
        2,
        5.0,
        300,
    ),
}


def pair(tissue: Tissue, data: Path, columns: slice) -> tuple[Stack, Stack]:
    """Grey values and ids of some columns of its sections."""
    images, ids = (imread(data / p) for p in (tissue.images, tissue.ids))
    wanted = np.s_[list(tissue.sections), :, columns]
    zoom = (1, tissue.zoom, tissue.zoom)
    grey = ndi.zoom(images[wanted], zoom, order=1)
    cells = ndi.zoom(ids[wanted].astype(np.int32), zoom, order=0)
    return Stack(grey), Stack(cells)


def main() -> None:
    """Tune and write one weights file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tissue", choices=sorted(TISSUES))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tissue = TISSUES[args.tissue]
    parent = load_weights(PARENT)
    settings = TrainSettings(
        steps=tissue.steps, patch=192, learning_rate=1e-3, validate_every=100, seed=1
    )
    torch.manual_seed(settings.seed)
    network = parent.network()
    left, right = (
        read_examples(*pair(tissue, args.data, columns), "cells")
        for columns in (slice(tissue.right), slice(tissue.right, None))
    )
    source = PatchSource(left, settings, n_classes=2, device=torch.device("cpu"))
    trainer = Trainer(network, source, settings, validation=isbi_validation(right[:3]))

    def tell(record: object) -> None:
        if isinstance(record, EpochDone):
            print(f"{record.step}/{record.steps} {record.validation}", flush=True)

    network.train()
    result = drain(trainer.run(), tell)
    card = parent.card.model_copy(
        update={
            "name": f"cells-{args.tissue}",
            "summary": f"{PARENT} tuned to {args.tissue}, for benchmarks/cells.py.",
            "pixel_size_nm": (tissue.pixel_size_nm,) * 2,
            "threshold": threshold_of(result),
            "scores": {},
        }
    )
    path = ROOT / "runs" / f"cells-{args.tissue}.safetensors"
    print("wrote", save_weights(path, result.state, Card(**card.model_dump())).path)


if __name__ == "__main__":
    main()
