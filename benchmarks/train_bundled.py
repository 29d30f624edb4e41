"""Train the bundled weights: `python benchmarks/train_bundled.py isbi2012-unet`.

Recipes are in RECIPES. A run can be interrupted and called again: it goes on
from its checkpoint in `runs/`. At the end the best weights by validation are scored
once on the held-out sections and written with their card.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

import napari_emseg
from napari_emseg.core.card import Card, DataSet, Training
from napari_emseg.core.records import EpochDone, Note, Record, drain
from napari_emseg.core.settings import Normalisation, TrainSettings
from napari_emseg.io import open_stack
from napari_emseg.metrics import isbi_scores, v_rand_v_info
from napari_emseg.models.forward import predict_picture
from napari_emseg.models.weights import bundled_folder, save_weights
from napari_emseg.models.zoo import build
from napari_emseg.train.dataset import Example, PatchSource, read_examples
from napari_emseg.train.trainer import Trainer
from napari_emseg.train.validation import isbi_validation
from napari_emseg.train.weightmap import INSIDE

ROOT = Path(__file__).resolve().parents[1]

ISBI = (
    "Arganda-Carreras et al.: Crowdsourcing the creation of image segmentation "
    "algorithms for connectomics. Frontiers in Neuroanatomy 9:142 (2015); data by "
    "Cardona et al., PLoS Biology 8(10): e1000502 (2010)"
)


@dataclass(frozen=True)
class Recipe:
    """What a bundled weights file is made of.

    Held-out and training sections have at least three sections between them, and come
    from both halves of the stack, whose noise differs.
    """

    summary: str
    architecture: str
    config: dict[str, Any]
    settings: TrainSettings
    training: tuple[int, ...] = tuple(range(9, 22))
    validation: tuple[int, ...] = (4, 5, 25)
    held_out: tuple[int, ...] = (0, 1, 2, 27, 28, 29)
    pixel_size_nm: tuple[float, float] = (4.0, 4.0)
    notes: tuple[str, ...] = field(default_factory=tuple)


RECIPES = {
    "isbi2012-unet": Recipe(
        summary="U-Net of width 16 for fly neuropil in serial-section TEM.",
        architecture="unet",
        config={"base": 16},
        settings=TrainSettings(steps=5000, border_weight=3, seed=2012),
    ),
}


def read_isbi(
    data: Path, sections: Iterable[int], rule: Normalisation
) -> list[Example]:
    """Read ISBI 2012 training sections by their number in the challenge."""
    examples = []
    for z in sections:
        images, labels = (
            open_stack(data / "isbi2012" / kind / f"{z:02d}.png")
            for kind in ("images", "labels")
        )
        examples += read_examples(images, labels, "inside", rule=rule)
    return examples


def describe(record: Record) -> None:
    """Print what happened."""
    if isinstance(record, EpochDone):
        scores = "  ".join(f"{k} {v:.4f}" for k, v in record.validation.items())
        mark = " *" if record.best else ""
        print(
            f"{record.step}/{record.steps}  {record.ms_per_step:.0f} ms/step  "
            f"{scores}{mark}",
            flush=True,
        )
    elif isinstance(record, Note):
        print(record.message, flush=True)


def held_out_scores(
    network: torch.nn.Module, examples: list[Example], threshold: float
) -> dict[str, float]:
    """Score once: the challenge's maximum over thresholds, and the fixed threshold."""
    network.eval()
    inside = np.stack([predict_picture(network, e.image)[INSIDE] for e in examples])
    truth = np.stack([e.target == INSIDE for e in examples])
    best = isbi_scores(inside, truth)
    fixed = v_rand_v_info((inside > 1 - threshold).astype(np.float32), truth)
    names = ("v_rand", "v_info", "rand_error", "pixel_error", "warping_error")
    scores = {name: float(getattr(best, name)) for name in names}
    scores["v_rand_at_threshold"] = fixed.v_rand
    scores["v_info_at_threshold"] = fixed.v_info
    return scores


def hardware(device: torch.device) -> str:
    """Name the processor, and how many threads were used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        model = next(
            (line.split(": ")[1] for line in lines if line.startswith("model name")),
            model,
        )
    return f"{model}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def ranges(sections: tuple[int, ...]) -> str:
    """Write section numbers the short way: `0-2, 27-29`."""
    runs: list[list[int]] = []
    for z in sections:
        if runs and z == runs[-1][-1] + 1:
            runs[-1].append(z)
        else:
            runs.append([z])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


def main() -> None:
    """Train, score and write one weights file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=bundled_folder())
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--now", action="store_true", help="write the best so far")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe, device = RECIPES[args.name], torch.device(args.device)
    torch.manual_seed(recipe.settings.seed)
    network = build(recipe.architecture, recipe.config).to(device)
    rule = Normalisation()
    training, validation, held_out = (
        read_isbi(args.data, z, rule)
        for z in (recipe.training, recipe.validation, recipe.held_out)
    )
    patches = PatchSource(training, recipe.settings, n_classes=2, device=device)
    checkpoint = ROOT / "runs" / f"{args.name}.checkpoint"
    trainer = Trainer(
        network,
        patches,
        recipe.settings,
        validation=isbi_validation(validation),
        checkpoint=checkpoint,
    )
    if args.now:
        trainer.resume()
        result = trainer.best
    else:
        result = drain(trainer.run(), describe)
    network.load_state_dict(result.state)
    started = perf_counter()
    scores = held_out_scores(network, held_out, result.scores["threshold"])
    print(f"held out ({perf_counter() - started:.0f} s):", scores)
    card = Card(
        name=args.name,
        summary=recipe.summary,
        architecture=recipe.architecture,
        config=recipe.config,
        pixel_size_nm=recipe.pixel_size_nm,
        normalisation=rule,
        threshold=round(result.scores["threshold"], 2),
        training_data=(_isbi(recipe.training),),
        validation_data=(_isbi(recipe.validation),),
        held_out_data=(_isbi(recipe.held_out),),
        scores=scores | {f"validation_{k}": v for k, v in result.scores.items()},
        notes=recipe.notes,
        licence="BSD-3-Clause; learnt from ISBI 2012, for which no licence is stated",
        parameters=sum(p.numel() for p in network.parameters()),
        training=Training(
            hardware=hardware(device),
            seconds=round(result.seconds),
            steps=result.step,
            seed=recipe.settings.seed,
            date=date.today().isoformat(),
            settings=recipe.settings.model_dump(mode="json"),
            versions={
                "napari-emseg": napari_emseg.__version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        ),
    )
    written = save_weights(args.out / f"{args.name}.safetensors", result.state, card)
    print(f"wrote {written.path}")


def _isbi(sections: tuple[int, ...]) -> DataSet:
    return DataSet(
        name="ISBI 2012 training stack",
        sections=ranges(sections),
        licence="none stated",
        citation=ISBI,
    )


if __name__ == "__main__":
    main()
