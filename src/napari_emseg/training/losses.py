"""What training makes small: logits, targets and weights in, one number out.

Every loss takes the logits `(n, n_classes, y, x)` of one output, class numbers
`(n, y, x)` in which `IGNORE` counts for nothing, weights `(n, y, x)`, and the network's
own end (soft-max, or a sigmoid for each class). So any loss fits any network.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import Tensor
from torch.nn import functional as F

from napari_emseg.core.training import LossName
from napari_emseg.models.zoo import Activation

IGNORE = 255
"""Target value of pixels that nobody has an opinion on; no loss, no weight."""

MEMBRANE, INSIDE = 0, 1


def class_weights(targets: list[NDArray[np.uint8]], n_classes: int) -> NDArray[Any]:
    """Return w_c `(n_classes,)`, float32: each class counts alike, mean weight 1."""
    counts = np.zeros(n_classes)
    for target in targets:
        counts += np.bincount(target[target != IGNORE], minlength=n_classes)[:n_classes]
    present = counts > 0
    weights = np.ones(n_classes)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.astype(np.float32)


def border_weight(
    target: NDArray[np.uint8], *, w0: float = 10.0, sigma: float = 5.0
) -> NDArray[np.float32]:
    """Return the second term of equation 2, `(y, x)`, on membrane pixels, else 0.

    Cells are the 4-connected components of inside pixels; where there is only one cell
    the term is 0. Farther than 6σ from a cell it is below 1e-6, so each cell is
    measured in its own surroundings only: no array of cells × y × x is made.
    """
    # Ronneberger et al. 2015, equation 2: w0 exp(-(d1 + d2)² / 2σ²), with the distances
    # to the nearest and the second nearest cell
    cells, n = ndi.label(target == INSIDE)
    if n < 2 or w0 == 0:
        return np.zeros(target.shape, np.float32)
    nearest = np.full(target.shape, np.inf, np.float32)
    second = nearest.copy()
    reach = int(np.ceil(6 * sigma))
    for cell, box in enumerate(ndi.find_objects(cells), start=1):
        around = tuple(
            slice(max(0, part.start - reach), part.stop + reach) for part in box
        )
        distance = ndi.distance_transform_edt(cells[around] != cell)
        distance = distance.astype(np.float32)
        first = nearest[around]
        # the two smallest so far: the larger of new and nearest may be the
        # second; before nearest is overwritten
        np.minimum(second[around], np.maximum(distance, first), out=second[around])
        np.minimum(first, distance, out=first)
    weight = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return np.where(target == MEMBRANE, weight, 0).astype(np.float32)


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
    # `reduction="none"`, since the mean is one over weights, not over pixels
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
    # not the stabler form with logits, which a soft-max doesn't have
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
    # squares as in V-Net (Milletari et al. 2016), which
    # bce_dice, after Zhou, doesn't have
    below = _total(w * p**2) + _total(w * truth**2)
    return (1 - 2 * _total(w * p * truth) / below.clamp(min=EPSILON)).mean()


def affinity_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of affinities, and half of one less the soft Dice.

    Dice is that of what does *not* belong together, which is rare. Both are means over
    the offsets of which something is known; 0 if nothing is.

    Parameters
    ----------
    logits, target
        `(n, offsets, y, x)`; 1 together, 0 apart, `IGNORE` unknown.
    """
    known = (target != IGNORE).to(logits.dtype)
    truth = (target == 1).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    n = _total(known)
    entropy = _total(each * known) / n.clamp(min=1)
    apart, wanted = (-logits).sigmoid() * known, (1 - truth) * known
    # 1 above and below: where nothing is apart, saying so is right
    below = _total(apart**2) + _total(wanted**2) + 1
    overlap = (2 * _total(apart * wanted) + 1) / below
    told = n > 0
    return ((entropy + (1 - overlap) / 2) * told).sum() / told.sum().clamp(min=1)


def with_affinities(loss: Loss, n: int, weight: float = 1.0) -> Loss:
    """Return a loss of classes that takes that of the last `n` channels, too.

    Targets are `(n, 1 + offsets, y, x)` then: classes first. Where they are `(n, y, x)`
    nothing is known of affinities.
    """
    if n == 0:
        return loss
    share = weight

    def both(
        logits: Tensor, target: Tensor, weight: Tensor, activation: Activation
    ) -> Tensor:
        classes = target if target.ndim == 3 else target[:, 0]
        total = loss(logits[:, :-n], classes, weight, activation)
        if target.ndim == 3:
            return total
        return total + share * affinity_loss(logits[:, -n:], target[:, 1:])

    return both


LOSSES: dict[LossName, Loss] = {
    "cross-entropy": cross_entropy,
    "bce-dice": bce_dice,
    "dice": dice,
}


def soft_cross_entropy(
    logits: Tensor, teacher: Tensor, weight: Tensor, activation: Activation
) -> Tensor:
    """Cross-entropy of what another network says, `teacher`, less that one's entropy.

    The mean over pixels by their weights, summed over classes: 0 if both say the same.
    The teacher's logits `(n, n_classes, y, x)` get no gradient.
    """
    teacher = teacher.detach()
    if activation == "softmax":
        t = teacher.softmax(dim=1)
        said = teacher.log_softmax(dim=1) - logits.log_softmax(dim=1)
        lost = (t * said).sum(dim=1)
    else:
        t = teacher.sigmoid()
        found, best = (
            F.binary_cross_entropy_with_logits(each, t, reduction="none")
            for each in (logits, teacher)
        )
        lost = (found - best).sum(dim=1)
    return (lost * weight).sum() / weight.sum().clamp(min=EPSILON)


def supervised_loss(
    outputs: Sequence[Tensor],
    target: Tensor,
    weight: Tensor,
    activation: Activation,
    *,
    loss: Loss,
    self_distillation: float = 0.0,
) -> Tensor:
    """Take the loss of every head, the deepest last; return their mean.

    Parameters
    ----------
    self_distillation
        Share of a shallower head's loss that is taken of what the deepest one says:
        what it says of a pixel that is in doubt is easier to learn than a label (Zhang
        et al. 2019, Be Your Own Teacher).
    """
    # deep supervision (Zhou et al. 2018): every head learns, and the mean counts
    losses = [loss(logits, target, weight, activation) for logits in outputs]
    if self_distillation:
        # classes come first; what follows are affinities, which are learnt from labels
        classes = target if target.ndim == 3 else target[:, 0]
        n = outputs[-1].shape[1] - (0 if target.ndim == 3 else target.shape[1] - 1)
        known = weight * (classes != IGNORE)
        for k, logits in enumerate(outputs[:-1]):
            said = logits[:, :n], outputs[-1][:, :n]
            soft = soft_cross_entropy(*said, known, activation)
            losses[k] = torch.lerp(losses[k], soft, self_distillation)
    return torch.stack(losses).mean()


def _one_hot(logits: Tensor, target: Tensor) -> Tensor:
    """Class numbers as `(n, n_classes, y, x)` of 0 and 1; `IGNORE` is 0 everywhere."""
    classes = torch.arange(logits.shape[1], device=target.device)
    return (target[:, None] == classes.view(1, -1, 1, 1)).to(logits.dtype)


def _probabilities(logits: Tensor, activation: Activation) -> Tensor:
    return logits.softmax(dim=1) if activation == "softmax" else logits.sigmoid()


def _total(values: Tensor) -> Tensor:
    """Sum over batch and pixels, `(n_classes,)`."""
    return values.sum(dim=(0, 2, 3))
