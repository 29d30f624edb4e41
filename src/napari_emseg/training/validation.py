"""How good a network is on sections that it doesn't learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from napari_emseg.models.forward import predict_picture
from napari_emseg.models.roi import region_probabilities
from napari_emseg.training.crops import Crop
from napari_emseg.training.dataset import Example
from napari_emseg.training.weightmap import IGNORE, INSIDE, MEMBRANE

Validation = Callable[[nn.Module], dict[str, float]]
"""Scores of a network by name; `score` is the one to choose by, more is better."""


def inside_of(
    network: nn.Module, examples: Sequence[Example], *, tta: bool = False
) -> NDArray[np.float32]:
    """Return 1 less the probability of membrane `(z, y, x)` of each example.

    Membrane is what a run gives to its user. Where each class has a sigmoid of its own
    the channel of inside says something else, and a threshold of it isn't one of
    membrane. Where nothing is known it is 0, as `truth_of` is.
    """
    found = []
    for example in examples:
        membrane = predict_picture(network, example.image, tta=tta)[MEMBRANE]
        found.append(np.where(example.target == IGNORE, np.float32(0), 1 - membrane))
    return np.stack(found)


def truth_of(examples: Sequence[Example]) -> NDArray[np.bool_]:
    """Return where each example is inside, `(z, y, x)`."""
    return np.stack([e.target == INSIDE for e in examples])


def isbi_validation(examples: Sequence[Example]) -> Validation:
    """Validate by the challenge's V_Rand and V_Info after border thinning.

    The threshold of membrane probability that gives the best V_Rand comes with them.
    """
    truth = truth_of(examples)

    def validate(network: nn.Module) -> dict[str, float]:
        from napari_emseg.metrics import v_rand_v_info

        network.eval()
        scores = v_rand_v_info(inside_of(network, examples), truth)
        return {
            "score": (scores.v_rand + scores.v_info) / 2,
            "v_rand": scores.v_rand,
            "v_info": scores.v_info,
            "threshold": 1 - scores.v_rand_threshold,
        }

    return validate


def crop_validation(crops: Sequence[Crop], threshold: float) -> Validation | None:
    """Validate on held-out corrections; None without any.

    The score is the mean log-likelihood, in which classes count alike, and in each of
    them what is and what isn't it: a few pixels are enough for it to be smooth.
    """
    if not crops:
        return None

    def validate(network: nn.Module) -> dict[str, float]:
        network.eval()
        found = [_at_known(network, crop) for crop in crops]
        p = np.concatenate([part[0] for part in found], axis=1)
        target = np.concatenate([part[1] for part in found])
        wall, predicted = target == MEMBRANE, p[MEMBRANE] > threshold
        both = 2 * np.count_nonzero(wall & predicted)
        sizes = np.count_nonzero(wall) + np.count_nonzero(predicted)
        return {
            "score": _likelihood(p, target),
            "pixel_f": both / sizes if sizes else 1.0,
        }

    return validate


def _at_known(
    network: nn.Module, crop: Crop
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return probabilities `(n_classes, n)` and classes `(n,)` of known pixels."""
    known = crop.target != IGNORE
    y, x = crop.image.shape
    p = region_probabilities(network, crop.image, (slice(0, y), slice(0, x)))
    return p[:, known], crop.target[known]


def _likelihood(p: NDArray[np.float32], target: NDArray[np.uint8]) -> float:
    p = np.clip(p, 1e-4, 1 - 1e-4)
    parts = []
    for k in np.unique(target):
        is_k = target == k
        parts += [np.log(p[k, is_k]).mean()]
        parts += [np.log(1 - p[k, ~is_k]).mean()] if not is_k.all() else []
    return float(np.mean(parts))
