"""The loop, measured: `python benchmarks/annotate_retrain.py [--quick]`.

An annotator who knows the truth corrects some places a round, the weights learn, and so
on: at suggested places and at random ones; a random forest on scikit-image features
gets the strokes of the first. Starts from weights that learnt from ISBI 2012 only, on
tissue they fail on. Scores are taken on sections at least ten away from all that is
corrected. Every round is a file in `runs/annotate_retrain`, so that the script goes on
where it was stopped; what it found is written to `results/annotate_retrain.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from machine import describe
from numpy.typing import NDArray
from scipy import ndimage as ndi

import napari_emseg as emseg
from napari_emseg.core.finetuning import FinetuneSettings, SuggestSettings
from napari_emseg.core.labels import inside_mask
from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.metrics import overlap_scores, v_rand_v_info
from napari_emseg.models.weights import Weights, load_weights, read_weights
from napari_emseg.suggest import suggest_places
from napari_emseg.train.corrections import TrainingSet
from napari_emseg.train.finetune import finetune_weights
from napari_emseg.train.opinions import Opinions

ROOT = Path(__file__).resolve().parents[1]
START = "isbi2012-unet"
Way = Literal["suggested", "random", "forest", "full", "converged"]

SECONDS_PER_PLACE, PIXELS_PER_SECOND = 6.0, 15.0
"""How long the annotator takes: to look at a place, and to draw."""

BRUSH = 3
"""Half the width of the annotator's strokes, px."""

TOLERANCE = 2
"""Walls may lie so far beside the true ones, px."""

SMALLEST_MISTAKE = 12
"""Smaller groups of wrong pixels are not worth a stroke."""


@dataclass(frozen=True)
class Task:
    """Tissue, the sections that may be corrected, and those that are scored."""

    name: str
    images: str
    ids: str
    corrected: tuple[int, ...]
    scored: tuple[int, ...]
    crop: int
    side: int

    def load(self, folder: Path) -> tuple[Stack, NDArray[np.uint32]]:
        """Return the cropped stack and ids; used at its own pixel size."""
        part = (slice(None), slice(0, self.crop), slice(0, self.crop))
        grey, ids = (
            np.asarray(open_stack(folder / path).data[part])
            for path in (self.images, self.ids)
        )
        return Stack(grey, name=self.name), ids.astype(np.uint32)


FIB25 = Task(
    "fib25",
    "fib25/ts2_raw_150-249.tif",
    "fib25/ts2_ids_150-249.tif",
    corrected=tuple(range(0, 40, 4)),
    scored=(50, 60, 70, 80, 90),
    crop=250,
    side=48,
)
CORTEX = Task(
    "cortex",
    "cortex_ac4/raw_00-29.tif",
    "cortex_ac4/ids_00-29.tif",
    corrected=tuple(range(0, 10, 2)),
    scored=(19, 22, 25, 28),
    crop=512,
    side=64,
)


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    tasks: tuple[tuple[Task, int], ...]
    rounds: int
    places: int
    settings: FinetuneSettings


FULL = Plan(((FIB25, 3), (CORTEX, 1)), 5, 12, FinetuneSettings(steps=150))
QUICK = Plan(
    ((FIB25, 1),),
    2,
    12,
    FinetuneSettings(steps=60, patch=128, validate_every=20),
)


