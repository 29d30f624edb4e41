"""How good a network is on sections that it doesn't learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from napari_emseg.models.forward import predict_picture
from napari_emseg.train.dataset import Example
from napari_emseg.train.weightmap import INSIDE

Validation = Callable[[nn.Module], dict[str, float]]
"""Scores of a network by name; `score` is the one to choose by, more is better."""


def isbi_validation(examples: Sequence[Example]) -> Validation:
    """Validate by the challenge's V_Rand and V_Info after border thinning.

    The threshold of membrane probability that gives the best V_Rand comes with them.
    """
    truth = np.stack([e.target == INSIDE for e in examples])

    def validate(network: nn.Module) -> dict[str, float]:
        from napari_emseg.metrics import v_rand_v_info

        network.eval()
        inside = np.stack([predict_picture(network, e.image)[INSIDE] for e in examples])
        scores = v_rand_v_info(inside, truth)
        return {
            "score": (scores.v_rand + scores.v_info) / 2,
            "v_rand": scores.v_rand,
            "v_info": scores.v_info,
            "threshold": 1 - scores.v_rand_threshold,
        }

    return validate
