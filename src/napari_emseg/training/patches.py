"""Crops → patches around what is known, and patches of what was known before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_emseg.core.finetuning import FinetuneSettings
from napari_emseg.training.crops import Crop
from napari_emseg.training.dataset import draw_patch
from napari_emseg.training.sparse_labels import BLOCK
from napari_emseg.training.weightmap import IGNORE, INSIDE

JITTER = 0.2
"""A known pixel lies at most so far from the middle of what is seen of a patch."""

Anchor = tuple[int, NDArray[np.int32]]
"""A crop's number, and the places `(n, 2)` of the known pixels of one of its squares.

Squares are drawn alike, so a short stroke is seen as often as a square of a reviewed
region.
"""


class CorrectionPatches:
    """Draws augmented patches where there is something to learn.

    The last `rehearsed` patches of each batch are of the rehearsal. The same seed and
    step give the same patches.

    Parameters
    ----------
    crops
        What was corrected.
    rehearsal
        What the weights knew; may be empty.
    trim
        Pixels that the network's output is shorter than a patch, on each side.

    Raises
    ------
    ValueError
        If nothing is known.
    """

    def __init__(
        self,
        crops: Sequence[Crop],
        settings: FinetuneSettings,
        *,
        device: torch.device,
        rehearsal: Sequence[Crop] = (),
        trim: int = 0,
    ) -> None:
        if not crops:
            msg = "nothing is corrected yet; there is nothing to learn from"
            raise ValueError(msg)
        self._settings = settings
        self._reach = JITTER * (settings.patch - 2 * trim)
        self._new, self._old = (
            ([_image_channels(c).to(device) for c in part], _anchors(part))
            for part in (crops, rehearsal)
        )
        self.rehearsed = rehearsed(settings) if self._old[1] else 0

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return image `(n, 1, y, x)`, target `(n, y, x)` and weight `(n, y, x)`."""
        rng = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + step)
        n_new = max(1, self._settings.batch - self.rehearsed)
        kinds = [self._new] * n_new + [self._old] * self.rehearsed
        patches = [self._patch(*kind, rng) for kind in kinds]
        image, target, weight = zip(*patches, strict=True)
        return torch.stack(image)[:, None], torch.stack(target), torch.stack(weight)

    def _patch(
        self, crops: list[Tensor], anchors: list[Anchor], rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        which, places = anchors[int(torch.randint(len(anchors), (), generator=rng))]
        anchor = places[int(torch.randint(len(places), (), generator=rng))]
        jitter = (torch.rand(2, generator=rng) * 2 - 1) * self._reach
        y, x = (float(a) + float(j) for a, j in zip(anchor, jitter, strict=True))
        image, target, weight = draw_patch(crops[which], (y, x), self._settings, rng)
        return image, target, weight * _loudness(target)


def rehearsed(settings: FinetuneSettings) -> int:
    """Return how many patches of a batch are rehearsal; one is always new."""
    if settings.rehearsal == 0 or settings.batch == 1:
        return 0
    return min(settings.batch - 1, max(1, round(settings.rehearsal * settings.batch)))


def _loudness(target: Tensor) -> float:
    """Let the pixels of a short stroke count more than those of a full patch.

    Else a batch with one reviewed patch would drown all strokes in it.
    """
    known = float((target != IGNORE).float().mean())
    return known**-0.5 if known else 0.0


def _image_channels(crop: Crop) -> Tensor:
    """Image, target and weight as one `(3, y, x)` tensor."""
    parts = (crop.image, crop.target.astype(np.float32), crop.weight)
    return torch.from_numpy(np.stack(parts))


def _anchors(crops: Sequence[Crop]) -> list[Anchor]:
    """List the squares of all crops; those of a rare class once more, around it."""
    found: list[Anchor] = []
    for number, crop in enumerate(crops):
        known = crop.target != IGNORE
        for pixels in (known, known & (crop.target > INSIDE)):
            found += [(number, places) for places in _by_square(pixels)]
    return found


def _by_square(pixels: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Return the places `(n, 2)` of true pixels `(y, x)`, square by square."""
    places = np.argwhere(pixels).astype(np.int32)
    if not len(places):
        return []
    row, column = (places // BLOCK).T
    square = row * (pixels.shape[1] // BLOCK + 1) + column
    order = np.argsort(square, kind="stable")
    edges = np.flatnonzero(np.diff(square[order])) + 1
    return np.split(places[order], edges)
