"""Score weights for isotropic stacks by cells through the stack.

`python benchmarks/score_volume.py fib-sem-split`: the threshold is the one that gives
the best cells in the validation sections, in three dimensions; at it sections 110-149,
which had no part in making the weights, are scored once, and both are written into the
card.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from data_sets import DATA, ROOT, RUNS
from numpy.typing import NDArray

import napari_emseg as emseg
from napari_emseg.core.card import DataSet
from napari_emseg.core.records import drain
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.metrics import overlap_scores
from napari_emseg.models.weights import Weights, read_weights, replace_card
from napari_emseg.segmentation.affinities import Affinities
from napari_emseg.segmentation.volume import iter_segment_volume

LEVELS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)

HELD_OUT = "fib25/ts2_raw_110-149.tif", "fib25/ts2_ids_110-149.tif"


@dataclass(frozen=True)
class Volume:
    """What a network says of a volume, and the cells that are there."""

    membrane: NDArray[np.float32]
    affinities: Affinities | None
    ids: NDArray[Any]

    @classmethod
    def of(cls, weights: Weights, em: Stack, ids: NDArray[Any]) -> Volume:
        """Predict all of it."""
        names = weights.card.affinity_classes
        settings = PredictSettings(device="cpu", invert="no")
        found = emseg.predict(
            em, weights, classes=("membrane", *names), settings=settings
        )
        shown = dict(zip(names, found[1:], strict=True))
        known = Affinities.named(shown, em.shape) if shown else None
        return cls(found[0], known, ids)

    def scores(self, threshold: float) -> dict[str, float]:
        """Score the cells that are made by default."""
        settings = CellSettings(threshold=threshold)
        work = iter_segment_volume(self.membrane, settings, affinities=self.affinities)
        found = overlap_scores(drain(work), self.ids)
        return {
            "volume_vi": found.vi_split + found.vi_merge,
            "volume_vi_split": found.vi_split,
            "volume_vi_merge": found.vi_merge,
            "volume_adapted_rand_error": found.adapted_rand_error,
        }


def score_volume(weights: Weights, data: Path) -> Weights:
    """Choose the threshold, score what is held out, and write both into the card."""
    source = DATA["fib25_isotropic"].source(data)
    size = source.images.voxel_size_nm
    first = min(source.split.validation) - 2
    rest = slice(first, None)
    em, ids = (np.asarray(stack.data[rest]) for stack in (source.images, source.labels))
    chosen_by = Volume.of(weights, Stack(em, voxel_size_nm=size), ids)
    tried = {level: chosen_by.scores(level)["volume_vi"] for level in LEVELS}
    threshold = min(tried, key=tried.__getitem__)
    print("VI of cells on validation by threshold:", tried)
    images, labels = (data / path for path in HELD_OUT)
    held_out = open_stack(images, voxel_size_nm=size)
    cells = np.asarray(open_stack(labels).data[:])
    scores = Volume.of(weights, held_out, cells).scores(threshold)
    known = weights.card.training_data[0]
    card = weights.card.model_copy(
        update={
            "threshold": threshold,
            "scores": {**weights.card.scores, **scores},
            "held_out_data": (
                DataSet(
                    name="FIB-25, fly optic medulla, sections 110-149",
                    sections="0-39",
                    licence=known.licence,
                    citation=known.citation,
                ),
            ),
        }
    )
    return replace_card(weights, card)


def main() -> None:
    """Score a file in `runs/`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    args = parser.parse_args()
    weights = read_weights(RUNS / f"{args.name}.safetensors")
    print(score_volume(weights, args.data).card.scores)


if __name__ == "__main__":
    main()
