"""A finished network in; how well and how fast it does in each of its ways, out."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from copy import deepcopy
from time import perf_counter
from typing import cast

import numpy as np
from torch import nn

from napari_emseg.core.card import Card, Variant
from napari_emseg.core.records import Progress, Record
from napari_emseg.core.tiles import TilePlan
from napari_emseg.models.forward import predict_windows
from napari_emseg.models.variants import own_way, parts_of
from napari_emseg.models.zoo import Network
from napari_emseg.training.dataset import Example
from napari_emseg.training.validation import inside_of, truth_of

SCORES = ("v_rand", "v_info", "rand_error", "pixel_error", "warping_error")

SIDE = 512
"""Of the picture that is timed."""


def with_scores(
    card: Card,
    network: nn.Module,
    validation: Sequence[Example],
    held_out: Sequence[Example],
    *,
    timed: bool = True,
) -> Generator[Record, None, Card]:
    """Score a network on sections that had no part in its making; return its card.

    Each depth and each mean of heads is scored and timed by itself, with and without
    averaged mirrors. The threshold of each is chosen on the validation set; the card's
    own is that of the network as it is. What is scored is membrane as a run gives it.

    Parameters
    ----------
    timed
        Measure times, too; False leaves those that the card has, e.g. on a machine
        that isn't at rest.
    """
    network.eval()
    kind = cast("Network", network)
    depth, heads = own_way(kind)
    own = Variant(depth=depth, heads=heads)
    ways = [
        (Variant(depth=depth, heads=heads, tta=tta), cast("nn.Module", part))
        for depth, heads, part in parts_of(kind)
        for tta in ((False, True) if held_out else (False,))
    ]
    found = []
    kept = {k: v for k, v in card.scores.items() if k.startswith("validation_")}
    for done, (way, part) in enumerate(ways, start=1):
        threshold, chosen_by = card.threshold, kept
        if validation:
            threshold, chosen_by = _chosen(part, validation, tta=way.tta)
        if way == own:
            card = card.model_copy(update={"threshold": threshold})
            kept = {**kept, **chosen_by}
        scores = _scores(part, held_out, threshold, tta=way.tta)
        times = _times(part) if timed and not way.tta else _known_times(card, way)
        update = {"threshold": threshold, "scores": scores, "ms_per_megapixel": times}
        found.append(way.model_copy(update=update))
        yield Progress("scoring", done, len(ways))
    card = card.model_copy(update={"variants": tuple(found)})
    measured = card.variant(own.depth, own.heads) or own
    return card.model_copy(
        update={
            "scores": measured.scores | kept,
            "ms_per_megapixel": measured.ms_per_megapixel,
        }
    )


def _known_times(card: Card, way: Variant) -> dict[str, float]:
    known = card.variant(way.depth, way.heads, tta=way.tta)
    return {} if known is None or way.tta else known.ms_per_megapixel


def with_times(card: Card, network: nn.Module) -> Card:
    """Measure the times of every way anew, e.g. on a machine that is at rest."""
    network.eval()
    times = {
        (depth, heads): _times(cast("nn.Module", part))
        for depth, heads, part in parts_of(cast("Network", network))
    }
    ways = tuple(
        v
        if v.tta
        else v.model_copy(update={"ms_per_megapixel": times[v.depth, v.heads]})
        for v in card.variants
    )
    own = times[own_way(cast("Network", network))]
    return card.model_copy(update={"variants": ways, "ms_per_megapixel": own})


def _chosen(
    network: nn.Module, examples: Sequence[Example], *, tta: bool
) -> tuple[float, dict[str, float]]:
    """Return the threshold of membrane that is best by V_Rand, and scores for it."""
    from napari_emseg.metrics import v_rand_v_info

    found = v_rand_v_info(inside_of(network, examples, tta=tta), truth_of(examples))
    scores = {
        "validation_v_rand": found.v_rand,
        "validation_v_info": found.v_info,
    }
    return round(min(max(1 - found.v_rand_threshold, 0.05), 0.95), 2), scores


def _scores(
    network: nn.Module, examples: Sequence[Example], threshold: float, *, tta: bool
) -> dict[str, float]:
    """Return the challenge's scores; empty without sections.

    Each at its best threshold, and V_Rand and V_Info at the one that was fixed, too.
    """
    from napari_emseg.metrics import isbi_scores
    from napari_emseg.metrics.rand_info import agreement_at

    if not examples:
        return {}
    inside, truth = inside_of(network, examples, tta=tta), truth_of(examples)
    best = isbi_scores(inside, truth)
    scores = {name: float(getattr(best, name)) for name in SCORES}
    rand, info = agreement_at(inside, truth, 1 - threshold)
    fixed = {"v_rand_at_threshold": rand.score, "v_info_at_threshold": info.score}
    return scores | fixed


def _times(network: nn.Module) -> dict[str, float]:
    """Return ms per megapixel of network input, on the CPU and where the network is."""
    times = {"cpu": _time(deepcopy(network).cpu())}
    device = next(network.parameters()).device
    return times if device.type == "cpu" else {**times, device.type: _time(network)}


def _time(network: nn.Module) -> float:
    """Time PyTorch over one window; the first pass allocates and doesn't count."""
    geometry = cast("Network", network).geometry
    shape = TilePlan((SIDE, SIDE), geometry).window_shape
    window = np.zeros((1, 1, *shape), np.float32)
    seconds = []
    for _ in range(3):
        start = perf_counter()
        predict_windows(network, window)
        seconds.append(perf_counter() - start)
    return round(min(seconds[1:]) * 1e9 / window.size, 1)
