"""The loop, measured: `python benchmarks/annotate_retrain.py [--quick]`.

An annotator who knows the truth corrects some places a round, the weights learn, and so
on: at suggested places and at random ones; a random forest on scikit-image features
learns from the same places. Starts from weights that learnt from ISBI 2012 only, on
tissue they fail on. Scores are taken on sections at least ten away from all that is
corrected. Every round is a file in `runs/annotate_retrain-by-cells`, so that the script
goes on where it was stopped; what is found is written to
`results/annotate_retrain.json` after every step. `annotate_plot.py` draws it. All of
it takes about three hours on two cores: `--only fib25` and so on, in two processes at a
time, share the work; the last call, without `--only`, puts it together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal

import numpy as np
import torch
from annotator import CORTEX, FIB25, VNC, Annotator, Task, Tissue
from forest import learn_forest
from machine import describe
from retention import retained

from napari_emseg.active_learning import suggest_places
from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.training import FinetuneSettings, SuggestSettings
from napari_emseg.models.weights import Weights, load_weights, read_weights
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.finetune import finetune_weights

ROOT = Path(__file__).resolve().parents[1]
START = "isbi2012-unet"
Way = Literal["suggested", "random", "forest", "full", "converged"]
Row = dict[str, Any]

TIMES_TO_CONVERGE = 6
"""As many steps as a round has, when training goes on until little changes."""

STEPS_OF_FULL = 600
"""Of a round with all pixels, as the product has it at most."""


@dataclass(frozen=True)
class Plan:
    """How much is done; `pieces` in this order: task, way and seed."""

    pieces: tuple[tuple[Task, Way, int], ...]
    rounds: int
    places: int
    settings: FinetuneSettings


def _seed(task: Task, seed: int) -> tuple[tuple[Task, Way, int], ...]:
    ways: tuple[Way, ...] = ("suggested", "random", "forest")
    return tuple((task, way, seed) for way in ways)


SEEDS = range(5)

FULL = Plan(
    tuple(
        piece
        # seed by seed over all tissues: stopped at any time, there is something of each
        for seed in SEEDS
        for task in (FIB25, CORTEX, VNC)
        for piece in (*(((task, "full", 0),) if seed == 0 else ()), *_seed(task, seed))
    )
    + tuple((task, "converged", 0) for task in (FIB25, CORTEX, VNC)),
    3,
    15,
    FinetuneSettings(),
)
QUICK = Plan(
    ((FIB25, "full", 0), *_seed(FIB25, 0)),
    2,
    6,
    FinetuneSettings(steps=40, patch=128, validate_every=20),
)


@dataclass(frozen=True)
class Bench:
    """Where the rounds of a plan are kept, and how they are computed."""

    plan: Plan
    data: Path
    folder: Path
    device: torch.device

    def kept(self, name: str, work: Callable[[], Row]) -> Row:
        """Return a row that was found before, or find it now."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            row = work()
            path.write_text(json.dumps(row))
        found: Row = json.loads(path.read_text())
        return found

    def finetune(
        self,
        weights: Weights,
        known: TrainingSet,
        name: str,
        settings: FinetuneSettings,
    ) -> tuple[Weights, Row]:
        """Learn; return new weights, and how long that took."""
        wall, cpu = perf_counter(), process_time()
        output = self.folder / f"{name}.safetensors"
        work = finetune_weights(
            weights, [known], output, settings=settings, device=self.device
        )
        tuned = drain(work).weights
        return tuned, {
            "best_step": tuned.card.training.steps,
            "seconds_to_learn": perf_counter() - wall,
            "cpu_seconds_to_learn": process_time() - cpu,
        }


def line(tissue: Tissue, way: Way, seed: int, number: int, pixels: int) -> Row:
    """Say what a row is of."""
    task = tissue.task
    return {
        "task": task.name,
        "way": way,
        "seed": seed,
        "round": number,
        "pixels": pixels,
        "share": pixels / (len(task.corrected) * task.crop**2),
    }


