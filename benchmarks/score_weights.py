"""Score finished weights anew: `python benchmarks/score_weights.py isbi2012-unetpp`.

Each depth, each mean of heads, and both with averaged mirrors, on the sections that the
card names as held out; thresholds come from those it names for validation. The card in
the file is replaced, its numbers stay. Where there are several depths, depths 2 and 4
are compared section by section; the differences go into the card's notes and, with the
scores, into `results/NAME.json`.

Projects and batches know a file by its checksum. So of weights that are out already
only cells are scored (`--cells`), into `measured.json` beside the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, cast

import numpy as np
import torch
from data_sets import DATA, ROOT
from machine import describe as describe_machine
from mixture_scores import score_sources, with_threshold
from torch import nn

from napari_emseg.core.card import Card, DataSet, Variant
from napari_emseg.core.records import Progress, Record, drain
from napari_emseg.io import open_stack
from napari_emseg.metrics import v_rand_v_info
from napari_emseg.models.variants import own_way, parts_of
from napari_emseg.models.weights import (
    MEASURED,
    LaterScores,
    Weights,
    load_weights,
    replace_card,
)
from napari_emseg.models.zoo import Network
from napari_emseg.training.dataset import Example, read_examples
from napari_emseg.training.validation import (
    LEVELS,
    best_threshold,
    bits_lost,
    inside_of,
    scores_of_cells,
    truth_of,
    with_scores,
    with_times,
)

FOLDERS = {"ISBI 2012 training stack": ("isbi2012", "inside")}
"""Name of a data set in cards: its folder, and what its labels are."""

COMPARED = (2, 4)

SCORES = ("v_rand", "v_info")


def examples_of(sets: Sequence[DataSet], data: Path, card: Card) -> list[Example]:
    """Read the sections that a card names."""
    found: list[Example] = []
    for each in sets:
        if each.name not in FOLDERS:
            known = ", ".join(FOLDERS)
            msg = f"don't know where {each.name!r} is; known are: {known}"
            raise ValueError(msg)
        name, meaning = FOLDERS[each.name]
        images = data / name / "images"
        numbers = sorted(int(path.stem) for path in images.glob("*.png"))
        found += read_examples(
            open_stack(images),
            open_stack(data / name / "labels"),
            meaning,
            sections=[numbers.index(z) for z in numbers_in(each.sections)],
            rule=card.normalisation,
        )
    return found


def numbers_in(ranges: str) -> list[int]:
    """Read section numbers such as `0-2, 27-29`."""
    found: list[int] = []
    for part in ranges.split(","):
        first, _, last = part.strip().partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def compare(weights: Weights, examples: Sequence[Example]) -> dict[str, Any]:
    """Score two depths section by section; differences, their mean and its error."""
    truth = truth_of(examples)
    scores = {}
    for depth in COMPARED:
        inside = inside_of(weights.at(depth).network(), examples)
        scores[depth] = [
            v_rand_v_info(inside[z : z + 1], truth[z : z + 1])
            for z in range(len(examples))
        ]
    found: dict[str, Any] = {}
    for name in SCORES:
        a, b = ([getattr(s, name) for s in scores[depth]] for depth in COMPARED)
        differences = [x - y for x, y in zip(a, b, strict=True)]
        error = stdev(differences) / len(differences) ** 0.5
        found[name] = {
            **{
                f"depth {d}": values for d, values in zip(COMPARED, (a, b), strict=True)
            },
            "mean difference": mean(differences),
            "standard error": error,
        }
    return found


def note_of(found: dict[str, Any], n: int) -> str:
    """Say the comparison in one line, for the card."""
    parts = [
        f"{title} {found[name]['mean difference']:+.4f} ± "
        f"{found[name]['standard error']:.4f}"
        for title, name in (("V_Rand", "v_rand"), ("V_Info", "v_info"))
    ]
    return f"{_start_of_note()} over {n} held-out sections: {', '.join(parts)}"


def _start_of_note() -> str:
    return f"Depth {COMPARED[0]} less depth {COMPARED[1]}, mean and standard error"


def describe(record: Record) -> None:
    """Print what happened."""
    if isinstance(record, Progress):
        print(f"{record.step}: {record.done} of {record.total}", flush=True)


def rescore(
    weights: Weights, data: Path, device: str, *, timed: bool = True
) -> dict[str, Any]:
    """Score weights and replace the card in their file; return what was found.

    Without `timed` the times stay that the card has.
    """
    if len(weights.card.held_out_data) > 1:
        return rescore_mixture(weights, data)
    card = weights.card
    validation = examples_of(card.validation_data, data, card)
    held_out = examples_of(card.held_out_data, data, card)
    network = weights.network().to(device)
    work = with_scores(card, network, validation, held_out, timed=timed)
    card = drain(work, describe)
    notes = tuple(n for n in card.notes if not n.startswith(_start_of_note()))
    weights = replace_card(weights, card.model_copy(update={"notes": notes}))
    found: dict[str, Any] = {"held out": [d.model_dump() for d in card.held_out_data]}
    found["ways"] = ways_of(weights.card)
    if set(COMPARED) <= set(weights.card.depths):
        found["paired"] = compare(weights, held_out)
        notes += (note_of(found["paired"], len(held_out)),)
        replace_card(weights, weights.card.model_copy(update={"notes": notes}))
    return found


def rescore_mixture(weights: Weights, data: Path) -> dict[str, Any]:
    """Score weights of several data sets on each, at its own pixel size."""
    names = [each.name for each in weights.card.held_out_data]
    sources = [each.source(data) for each in DATA.values() if each.name in names]
    card = score_sources(with_threshold(weights, sources), sources).card
    held_out = [each.model_dump() for each in card.held_out_data]
    return {"held out": held_out, "ways": ways_of(card)}


def measure_cells(weights: Weights, data: Path) -> LaterScores:
    """Score the cells of held-out sections in every way that the card knows.

    At the threshold that was fixed for each.
    """
    card, network = weights.card, cast("Network", weights.network())
    held_out = examples_of(card.held_out_data, data, card)
    truth, own = truth_of(held_out), Variant()
    found = []
    for depth, heads, part in parts_of(network):
        for tta in (False, True):
            way = Variant(depth=depth, heads=heads, tta=tta)
            if card.variant(depth, heads, tta=tta) is None:
                continue
            inside = inside_of(cast("nn.Module", part), held_out, tta=tta)
            at = card.threshold_of(depth, heads, tta=tta)
            scores = scores_of_cells(inside, truth, at)
            print(way.words, at, scores, flush=True)
            found.append(way.model_copy(update={"scores": scores}))
            if (depth, heads) == own_way(network) and not tta:
                own = found[-1]
    return LaterScores(scores=own.scores, variants=tuple(found))


def keep_measured(weights: Weights, measured: LaterScores) -> None:
    """Write what was measured beside bundled weights, whose file stays as it is."""
    path = weights.path.with_name(MEASURED)
    known = json.loads(path.read_text()) if path.is_file() else {}
    known[weights.path.stem] = measured.model_dump(
        mode="json",
        include={
            "scores": True,
            "variants": {"__all__": {"depth", "heads", "tta", "scores"}},
        },
    )
    path.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def best_for_cells(weights: Weights, data: Path) -> dict[str, Any]:
    """Say which threshold gives the best cells on the validation sections, in bits."""
    card, network = weights.card, weights.network()
    validation = examples_of(card.validation_data, data, card)
    bits, walls = np.zeros((len(LEVELS), 2)), 0
    seen = inside_of(network, validation)
    for example, section in zip(validation, seen, strict=True):
        lost, n = bits_lost(1 - section, example.target)
        bits, walls = bits + lost, walls + n
    vi = (bits[:, 0] / bits[:, 1]).round(4).tolist()
    return {
        "threshold": card.threshold,
        "best on validation": best_threshold(bits, walls, None),
        "vi on validation": dict(zip(map(str, LEVELS), vi, strict=True)),
    }


def ways_of(card: Card) -> list[dict[str, Any]]:
    """Return what a card knows of every way to run its weights."""
    return [
        {"way": v.words, **v.model_dump(mode="json", exclude={"config", "geometry"})}
        for v in card.variants
    ]


def retime(weights: Weights, device: str) -> dict[str, Any]:
    """Measure the times anew and leave the scores; return what changed."""
    network = weights.network().to(device)
    weights = replace_card(weights, with_times(weights.card, network))
    return {"ways": ways_of(weights.card)}


def main() -> None:
    """Score one weights file and rewrite its card."""
    cuda = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="bundled name, or a .safetensors file")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--device", default=cuda)
    parser.add_argument("--threads", type=int, help="of the CPU; all by default")
    parser.add_argument(
        "--times", action="store_true", help="measure the times only; keep the scores"
    )
    parser.add_argument(
        "--scores", action="store_true", help="measure the scores only; keep the times"
    )
    parser.add_argument(
        "--cells", action="store_true", help="score the cells only; keep all else"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    weights = load_weights(args.weights)
    machine = describe_machine(torch.get_num_threads())
    path = args.out / f"{weights.card.name}.json"
    if args.cells:
        known = json.loads(path.read_text()) if path.is_file() else {}
        measured = measure_cells(weights, args.data)
        keep_measured(weights, measured)
        known["ways"] = ways_of(measured.on(weights.card))
        found = {**known, "cells": best_for_cells(weights, args.data)}
    elif args.times:
        known = json.loads(path.read_text()) if path.is_file() else {}
        found = {**known, "machine": machine, **retime(weights, args.device)}
    else:
        scored = rescore(weights, args.data, args.device, timed=not args.scores)
        found = {"machine": machine, **scored}
        if args.scores and path.is_file():  # times are still of the machine before
            found["machine"] = json.loads(path.read_text())["machine"]
            found["scored"] = machine["date"]
    path.write_text(json.dumps(found, indent=2) + "\n")
    print("wrote", weights.path, "and", path)


if __name__ == "__main__":
    main()
