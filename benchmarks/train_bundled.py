"""Train the bundled weights: `python benchmarks/train_bundled.py isbi2012-unet`.

Recipes are in RECIPES, the data they name in `data_sets.py`. A run can be interrupted
and called again: it goes on from its checkpoint in `runs/`. At the end the best weights
by validation are scored once on the held-out sections, and the file with its card is
put among the bundled ones.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from data_sets import DATA, ROOT, RUNS
from score_volume import score_volume
from score_weights import rescore

from napari_emseg.core.card import USUAL_AFFINITIES, Card
from napari_emseg.core.records import EpochDone, Note, Record, drain
from napari_emseg.core.training import AugmentSettings, TrainSettings
from napari_emseg.models.weights import (
    Weights,
    bundled_folders,
    read_weights,
    replace_card,
)
from napari_emseg.training.card import Split
from napari_emseg.training.mixture import LabelledStack, Views, train_mixture
from napari_emseg.training.run import train_weights


@dataclass(frozen=True)
class Recipe:
    """What a bundled weights file is made of.

    `begins_with` names the recipe whose weights it goes on from. Those that aren't
    `bundled` stay in `runs/`.
    `all_sections`: nothing is held out, and the last weights are taken. Weights that
    are `scored_as` others have their threshold and scores: those of the same recipe
    on a part of the data.
    `shares` says how often patches come from a set, `views` along how many axes, where
    not as the set itself says.
    """

    summary: str
    architecture: str
    config: dict[str, Any]
    settings: TrainSettings
    data: tuple[str, ...] = ("isbi2012",)
    pixel_size_nm: float = 4.0
    licence: str = "BSD-3-Clause; learnt from ISBI 2012, for which no licence is stated"
    begins_with: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    bundled: bool = True
    views: Mapping[str, Views] = field(default_factory=dict)
    all_sections: bool = False
    scored_as: str | None = None

    def split(self, split: Split) -> Split:
        """Return which sections of a set are for what."""
        if not self.all_sections:
            return split
        every = (*split.training, *split.validation, *split.held_out)
        return Split(tuple(sorted(every)))

    def sources(self, folder: Path) -> list[LabelledStack]:
        """Open the data."""
        found = [DATA[key].source(folder) for key in self.data]
        return [
            replace(
                s,
                split=self.split(s.split),
                share=self.shares.get(s.name, s.share),
                views=self.views.get(s.name, s.views),
            )
            for s in found
        ]


GENERALIST = Recipe(
    summary="CE-Net of width 32 for neuropil of flies and mice, in TEM, SEM and "
    "FIB-SEM, at 6 nm per pixel.",
    architecture="cenet",
    config={"base": 32},
    settings=TrainSettings(
        steps=8000,
        border_weight=3,
        averaging=0.998,
        weight_decay=0.02,
        validate_every=500,
        seed=2012,
        augment=AugmentSettings(contrast=0.5, noise=0.15, invert=0.2),
    ),
    data=("isbi2012", "vnc", "cortex_ac4", "fib25"),
    pixel_size_nm=6.0,
    licence="CC BY-NC-SA 3.0 (learnt from VNC among others): non-commercial, share "
    "alike, cite; no licence is stated for ISBI 2012 and SNEMI3D",
)

FIB_SEM = Recipe(
    summary="Small U-Net for isotropic FIB-SEM of fly neuropil at 10 nm, with five "
    "sections in and affinities out.",
    architecture="unet",
    config={
        "base": 16,
        "levels": 3,
        "dropout": 0,
        "context": 5,
        "affinities": [*map(list, USUAL_AFFINITIES), [-3, 0, 0]],
    },
    settings=TrainSettings(
        steps=5000,
        patch=88,
        batch=8,
        learning_rate=3e-3,
        border_weight=3,
        averaging=0.998,
        validate_every=1000,
        affinity_weight=2,
        seed=2030,
        augment=AugmentSettings(
            # sections of a milled block are in place, and few are lost
            warp=0.3,
            elastic_sigma=3,
            contrast=0.4,
            noise=0.2,
            artefacts=0.03,
            shift=1,
            shifted=0.1,
            missing_neighbour=0.05,
            blank_neighbour=0.03,
        ),
    ),
    data=("fib25_isotropic",),
    pixel_size_nm=10.0,
    licence="LicenseRef-FIB25 as the data that it learnt from: Creative Commons, for "
    "commercial use too; name its authors and cite them",
)

# `em-membranes` goes on, with neighbouring sections in and affinities out; of its data
# FIB-SEM alone is cut along all axes
CONTEXT_GENERALIST = replace(
    GENERALIST,
    summary="CE-Net of width 32 for neuropil of flies and mice, in TEM, SEM and "
    "FIB-SEM, at 6 nm per pixel, with three sections in and affinities out.",
    config=GENERALIST.config
    | {"context": 3, "affinities": [*map(list, USUAL_AFFINITIES)]},
    settings=GENERALIST.settings.model_copy(
        update={
            "steps": 5000,
            "patch": 224,
            "learning_rate": 1e-3,
            "validate_every": 1000,
            "seed": 2028,
            "augment": GENERALIST.settings.augment.model_copy(update={"scale": 0.3}),
        }
    ),
    data=("isbi2012", "vnc", "cortex_ac4", "cortex_ac4_30", "fib25"),
    views={"fib25": 3},
    begins_with="em-membranes",
    bundled=False,
)

# batch normalisation where `em-membranes` has none, and skips at all resolutions
NORMALISED = replace(
    GENERALIST,
    config=GENERALIST.config | {"normalised": True, "fine_skips": True},
    settings=GENERALIST.settings.model_copy(
        update={
            "steps": 7000,
            "learning_rate": 1.5e-3,
            "validate_every": 7000,
            "seed": 2029,
            "augment": GENERALIST.settings.augment.model_copy(update={"scale": 0.4}),
        }
    ),
    data=("isbi2012", "vnc", "cortex_ac4", "cortex_ac4_30", "fib25"),
    shares={"isbi2012": 1.5, "cortex_ac4": 2.5, "cortex_ac4_30": 2.5, "fib25": 3},
    views={"fib25": 3},
    begins_with="em-membranes",
    bundled=False,
)

ISBI_UNET = Recipe(
    summary="U-Net of width 16 for fly neuropil in serial-section TEM.",
    architecture="unet",
    config={"base": 16},
    settings=TrainSettings(
        steps=2000, border_weight=3, averaging=0.998, weight_decay=0.02, seed=2012
    ),
)

RECIPES = {
    "em-membranes-context": CONTEXT_GENERALIST,
    # scored far from what it learns from, before the same is done with all sections
    "fib-sem-split": replace(FIB_SEM, bundled=False),
    "fib-sem": replace(
        FIB_SEM, data=("fib25_isotropic_all",), scored_as="fib-sem-split"
    ),
    "isbi2012-unet": ISBI_UNET,
    # not better where it could be looked at; see docs/accuracy.md
    "isbi2012-unet-all": replace(ISBI_UNET, all_sections=True, bundled=False),
    "isbi2012-unetpp": Recipe(
        summary="U-Net++ of width 16 for fly neuropil in serial-section TEM.",
        architecture="unetpp",
        config={"base": 16},
        settings=TrainSettings(
            # no border weight: when these were trained, this loss had no use for one
            steps=4000,
            loss="bce-dice",
            averaging=0.998,
            weight_decay=0.02,
            seed=2012,
        ),
    ),
    # the same with the deepest head as a teacher of the others: not trained yet; to be
    # compared with the one above, at depth 2, before it takes its place
    "isbi2012-unetpp-distilled": Recipe(
        summary="U-Net++ of width 16 for fly neuropil in serial-section TEM.",
        architecture="unetpp",
        config={"base": 16},
        settings=TrainSettings(
            steps=4000,
            loss="bce-dice",
            averaging=0.998,
            weight_decay=0.02,
            self_distillation=0.5,
            seed=2012,
        ),
        bundled=False,
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
    "em-membranes-first": replace(GENERALIST, bundled=False),
    # mostly on cortex, which still became better when the first round ended
    "em-membranes": replace(
        GENERALIST,
        settings=GENERALIST.settings.model_copy(
            update={"steps": 6000, "learning_rate": 1e-3, "seed": 2013}
        ),
        begins_with="em-membranes-first",
        shares={"cortex_ac4": 6},
    ),
    # better on cortex and worse on ISBI; see docs/accuracy.md
    "em-membranes-normalised": NORMALISED,
    "em-membranes-normalised-second": replace(
        NORMALISED,
        settings=GENERALIST.settings.model_copy(
            update={
                "steps": 2000,
                "learning_rate": 5e-4,
                "validate_every": 2000,
                "seed": 2031,
            }
        ),
        shares={
            "isbi2012": 2.5,
            "vnc": 2,
            "cortex_ac4": 2.5,
            "cortex_ac4_30": 2,
            "fib25": 2,
        },
        begins_with="em-membranes-normalised",
    ),
}


def card_of(name: str, recipe: Recipe) -> Card:
    """Say what the weights are and what they learn from; the run fills in the rest."""
    sets = [(DATA[key], recipe.split(DATA[key].split)) for key in recipe.data]
    return Card(
        name=name,
        summary=recipe.summary,
        architecture=recipe.architecture,
        config=recipe.config,
        pixel_size_nm=(recipe.pixel_size_nm, recipe.pixel_size_nm),
        training_data=tuple(d.in_card(split.training) for d, split in sets),
        validation_data=tuple(
            d.in_card(split.validation) for d, split in sets if split.validation
        ),
        held_out_data=tuple(
            d.in_card(split.held_out) for d, split in sets if split.held_out
        ),
        licence=recipe.licence,
        notes=(f"goes on from {recipe.begins_with}",) if recipe.begins_with else (),
    )


def describe(record: Record) -> None:
    """Print what happened."""
    if isinstance(record, EpochDone):
        scores = "  ".join(f"{k} {v:.4f}" for k, v in record.validation.items())
        place = f"{record.step}/{record.steps}  {record.ms_per_step:.0f} ms/step"
        print(f"{place}  {scores}{' *' if record.best else ''}", flush=True)
    elif isinstance(record, Note):
        print(record.message, flush=True)


def _one(
    source: LabelledStack, out: Path, recipe: Recipe, about: Card, device: str
) -> Generator[Record, None, Weights]:
    return train_weights(
        source.images,
        source.labels,
        out,
        meaning=source.meaning,
        split=source.split,
        architecture=recipe.architecture,
        config=recipe.config,
        settings=recipe.settings,
        device=device,
        about=about,
    )


def scored_as(weights: Weights, other: Weights) -> Weights:
    """Give weights the threshold and the scores of others, and say whose they are."""
    other_card = other.card
    learnt = ", ".join(f"{d.name}: {d.sections}" for d in other_card.training_data)
    scored = ", ".join(d.name for d in other_card.held_out_data)
    note = f"scores are of the same recipe on less ({learnt}), on {scored}"
    card = weights.card.model_copy(
        update={
            "threshold": other_card.threshold,
            "scores": other_card.scores,
            "notes": (*weights.card.notes, note),
        }
    )
    return replace_card(weights, card)


def _begun(name: str) -> Path:
    """Return the file of a recipe that another goes on from."""
    folders = (RUNS, *bundled_folders())
    return next(p for f in folders if (p := f / f"{name}.safetensors").is_file())


def main() -> None:
    """Train, score and write one weights file."""
    cuda = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, help="a folder; where it is bundled")
    parser.add_argument("--device", default=cuda)
    parser.add_argument("--threads", type=int, help="of the CPU; all by default")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = RECIPES[args.name]
    out = RUNS / f"{args.name}.safetensors"
    sources = recipe.sources(args.data)
    about = card_of(args.name, recipe)
    if len(sources) == 1 and sources[0].views == 1:
        weights = drain(_one(sources[0], out, recipe, about, args.device), describe)
    else:
        first = recipe.begins_with and _begun(recipe.begins_with)
        work = train_mixture(
            sources,
            out,
            about=about,
            settings=recipe.settings,
            begin=read_weights(first) if first else None,
            device=args.device,
        )
        weights = drain(work, describe)
        if weights.card.held_out_data:
            rescore(weights, args.data, args.device)
        elif recipe.scored_as:
            weights = scored_as(weights, read_weights(_begun(recipe.scored_as)))
        else:
            score_volume(weights, args.data)
        weights = read_weights(out)
    print("scores:", weights.card.scores)
    if recipe.bundled:
        # ours first, then that of napari-emseg-data, for what isn't for commercial use
        home = bundled_folders()[len(sources) > 1]
        print("wrote", shutil.copy(weights.path, args.out or home))


if __name__ == "__main__":
    main()