@dataclass
class Annotator:
    """Corrects what weights get wrong, and nothing else; knows the truth.

    Walls that are only wider or lie a little beside the true ones are left alone, as a
    person would. Where a wall is missing it is drawn with a brush, cells on both sides
    too; where one is spurious it is painted over.
    """

    truth: NDArray[np.uint8]
    seconds: float = 0.0
    places: int = 0

    def strokes(self, region: Region, shown: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return codes `(y, x)` for a region in which membrane is shown."""
        wall = self.truth[region.z, *region.area] == 1
        missing = wall & ~thickened(shown, TOLERANCE)
        spurious = shown & ~thickened(wall, TOLERANCE)
        groups, n = ndi.label(missing | spurious, np.ones((3, 3)))
        sizes = np.bincount(groups.ravel(), minlength=n + 1)
        sizes[0] = 0
        drawn = thickened(sizes[groups] >= SMALLEST_MISTAKE, BRUSH)
        self.places += 1
        self.seconds += SECONDS_PER_PLACE + drawn.sum() / BRUSH / PIXELS_PER_SECOND
        codes = np.where(thickened(wall, 1), 1, 2)
        unsure = thickened(wall, TOLERANCE) & (codes == 2)
        return np.where(drawn & ~unsure, codes, 0).astype(np.uint8)


def thickened(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Grow a mask `(y, x)` by some pixels on each side."""
    return ndi.binary_dilation(mask, np.ones((3, 3)), iterations=by)


@dataclass(frozen=True)
class Bench:
    """One task with its data."""

    task: Task
    plan: Plan
    stack: Stack
    ids: NDArray[np.uint32]
    truth: NDArray[np.uint8]
    folder: Path
    device: torch.device

    def empty(self) -> TrainingSet:
        """Nothing is corrected; sections that are not for it are excluded."""
        out = set(range(self.stack.shape[0])) - set(self.task.corrected)
        return TrainingSet(
            self.stack, Opinions(self.stack.shape), excluded=frozenset(out)
        )

    def membrane(
        self, weights: Weights, sections: Iterable[int]
    ) -> NDArray[np.float32]:
        """Predict, as everybody does."""
        settings = PredictSettings(invert="no")
        return emseg.predict(
            self.stack, weights, sections=list(sections), settings=settings
        )

    def scores(
        self, membrane: NDArray[np.float32], threshold: float
    ) -> dict[str, float]:
        """Score `membrane` of the scored sections."""
        z = list(self.task.scored)
        found = v_rand_v_info(1 - membrane, self.truth[z] == 2)
        cells = emseg.segment(
            membrane, settings=CellSettings(threshold=threshold, grow=5)
        )
        overlap = overlap_scores(cells, self.ids[z], linked=False)
        return {"v_rand": found.v_rand, "vi": overlap.variation_of_information}

    def step(self, way: str, seed: int, number: int) -> Path:
        """Return where a round is kept."""
        return self.folder / f"{self.task.name}-{way}-{seed}-{number}"


def places_of(
    bench: Bench, way: Way, weights: Weights, known: TrainingSet, seed: int
) -> list[Region]:
    """Choose where the annotator looks."""
    n, side = bench.plan.places, bench.task.side
    if way == "suggested":
        settings = SuggestSettings(places=n, side=side, sections=12)
        work = suggest_places(weights, known, settings=settings, device=bench.device)
        return [place.region for place in drain(work)]
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, bench.task.crop - side, (n, 2))
    sections = rng.choice(bench.task.corrected, n)
    return [
        Region(int(z), int(y), int(x), int(y) + side, int(x) + side)
        for z, (y, x) in zip(sections, corners, strict=True)
    ]


def annotate(bench: Bench, way: Way, seed: int) -> list[dict[str, Any]]:
    """Correct and learn, round by round; rounds that are kept are not done again."""
    weights, known = load_weights(START), bench.empty()
    annotator, rows = Annotator(bench.truth), []
    for number in range(1, bench.plan.rounds + 1):
        place = bench.step(way, seed, number)
        if not place.with_suffix(".json").is_file():
            row = one_round(bench, way, weights, known, annotator, seed, number)
            place.with_suffix(".json").write_text(json.dumps(row))
        row = json.loads(place.with_suffix(".json").read_text())
        annotator.seconds, annotator.places = 60 * row["minutes"], row["places"]
        codes = np.load(place.with_suffix(".npz"))["codes"]
        known = TrainingSet(bench.stack, Opinions.read(codes), excluded=known.excluded)
        weights = read_weights(place.with_suffix(".safetensors"))
        rows.append(row)
        print(row, flush=True)
    return rows


def one_round(
    bench: Bench,
    way: Way,
    weights: Weights,
    known: TrainingSet,
    annotator: Annotator,
    seed: int,
    number: int,
) -> dict[str, Any]:
    """Choose, correct, learn and score."""
    start = perf_counter()
    regions = places_of(bench, way, weights, known, 100 * seed + number)
    for z in sorted({region.z for region in regions}):
        shown = bench.membrane(weights, [z])[0] > weights.card.threshold
        for region in (r for r in regions if r.z == z):
            known.opinions.put(region, annotator.strokes(region, shown[region.area]))
    place = bench.step(way, seed, number)
    save_codes(place, known.opinions)
    settings = bench.plan.settings.model_copy(update={"seed": seed})
    chosen = perf_counter() - start
    work = finetune_weights(
        weights,
        [known],
        place.with_suffix(".safetensors"),
        settings=settings,
        device=bench.device,
    )
    tuned = drain(work).weights
    learnt = perf_counter() - start - chosen
    membrane = bench.membrane(tuned, bench.task.scored)
    return {
        **line(bench, way, seed, number, known.opinions),
        "places": annotator.places,
        "minutes": annotator.seconds / 60,
        "seconds_to_choose": chosen,
        "seconds_to_learn": learnt,
        **bench.scores(membrane, tuned.card.threshold),
    }


def line(
    bench: Bench, way: Way, seed: int, number: int, opinions: Opinions
) -> dict[str, Any]:
    """Say what a row is of."""
    pixels = len(bench.task.corrected) * bench.task.crop**2
    return {
        "task": bench.task.name,
        "way": way,
        "seed": seed,
        "round": number,
        "pixels": opinions.pixels,
        "share": opinions.pixels / pixels,
    }


def save_codes(place: Path, opinions: Opinions) -> None:
    """Keep what is corrected so far."""
    y, x = opinions.shape[1:]
    codes = np.stack(
        [opinions.window(Region.whole(z, (y, x))) for z in range(opinions.shape[0])]
    )
    np.savez_compressed(place.with_suffix(".npz"), codes=codes)