def places_of(
    bench: Bench, tissue: Tissue, way: Way, weights: Weights, known: TrainingSet, n: int
) -> list[Region]:
    """Choose where the annotator looks; `n` seeds what is random."""
    task, wanted = tissue.task, bench.plan.places
    if way != "random":
        settings = SuggestSettings(places=wanted, side=task.side, sections=12, seed=n)
        work = suggest_places(weights, known, settings=settings, device=bench.device)
        return [place.region for place in drain(work)]
    rng = np.random.default_rng(n)
    corners = rng.integers(0, task.crop - task.side + 1, (wanted, 2))
    sections = rng.choice(task.corrected, wanted)
    return [
        Region(int(z), int(y), int(x), int(y) + task.side, int(x) + task.side)
        for z, (y, x) in zip(sections, corners, strict=True)
    ]


def annotate(bench: Bench, tissue: Tissue, way: Way, seed: int) -> Iterator[Row]:
    """Correct what the latest weights show, and learn, round by round.

    Each round begins with the weights of the start and has all corrections so far: so
    nothing is rehearsed that earlier rounds got wrong.
    """
    weights = begin = load_weights(START)
    known = tissue.known()
    annotator = Annotator(tissue.truth)
    for number in range(1, bench.plan.rounds + 1):
        name = f"{tissue.task.name}-{way}-{seed}-{number}"

        def work(
            weights: Weights = weights,
            known: TrainingSet = known,
            number: int = number,
            name: str = name,
        ) -> Row:
            said = correct(bench, tissue, way, weights, known, annotator, seed, number)
            np.savez_compressed(bench.folder / f"{name}.npz", codes=codes_of(known))
            settings = bench.plan.settings.model_copy(update={"seed": seed})
            tuned, took = bench.finetune(begin, known, name, settings)
            membrane = tissue.membrane(tuned, tissue.task.scored)
            return {
                **line(tissue, way, seed, number, known.opinions.pixels),
                **said,
                **took,
                **tissue.scores(membrane, tuned.card.threshold),
            }

        row = bench.kept(name, work)
        annotator.seconds, annotator.places = 60 * row["minutes"], row["places"]
        known = tissue.known(np.load(bench.folder / f"{name}.npz")["codes"])
        weights = read_weights(bench.folder / f"{name}.safetensors")
        yield row
    name = f"{tissue.task.name}-{way}-{seed}-kept"
    yield bench.kept(
        name,
        lambda: {
            **line(tissue, way, seed, bench.plan.rounds, known.opinions.pixels),
            "kept": retained(tissue, begin, weights, bench.data),
        },
    )


def correct(
    bench: Bench,
    tissue: Tissue,
    way: Way,
    weights: Weights,
    known: TrainingSet,
    annotator: Annotator,
    seed: int,
    number: int,
) -> Row:
    """Choose places and write down what the annotator says of them."""
    wall, cpu = perf_counter(), process_time()
    regions = places_of(bench, tissue, way, weights, known, 100 * seed + number)
    took = {
        "seconds_to_choose": perf_counter() - wall,
        "cpu_seconds_to_choose": process_time() - cpu,
    }
    for z in sorted({region.z for region in regions}):
        shown = tissue.membrane(weights, [z])[0] > weights.card.threshold
        for region in (r for r in regions if r.z == z):
            said = annotator.codes(region, shown[region.area])
            known.opinions.put(region, said)
    return {
        "places": annotator.places,
        "minutes": annotator.seconds / 60,
        "places_of_round": [region.as_tuple() for region in regions],
        **took,
    }


