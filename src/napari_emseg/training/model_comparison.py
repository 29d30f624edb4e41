"""Candidate against current weights, where neither of them has learnt."""

from collections.abc import Generator, Sequence
from math import isnan, nan

import numpy as np
import torch
from numpy.typing import NDArray

from napari_emseg.core.records import Progress
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.inference.region import RegionPredictor
from napari_emseg.models.weights import Weights
from napari_emseg.segmentation import segment_section
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.losses import IGNORE, MEMBRANE
from napari_emseg.training.measures import (
    LEAST_SQUARES,
    Basis,
    Changed,
    Comparison,
    Interval,
    Measured,
    Verdict,
    difference,
    measure,
)
from napari_emseg.training.training_data import completed

LEAST_PIXELS = 8_000
"""With fewer pixels, or fewer than `LEAST_SQUARES`, it isn't said which is better."""

SAME, GAINED, LOST, OTHER = 0, 1, 2, 3
"""Where candidate and current agree on membrane; only the candidate is right; only the
current one is; they differ where nothing is known."""


def compare_weights(
    current: Weights,
    candidate: Weights,
    sets: Sequence[TrainingSet],
    *,
    held_out: Sequence[Sequence[Region]],
    device: torch.device | str = "cpu",
    predict: PredictSettings | None = None,
) -> Generator[Progress, None, Comparison]:
    """Measure two weights on whole reviewed regions that were held out of training.

    Parameters
    ----------
    sets
        What is known of the stacks.
    held_out
        Regions of each set. If there is none at all, both are measured where something
        is known, and the result says so.
    predict
        How both are run: as users run them; on `device` by default.
    """
    predict = predict or PredictSettings(device=str(device))
    pair = RegionPredictor(current, predict), RegionPredictor(candidate, predict)
    return (yield from compare_predictors(*pair, sets, held_out=held_out))


def compare_predictors(
    current: RegionPredictor,
    candidate: RegionPredictor,
    sets: Sequence[TrainingSet],
    *,
    held_out: Sequence[Sequence[Region]],
) -> Generator[Progress, None, Comparison]:
    """Measure two weights that are loaded; see `compare_weights`."""
    # the path that users run: what is accepted gives them what was measured
    pair = _Judged(current), _Judged(candidate)
    # by the current weights, which were shown when regions were reviewed: also for the
    # candidate, or each would be judged by a truth of its own
    complete: list[TrainingSet] = []
    for known in sets:
        whole = yield from completed(known, pair[0].predictor)
        complete.append(whole)
    basis: Basis = "held-out regions" if any(held_out) else "corrections"
    places = [
        (number, region)
        for number, known in enumerate(complete)
        for region in (held_out[number] if any(held_out) else known.usable.blocks)
    ]
    measured: tuple[list[Measured], list[Measured]] = [], []
    changed: list[Changed] = []
    for done, (number, region) in enumerate(places, start=1):
        truth = _truth(complete[number], region, pair[0])
        if truth is not None:
            shown = [judged.shown(complete[number], region) for judged in pair]
            for found, (membrane, cells) in zip(measured, shown, strict=True):
                found.append(
                    measure(
                        membrane,
                        # strokes are no cells: only whole
                        # regions can be compared by them
                        None if basis == "corrections" else cells,
                        truth,
                        squares=basis == "held-out regions",
                    )
                )
            marks = _changed(shown[0][0], shown[1][0], truth)
            changed.append(Changed(number, region, marks))
        yield Progress("comparing", done, len(places))
    return _comparison(basis, measured, [r for _, r in places], changed)


class _Judged:
    """Weights, and what they show of a region."""

    def __init__(self, predictor: RegionPredictor) -> None:
        self.predictor = predictor

    def shown(
        self, known: TrainingSet, region: Region
    ) -> tuple[NDArray[np.bool_], NDArray[np.uint32]]:
        """Return membrane and cells of a region `(y, x)`, at the card's threshold."""
        p = self.predictor.membrane(known.stack, region, **known.seen)
        if p is None:
            return np.zeros(region.shape, bool), np.zeros(region.shape, np.uint32)
        threshold = self.predictor.threshold
        # each weights' own threshold and usual cells: that is what a user would get
        cells = segment_section(p, CellSettings(threshold=threshold))
        return p > threshold, cells


def _truth(
    known: TrainingSet, region: Region, judged: _Judged
) -> NDArray[np.uint8] | None:
    """Return class numbers `(y, x)`, `IGNORE` where nothing is known."""
    section = judged.predictor.open(known.stack, region.z, **known.seen)
    codes = known.opinions.window(region)
    if section.empty is not None:
        codes[section.empty(region.area)] = 0
    target: NDArray[np.uint8] = codes - np.uint8(1)
    return None if section.blank or (target == IGNORE).all() else target


def _changed(
    current: NDArray[np.bool_], candidate: NDArray[np.bool_], truth: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return `SAME`, `GAINED`, `LOST` or `OTHER` for each pixel `(y, x)`."""
    out = np.where(candidate == (truth == MEMBRANE), GAINED, LOST)
    out = np.where(truth == IGNORE, OTHER, out)
    return np.where(current == candidate, SAME, out).astype(np.uint8)


def _comparison(
    basis: Basis,
    measured: tuple[list[Measured], list[Measured]],
    regions: list[Region],
    changed: list[Changed],
) -> Comparison:
    current, candidate = (Measured.together(part) for part in measured)
    differences = difference(current, candidate)
    return Comparison(
        verdict=_verdict(basis, current, differences),
        basis=basis,
        pixels=current.pixels,
        regions=tuple(regions) if basis == "held-out regions" else (),
        current=current.scores,
        candidate=candidate.scores,
        differences=differences,
        changed=tuple(changed),
    )


def _verdict(
    basis: Basis, measured: Measured, differences: dict[str, Interval]
) -> Verdict:
    small = measured.pixels < LEAST_PIXELS or len(measured.counts) < LEAST_SQUARES
    if basis == "corrections" or small:
        return "too little data"
    undefined = Interval(nan, nan, nan)
    f, vi = (differences.get(name, undefined) for name in ("pixel_f", "vi"))
    # users look at cells: what is clear of them decides. Membranes may become better
    # pixel by pixel while cells stay as good, but wider ones are no worse for that
    if vi.high < 0 or (f.low > 0 and not vi.value > 0):
        return "better"
    if vi.low > 0 or (f.high < 0 and isnan(vi.value)):
        return "worse"
    return "no difference"
