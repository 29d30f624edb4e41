"""Write the tables of `docs/accuracy.md` from the cards of the bundled weights.

What a card says was measured when the weights were made, or by `score_weights.py`; this
script measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
    "cells: adapted Rand error",
    "cells: variation of information, bits",
)


OF_CELLS = (
    "weights",
    "run as",
    "at threshold",
    "V_Rand",
    "V_Info",
    "adapted Rand error",
    "variation of information, bits",
    "false merges",
    "false splits",
    "true cells",
)

CELL_SCORES = ("v_rand", "v_info", "adapted_rand_error", "vi")
CELL_COUNTS = ("false_merges", "false_splits", "true_cells")


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
    """Yield a line for every way whose cells were scored on all held-out sections."""
    for card in cards:
        for way in card.variants:
            found = {k: v for k, v in way.scores.items() if k.startswith("cells_")}
            if "cells_v_rand" in found:
                yield (
                    card.name,
                    way.words,
                    f"{card.threshold_of(way.depth, way.heads, tta=way.tta):g}",
                    *(f"{found[f'cells_{name}']:.4f}" for name in CELL_SCORES),
                    *(f"{found[f'cells_{name}']:.0f}" for name in CELL_COUNTS),
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
