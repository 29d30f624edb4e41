"""What the weights are sure of elsewhere in a stack, so that they don't forget it."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_emseg.core.card import Card
from napari_emseg.core.normalised import NormalisedStack
from napari_emseg.core.records import Progress
from napari_emseg.core.regions import Region
from napari_emseg.core.zoom import zoom_of
from napari_emseg.models.roi import region_probabilities
from napari_emseg.models.zoo import Activation
from napari_emseg.train.corrections import TrainingSet
from napari_emseg.train.crops import Crop, cut_crops
from napari_emseg.train.losses import Loss
from napari_emseg.train.opinions import Opinions

PLACES = 6
"""Squares of each stack that are rehearsed."""

SIDE = 1.5
"""Of such a square, in patches."""


def rehearsal_crops(
    network: nn.Module,
    card: Card,
    known: TrainingSet,
    *,
    side: int,
    confidence: float,
    seed: int = 0,
) -> Generator[Progress, None, list[Crop]]:
    """Predict squares of a stack where nothing is known, and keep what is sure.

    Parameters
    ----------
    side
        Of a patch, in network pixels; squares are larger.
    confidence
        Probability that a class must have at least.
    """
    zoom, _ = zoom_of(known.stack, card)
    sections = NormalisedStack(known.stack, card.normalisation, invert=known.invert)
    spans = [max(1, round(SIDE * side / times)) for times in zoom]
    opinions = Opinions(known.stack.shape)
    places = _places(known, (spans[0], spans[1]), seed)
    for done, region in enumerate(places, start=1):
        section = sections.section(region.z)
        if section is not None:
            p = region_probabilities(network, section.image, region.area, zoom)
            opinions.put(region, _sure(p, confidence))
        yield Progress("rehearsal", done, len(places))
    return list(cut_crops(sections, opinions, zoom=zoom, margin=side // 2))


def _sure(p: NDArray[np.float32], confidence: float) -> NDArray[np.uint8]:
    """Return codes `(y, x)` of the likeliest class, 0 where it isn't likely enough."""
    best = p.argmax(axis=0)
    return np.where(p.max(axis=0) >= confidence, best + 1, 0).astype(np.uint8)


def _places(known: TrainingSet, side: tuple[int, int], seed: int) -> list[Region]:
    """Choose squares away from corrections, spread over the sections."""
    rng = np.random.default_rng(seed)
    n, height, width = known.stack.shape
    taken = [*known.opinions.blocks, *known.reviewed]
    free = [z for z in range(n) if z not in known.excluded]
    rows, columns = min(side[0], height), min(side[1], width)
    found: list[Region] = []
    for _ in range(4 * PLACES):
        z = free[int(rng.integers(len(free)))] if free else 0
        y, x = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        region = Region(z, int(y), int(x), int(y) + rows, int(x) + columns)
        crowded = any(region.overlap(other) for other in (*taken, *found))
        if free and not crowded and len(found) < PLACES:
            found.append(region)
    return found


class RehearsingLoss:
    """A loss of which a share is taken of rehearsed patches, on their classes only.

    What the weights never knew is not in their output, so a new class learns nothing
    from the rehearsal, not even that it isn't there.

    Parameters
    ----------
    rehearsed
        Number of patches at the end of a batch that are rehearsal.
    n_old
        Number of classes that the weights had.
    share
        Of the rehearsal, in [0, 1).
    """

    def __init__(self, loss: Loss, rehearsed: int, n_old: int, share: float) -> None:
        self._loss = loss
        self._rehearsed = rehearsed
        self._n_old = n_old
        self._share = share

    def __call__(
        self, logits: Tensor, target: Tensor, weight: Tensor, activation: Activation
    ) -> Tensor:
        """Return the loss of a batch."""
        n = len(logits) - self._rehearsed
        new = self._loss(logits[:n], target[:n], weight[:n], activation)
        if self._rehearsed == 0:
            return new
        old = self._loss(
            logits[n:, : self._n_old].contiguous(), target[n:], weight[n:], activation
        )
        return torch.lerp(new, old, self._share)
