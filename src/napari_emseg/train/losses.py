"""What training makes small: logits, targets and weights in, one number out."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from napari_emseg.train.weightmap import IGNORE


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Pixel-wise soft-max cross-entropy (Ronneberger 2015, equation 1).

    Parameters
    ----------
    logits
        `(n, n_classes, y, x)`.
    target
        `(n, y, x)` class numbers; `IGNORE` counts for nothing.
    weight
        `(n, y, x)`, w(x) of equation 2.

    Returns
    -------
    Tensor
        Weighted mean over the pixels that count; 0 if there are none.
    """
    loss = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    weight = weight * (target != IGNORE)
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6)
