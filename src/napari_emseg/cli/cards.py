"""Cards in words: for `emseg weights`, and at the end of a training."""

from __future__ import annotations

from typing import Any

from napari_emseg.cli.printing import print_line, print_table
from napari_emseg.core.card import Card, DataSet, Variant
from napari_emseg.models.weights import Weights

WAYS = ("way", "parameters", "V_Rand", "V_Info", "threshold", "ms/Mpx on CPU")


def card_lines(weights: Weights) -> list[str]:
    """Return a card in words."""
    card, made = weights.card, weights.card.training
    pairs = [
        ("name", card.name),
        ("", card.summary),
        ("file", f"{weights.path} ({size_of(weights)})"),
        ("network", f"{card.architecture}, {card.parameters:,} parameters"),
        ("classes", ", ".join(card.classes)),
        ("trained at", _pixel_size(weights)),
        ("threshold", f"{card.threshold:g} ({_threshold_words(card)})"),
        *(("trained on", _data(each)) for each in card.training_data),
        *(("validated on", _data(each)) for each in card.validation_data),
        *(("held out", _data(each)) for each in card.held_out_data),
        ("scores", ", ".join(f"{k} {v:.4f}" for k, v in card.scores.items())),
        ("training", f"{made.steps} steps, {made.seconds / 60:.0f} min, {made.date}"),
        ("", made.hardware),
        *(("note", note) for note in card.notes),
        ("licence", card.licence),
        *(("cite", each) for each in _citations(weights)),
    ]
    return [f"{key:<13}{value}" for key, value in pairs if value]


def _threshold_words(card: Card) -> str:
    """Say where a threshold comes from; one that isn't as at first was chosen."""
    at_first = Card.model_fields["threshold"].default
    chosen = card.validation_data or card.threshold != at_first
    return "fixed on the validation set" if chosen else "not fixed: no validation set"


def print_card(weights: Weights) -> None:
    """Print a card, and a table of the ways to run it where it knows of several."""
    for line in card_lines(weights):
        print_line(line)
    ways = weights.card.variants
    if ways:
        print_line("")
        print_table(WAYS, [_way_row(way) for way in ways])


def _way_row(way: Variant) -> tuple[str, ...]:
    scores = way.scores.get
    ms = way.ms_per_megapixel.get("cpu")
    return (
        way.words,
        f"{way.parameters:,}" if way.parameters else "–",
        *(_score(scores(name)) for name in ("v_rand", "v_info")),
        "–" if way.threshold is None else f"{way.threshold:g}",
        "–" if ms is None else f"{ms:.0f}",
    )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def card_row(name: str, weights: Weights) -> tuple[str, ...]:
    """Return a line of the list of weights."""
    card = weights.card
    scores = (card.scores.get(score) for score in ("v_rand", "v_info"))
    return (
        name,
        card.architecture,
        _pixel_size(weights),
        *map(_score, scores),
        size_of(weights),
    )


def card_record(weights: Weights) -> dict[str, Any]:
    """Return file and card for JSON."""
    return {
        "path": str(weights.path),
        "sha256": weights.sha256,
        "card": weights.card.model_dump(mode="json"),
    }


def _citations(weights: Weights) -> list[str]:
    card = weights.card
    sets = (*card.training_data, *card.validation_data, *card.held_out_data)
    return list(dict.fromkeys(each.citation for each in sets))


def _data(data: DataSet) -> str:
    licence = f" (licence: {data.licence})" if data.licence else ""
    return f"{data.name}, sections {data.sections}{licence}"


def _pixel_size(weights: Weights) -> str:
    size = weights.card.pixel_size_nm
    if size is None:
        return "any size"
    y, x = size
    return f"{y:g} nm/px" if y == x else f"{y:g} × {x:g} nm/px"


def size_of(weights: Weights) -> str:
    """Say how large the file is."""
    return f"{weights.path.stat().st_size / 2**20:.1f} MiB"
