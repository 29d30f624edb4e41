"""Train the bundled weights: `python benchmarks/train_bundled.py isbi2012-unet`.

Recipes are in RECIPES. A run can be interrupted and called again: it goes on from its
checkpoint in `runs/`. At the end the best weights by validation are scored once on the
held-out sections, and the file with its card is put among the bundled ones.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_emseg.core.card import Card, DataSet
from napari_emseg.core.records import EpochDone, Note, Record, drain
from napari_emseg.core.settings import TrainSettings
from napari_emseg.io import open_stack
from napari_emseg.models.weights import bundled_folder
from napari_emseg.train.card import Split
from napari_emseg.train.run import train_weights

ROOT = Path(__file__).resolve().parents[1]

CITATION = (
    "Arganda-Carreras et al.: Crowdsourcing the creation of image segmentation "
    "algorithms for connectomics. Frontiers in Neuroanatomy 9:142 (2015); data by "
    "Cardona et al., PLoS Biology 8(10): e1000502 (2010)"
)

ISBI_SPLIT = Split(
    training=tuple(range(9, 22)), validation=(4, 5, 25), held_out=(0, 1, 2, 27, 28, 29)
)
"""Challenge numbers. At least three sections lie between held-out and training ones;
both come from either half of the stack, whose noise differs."""


@dataclass(frozen=True)
class Recipe:
    """What a bundled weights file is made of."""

    summary: str
    architecture: str
    config: dict[str, Any]
    settings: TrainSettings


RECIPES = {
    "isbi2012-unet": Recipe(
        summary="U-Net of width 16 for fly neuropil in serial-section TEM.",
        architecture="unet",
        config={"base": 16},
        settings=TrainSettings(steps=5000, border_weight=3, seed=2012),
    ),
    "isbi2012-unetpp": Recipe(
        summary="U-Net++ of width 16 for fly neuropil in serial-section TEM.",
        architecture="unetpp",
        config={"base": 16},
        settings=TrainSettings(
            steps=4000,
            loss="bce-dice",
            border_weight=3,
            averaging=0.998,
            weight_decay=0.02,
            seed=2012,
        ),
    ),
    "isbi2012-cenet": Recipe(
        summary="CE-Net of width 32 for fly neuropil in serial-section TEM.",
        architecture="cenet",
        config={"base": 32},
        # no border weight: the paper's Dice loss has none
        settings=TrainSettings(
            steps=5000, loss="dice", averaging=0.998, weight_decay=0.02, seed=2012
        ),
    ),
}


def card_of(name: str, recipe: Recipe) -> Card:
    """Say what the weights are and what they learn from; the run fills in the rest."""
    return Card(
        name=name,
        summary=recipe.summary,
        architecture=recipe.architecture,
        pixel_size_nm=(4.0, 4.0),
        training_data=(_isbi(ISBI_SPLIT.training),),
        validation_data=(_isbi(ISBI_SPLIT.validation),),
        held_out_data=(_isbi(ISBI_SPLIT.held_out),),
        licence="BSD-3-Clause; learnt from ISBI 2012, for which no licence is stated",
    )


def _isbi(sections: tuple[int, ...]) -> DataSet:
    return DataSet(
        name="ISBI 2012 training stack",
        sections=ranges(sections),
        licence="none stated",
        citation=CITATION,
    )


def ranges(sections: tuple[int, ...]) -> str:
    """Write section numbers the short way: `0-2, 27-29`."""
    runs: list[list[int]] = []
    for z in sections:
        if runs and z == runs[-1][-1] + 1:
            runs[-1].append(z)
        else:
            runs.append([z])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


def places(folder: Path, split: Split) -> Split:
    """Turn challenge numbers into places in a folder that lacks some sections."""
    numbers = sorted(int(path.stem) for path in folder.glob("*.png"))

    def place(wanted: Iterable[int]) -> tuple[int, ...]:
        return tuple(numbers.index(z) for z in wanted)

    return Split(place(split.training), place(split.validation), place(split.held_out))


def describe(record: Record) -> None:
    """Print what happened."""
    if isinstance(record, EpochDone):
        scores = "  ".join(f"{k} {v:.4f}" for k, v in record.validation.items())
        place = f"{record.step}/{record.steps}  {record.ms_per_step:.0f} ms/step"
        print(f"{place}  {scores}{' *' if record.best else ''}", flush=True)
    elif isinstance(record, Note):
        print(record.message, flush=True)


def main() -> None:
    """Train, score and write one weights file."""
    cuda = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=bundled_folder())
    parser.add_argument("--device", default=cuda)
    parser.add_argument("--threads", type=int, help="of the CPU; all by default")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe, folder = RECIPES[args.name], args.data / "isbi2012"
    work = train_weights(
        open_stack(folder / "images"),
        open_stack(folder / "labels"),
        ROOT / "runs" / f"{args.name}.safetensors",
        meaning="inside",
        split=places(folder / "images", ISBI_SPLIT),
        architecture=recipe.architecture,
        config=recipe.config,
        settings=recipe.settings,
        device=args.device,
        about=card_of(args.name, recipe),
    )
    weights = drain(work, describe)
    print("held out:", weights.card.scores)
    print("wrote", shutil.copy(weights.path, args.out))


if __name__ == "__main__":
    main()