def forest(bench: Bench, seed: int) -> list[dict[str, Any]]:
    """Give a random forest the strokes of the suggested places."""
    rows = []
    for number in range(1, bench.plan.rounds + 1):
        place = bench.step("forest", seed, number).with_suffix(".json")
        if not place.is_file():
            strokes = bench.step("suggested", seed, number).with_suffix(".npz")
            place.write_text(
                json.dumps(one_forest(bench, np.load(strokes)["codes"], seed, number))
            )
        rows.append(json.loads(place.read_text()))
        print(rows[-1], flush=True)
    return rows


def one_forest(
    bench: Bench, codes: NDArray[np.uint8], seed: int, number: int
) -> dict[str, Any]:
    """Train a forest by strokes, as scikit-image's trainable segmentation does."""
    from sklearn.ensemble import RandomForestClassifier

    start = perf_counter()
    grey = np.asarray(bench.stack.data)
    used = [z for z in range(len(codes)) if codes[z].any()]
    seen = np.concatenate([features(grey[z])[codes[z] > 0] for z in used])
    said = np.concatenate([codes[z][codes[z] > 0] for z in used])
    trees = RandomForestClassifier(100, max_samples=0.5, n_jobs=1, random_state=seed)
    trees.fit(seen, said)  # all that skimage.future.fit_segmenter does
    first = int(np.flatnonzero(trees.classes_ == 1)[0])
    membrane = []
    for z in bench.task.scored:
        values = features(grey[z])
        p = trees.predict_proba(values.reshape(-1, values.shape[-1]))[:, first]
        membrane.append(p.reshape(grey.shape[1:]))
    return {
        **line(bench, "forest", seed, number, Opinions.read(codes)),
        "seconds_to_learn": perf_counter() - start,
        **bench.scores(np.stack(membrane).astype(np.float32), 0.5),
    }


def features(section: NDArray[Any]) -> NDArray[np.float32]:
    """Return scikit-image's features `(y, x, n)`, those of its example."""
    from skimage.feature import multiscale_basic_features

    return multiscale_basic_features(
        section, intensity=True, edges=True, texture=True, sigma_min=1, sigma_max=8
    )


def supervised(bench: Bench, way: Way, seed: int, times: int) -> dict[str, Any]:
    """Learn from all pixels, `times` as many steps as all rounds together have."""
    place = bench.step(way, seed, 0)
    if not place.with_suffix(".json").is_file():
        codes = np.zeros_like(bench.truth)
        codes[list(bench.task.corrected)] = bench.truth[list(bench.task.corrected)]
        known = TrainingSet(
            bench.stack, Opinions.read(codes), excluded=bench.empty().excluded
        )
        steps = bench.plan.settings.steps * bench.plan.rounds * times
        settings = bench.plan.settings.model_copy(
            update={"steps": steps, "patience": 0, "rehearsal": 0, "seed": seed}
        )
        work = finetune_weights(
            load_weights(START),
            [known],
            place.with_suffix(".safetensors"),
            settings=settings,
            device=bench.device,
        )
        tuned = drain(work).weights
        membrane = bench.membrane(tuned, bench.task.scored)
        row = {
            **line(bench, way, seed, 0, known.opinions),
            **bench.scores(membrane, tuned.card.threshold),
        }
        place.with_suffix(".json").write_text(json.dumps(row))
    row = json.loads(place.with_suffix(".json").read_text())
    print(row, flush=True)
    return row


def start_row(bench: Bench) -> dict[str, Any]:
    """Score the weights that everything begins with."""
    weights = load_weights(START)
    membrane = bench.membrane(weights, bench.task.scored)
    row = {"task": bench.task.name, "way": "start", "pixels": 0, "share": 0.0}
    return {**row, **bench.scores(membrane, weights.card.threshold)}


def run(plan: Plan, data: Path, folder: Path, device: torch.device) -> list[dict]:
    """Do all of a plan that isn't done yet."""
    rows = []
    for task, seeds in plan.tasks:
        stack, ids = task.load(data)
        truth = np.where(inside_mask(ids, "cells"), 2, 1).astype(np.uint8)
        bench = Bench(task, plan, stack, ids, truth, folder, device)
        rows.append(start_row(bench))
        print(rows[-1], flush=True)
        for seed in range(seeds):
            for way in ("suggested", "random"):
                rows += annotate(bench, way, seed)
            rows += forest(bench, seed)
            rows.append(supervised(bench, "full", seed, 1))
        rows.append(supervised(bench, "converged", 0, 4))
    return rows


def main() -> None:
    """Measure, and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    name = "annotate_retrain-quick" if args.quick else "annotate_retrain"
    plan = QUICK if args.quick else FULL
    folder = ROOT / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    machine = describe(args.threads)
    rows = run(plan, args.data, folder, torch.device(args.device))
    settings = plan.settings.model_dump(mode="json")
    out = ROOT / "benchmarks" / "results" / f"{name}.json"
    found = {"machine": machine, "start": START, "settings": settings, "rows": rows}
    out.write_text(json.dumps(found, indent=1))
    print("wrote", out)


if __name__ == "__main__":
    main()