def codes_of(known: TrainingSet) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return what is corrected so far, `(z, y, x)`."""
    n, y, x = known.stack.shape
    return np.stack([known.opinions.window(Region.whole(z, (y, x))) for z in range(n)])


def forest(bench: Bench, tissue: Tissue, way: Way, seed: int) -> Iterator[Row]:
    """Give a random forest what is known after each round at suggested places."""
    for number in range(1, bench.plan.rounds + 1):
        name = f"{tissue.task.name}-{{}}-{seed}-{number}"

        def work(name: str = name, number: int = number) -> Row:
            wall, cpu = perf_counter(), process_time()
            codes = np.load(bench.folder / f"{name.format('suggested')}.npz")["codes"]
            membrane = learn_forest(tissue, codes, seed)
            return {
                **line(tissue, way, seed, number, int(np.count_nonzero(codes))),
                "seconds_to_learn": perf_counter() - wall,
                "cpu_seconds_to_learn": process_time() - cpu,
                **tissue.scores(membrane, 0.5),
            }

        yield bench.kept(name.format(way), work)


def supervised(bench: Bench, tissue: Tissue, way: Way, seed: int) -> Iterator[Row]:
    """Learn from all pixels, as many steps as a round has, or until it converges."""
    times = TIMES_TO_CONVERGE if way == "converged" else 1
    steps = (bench.plan.settings.steps or STEPS_OF_FULL) * times
    changed = {"steps": steps, "validate_every": steps, "rehearsal": 0, "seed": seed}
    name = f"{tissue.task.name}-{way}-{seed}-0"

    def work() -> Row:
        known = tissue.labelled()
        settings = bench.plan.settings.model_copy(update=changed)
        tuned, took = bench.finetune(load_weights(START), known, name, settings)
        membrane = tissue.membrane(tuned, tissue.task.scored)
        return {
            **line(tissue, way, seed, 0, known.opinions.pixels),
            "steps": steps,
            **took,
            **tissue.scores(membrane, tuned.card.threshold),
        }

    yield bench.kept(name, work)


def start(bench: Bench, tissue: Tissue) -> Row:
    """Score the weights that everything begins with."""

    def work() -> Row:
        weights = load_weights(START)
        membrane = tissue.membrane(weights, tissue.task.scored)
        scores = tissue.scores(membrane, weights.card.threshold)
        return {
            **line(tissue, "suggested", 0, 0, 0),
            "way": "start",
            "minutes": 0.0,
            "places": 0,
            **scores,
        }

    return bench.kept(f"{tissue.task.name}-start", work)


def run(bench: Bench) -> Iterator[Row]:
    """Do all of a plan that isn't done yet."""
    tissues: dict[str, Tissue] = {}
    for task, way, seed in bench.plan.pieces:
        if task.name not in tissues:
            tissues[task.name] = task.load(bench.data)
            yield start(bench, tissues[task.name])
        tissue = tissues[task.name]
        if way == "forest":
            yield from forest(bench, tissue, way, seed)
        elif way in ("full", "converged"):
            yield from supervised(bench, tissue, way, seed)
        else:
            yield from annotate(bench, tissue, way, seed)


def main() -> None:
    """Measure, and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds")
    parser.add_argument("--collect", action="store_true", help="write what is found")
    parser.add_argument("--only", nargs="*", help="tissues, by name; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    name = "annotate_retrain-quick" if args.quick else "annotate_retrain"
    plan = QUICK if args.quick else FULL
    # rounds of before were learnt, and their cells made, by other rules
    folder = ROOT / "runs" / f"{name}-by-cells"
    folder.mkdir(parents=True, exist_ok=True)
    if args.only:
        pieces = tuple(p for p in plan.pieces if p[0].name in args.only)
        plan = replace(plan, pieces=pieces)
    about: Row = {
        "machine": describe(args.threads),
        "start": START,
        "settings": plan.settings.model_dump(mode="json"),
        "rounds": plan.rounds,
        "places": plan.places,
    }
    out = (folder.parent if args.quick else ROOT / "benchmarks" / "results") / name
    bench = Bench(plan, args.data, folder, torch.device(args.device))
    for row in () if args.collect else run(bench):
        collect(out.with_suffix(".json"), about, folder, complete=False)
        print({k: v for k, v in row.items() if not k.endswith("section")}, flush=True)
    done = not args.collect and not args.only
    collect(out.with_suffix(".json"), about, folder, complete=done)


def collect(out: Path, about: Row, folder: Path, *, complete: bool) -> None:
    """Write all rows that are found so far, in the order in which they were."""
    kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    rows = [json.loads(path.read_text()) for path in kept]
    found = {**about, "complete": complete, "rows": rows}
    out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
