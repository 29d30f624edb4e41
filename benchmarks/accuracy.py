"""Write the tables of `docs/accuracy.md` from the cards of the bundled weights.

What a card says was measured when the weights were made, or by `score_weights.py`, and
so was what is said of cells; this script measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_sets import DATA
from mixture_scores import MEASURES
from pages import put, table

from napari_emseg.core.card import Card
from napari_emseg.models.weights import list_weights

SCORES = ("v_rand", "v_info", "rand_error", "pixel_error", "warping_error")
HEAD = (
    "weights",
    "run as",
    "parameters",
    "V_Rand",
    "V_Info",
    "V_Rand, V_Info at the fixed threshold",
    "Rand error",
    "pixel error",
    "warping error",
)


OF_SEVERAL = (
    "weights",
    "run as",
    "on",
    "V_Rand",
    "V_Info",
    "cells: 1 − adapted Rand error",
    "cells: variation of information, bits",
)


OF_CELLS = (
    "weights",
    "at threshold",
    "V_Rand",
    "V_Info",
    "adapted Rand error",
    "variation of information, bits",
    "false merges",
    "false splits",
    "true cells",
)

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Write every table."""
    cards = [weights.card for weights in list_weights().values()]
    put("accuracy.md", "scores", table(HEAD, (row for c in cards for row in rows(c))))
    several = [line for c in cards for line in of_several(c)]
    put("accuracy.md", "cells", table(OF_CELLS, cells(cards)))
    put("accuracy.md", "several", table(OF_SEVERAL, several))
    put("accuracy.md", "training", table(*how(cards)))


def rows(card: Card) -> Iterator[tuple[str, ...]]:
    """Yield a line for every way to run these weights that has been scored."""
    ways = [("as it is", card.parameters, card.threshold, card.scores)]
    if any(v.scores for v in card.variants):
        ways = [(v.words, v.parameters, v.threshold, v.scores) for v in card.variants]
    for words, parameters, threshold, scores in ways:
        if "v_rand_at_threshold" not in scores:
            continue
        fixed = ", ".join(f"{scores[f'{v}_at_threshold']:.3f}" for v in SCORES[:2])
        yield (
            card.name,
            words,
            f"{parameters:,}",
            *(f"{scores[name]:.4f}" for name in SCORES[:2]),
            f"{fixed} ({threshold or card.threshold:g})",
            *(f"{scores[name]:.4f}" for name in SCORES[2:4]),
            f"{scores['warping_error']:.5f}",
        )


def cells(cards: Iterable[Card]) -> Iterator[tuple[str, ...]]:
    """Yield a line for each weights whose cells `score_weights.py --cells` scored."""
    for card in cards:
        path = RESULTS / f"{card.name}.json"
        found = json.loads(path.read_text()).get("cells") if path.is_file() else None
        if found is not None:
            scores = ("v_rand", "v_info", "adapted_rand_error", "vi")
            counts = ("false_merges", "false_splits", "true_cells")
            yield (
                card.name,
                f"{found['threshold']:g}",
                *(f"{found[name]:.4f}" for name in scores),
                *(str(found[name]) for name in counts),
            )


def of_several(card: Card) -> Iterator[tuple[str, ...]]:
    """Yield a line for each data set on which a generalist was scored, way by way."""
    for way in card.variants:
        for data in DATA.values():
            found = [way.scores.get(f"{data.key}_{measure}") for measure in MEASURES]
            if None not in found:
                numbers = (f"{score:.3f}" for score in found)
                yield (card.name, way.words, data.name, *numbers)


def how(cards: list[Card]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and lines of the table that says how weights were made."""
    head = ("weights", "learnt from", "chosen by", "scored on", "steps", "time", "on")
    lines = []
    for card in cards:
        sets = (card.training_data, card.validation_data, card.held_out_data)
        data = ("; ".join(f"{d.name} {d.sections}" for d in one) for one in sets)
        how = card.training
        time = f"{how.seconds / 60:.0f} min"
        lines.append((card.name, *data, f"{how.steps:,}", time, how.hardware))
    return head, lines


if __name__ == "__main__":
    main()
