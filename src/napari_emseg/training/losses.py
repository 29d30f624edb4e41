"""What training makes small: logits, targets and weights in, one number out.

Every loss takes the logits `(n, n_classes, y, x)` of one output, class numbers
`(n, y, x)` in which `IGNORE` counts for nothing, weights `(n, y, x)`, and the network's
own end (soft-max, or a sigmoid for each class). So any loss fits any network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_emseg.core.training import LossName
from napari_emseg.models.zoo import Activation
from napari_emseg.training.weightmap import IGNORE

Loss = Callable[[Tensor, Tensor, Tensor, Activation], Tensor]

EPSILON = 1e-6


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor, activation: Activation
) -> Tensor:
    """Pixel-wise weighted cross-entropy (Ronneberger 2015, equation 1).

    The mean over the pixels that count, weighted by w(x) of equation 2; 0 if there are
    none. Networks with a sigmoid get the sum of their classes' binary cross-entropies.
    """
    known = target != IGNORE
    if activation == "softmax":
        loss = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    else:
        loss = F.binary_cross_entropy_with_logits(
            logits, _one_hot(logits, target), reduction="none"
        ).sum(dim=1)
    weight = weight * known
    return (loss * weight).sum() / weight.sum().clamp(min=EPSILON)


def bce_dice(
    logits: Tensor, target: Tensor, weight: Tensor, activation: Activation
) -> Tensor:
    """Half the binary cross-entropy and one less the soft Dice (Zhou 2018, equation 2).

    Both for each class, then the mean over classes; Dice over all pixels of the batch.
    Each pixel counts by its weight in every sum; with weights of 1 it is the paper's.
    """
    w = (weight * (target != IGNORE))[:, None]
    truth = _one_hot(logits, target)
    p = _probabilities(logits, activation)
    safe = p.clamp(EPSILON, 1 - EPSILON)
    entropy = -(truth * safe.log() + (1 - truth) * (1 - safe).log()) * w
    mean = entropy.sum() / (w.sum() * logits.shape[1]).clamp(min=EPSILON)
    below = (_total(w * p) + _total(w * truth)).clamp(min=EPSILON)
    dice = 2 * _total(w * p * truth) / below
    return 0.5 * mean + (1 - dice).mean()


def dice(
    logits: Tensor, target: Tensor, weight: Tensor, activation: Activation
) -> Tensor:
    """One less the soft Dice with squares below the line (Gu 2019, equation 3).

    1 - Σ_k 2 ω_k Σ p g / (Σ p² + Σ g²), ω_k = 1/K; the paper's regularisation is weight
    decay. Each pixel counts by its weight in every sum over pixels; with weights of 1
    it is the paper's.
    """
    w = (weight * (target != IGNORE))[:, None]
    truth = _one_hot(logits, target)
    p = _probabilities(logits, activation)
    below = _total(w * p**2) + _total(w * truth**2)
    return (1 - 2 * _total(w * p * truth) / below.clamp(min=EPSILON)).mean()


LOSSES: dict[LossName, Loss] = {
    "cross-entropy": cross_entropy,
    "bce-dice": bce_dice,
    "dice": dice,
}


def _one_hot(logits: Tensor, target: Tensor) -> Tensor:
    """Class numbers as `(n, n_classes, y, x)` of 0 and 1; `IGNORE` is 0 everywhere."""
    classes = torch.arange(logits.shape[1], device=target.device)
    return (target[:, None] == classes.view(1, -1, 1, 1)).to(logits.dtype)


def _probabilities(logits: Tensor, activation: Activation) -> Tensor:
    return logits.softmax(dim=1) if activation == "softmax" else logits.sigmoid()


def _total(values: Tensor) -> Tensor:
    """Sum over batch and pixels, `(n_classes,)`."""
    return values.sum(dim=(0, 2, 3))
