"""Score weights that learnt from several data sets on what was held out of each."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

import napari_emseg as emseg
from napari_emseg.core.card import Card, Variant
from napari_emseg.core.labels import inside_mask
from napari_emseg.core.settings import PredictSettings
from napari_emseg.metrics import overlap_scores, v_rand_v_info
from napari_emseg.metrics.meanings import cells_of_inside
from napari_emseg.models.variants import with_facts
from napari_emseg.models.weights import Weights, replace_card
from napari_emseg.train.scoring import with_times
from napari_emseg.train.sources import Source

MEASURES = ("v_rand", "v_info", "cells", "vi")
"""Of probabilities, at the best threshold; of cells at the card's, bits for `vi`."""


def score_sources(weights: Weights, sources: Sequence[Source]) -> Weights:
    """Score weights on what was held out of each source, by the whole way to cells.

    Sections are predicted at their own pixel size, with and without averaged mirrors,
    and made into cells by the default settings at the card's threshold; truth 0 is
    ignored. The card in the file is replaced: a score's name begins with its source's,
    that of the mean over all sources with nothing.
    """
    network = weights.network()
    ways = tuple(_way(weights, sources, tta=tta) for tta in (False, True))
    chosen_by = {
        k: v for k, v in weights.card.scores.items() if k.startswith("validation_")
    }
    scores = {"scores": ways[0].scores | chosen_by, "variants": ways}
    card: Card = with_facts(weights.card.model_copy(update=scores), network)
    return replace_card(weights, with_times(card, network))


def _way(weights: Weights, sources: Sequence[Source], *, tta: bool) -> Variant:
    found = {s.name: _scores(s, weights, tta=tta) for s in sources}
    means = {m: fmean(scores[m] for scores in found.values()) for m in MEASURES}
    each = {f"{name}_{m}": found[name][m] for name in found for m in MEASURES}
    return Variant(tta=tta, threshold=weights.card.threshold, scores=means | each)


def _scores(source: Source, weights: Weights, *, tta: bool) -> dict[str, float]:
    held_out = list(source.split.held_out)
    probabilities = emseg.predict(
        source.images,
        weights,
        sections=held_out,
        settings=PredictSettings(tta=tta, invert="no"),
    )
    truth = np.stack([source.labels.section(z) for z in held_out])
    agreement = _agreement(probabilities, truth, source, weights)
    found = dict(zip(MEASURES, agreement, strict=True))
    print(source.name, "mirrors averaged" if tta else "as it is", found, flush=True)
    return found


def _agreement(
    probabilities: NDArray[np.float32],
    truth: NDArray[Any],
    source: Source,
    weights: Weights,
) -> tuple[float, ...]:
    cells = emseg.segment(probabilities, threshold=weights.card.threshold, link=False)
    inside = inside_mask(truth, source.meaning)
    true_cells = truth if source.meaning == "cells" else cells_of_inside(inside)
    overlap = overlap_scores(cells, true_cells, linked=False)
    membrane = v_rand_v_info(1 - probabilities, inside)
    rand, vi = 1 - overlap.adapted_rand_error, overlap.variation_of_information
    return membrane.v_rand, membrane.v_info, rand, vi
