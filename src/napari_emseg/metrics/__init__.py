"""Prediction and truth in, scores out: the ISBI 2012 challenge's, and overlap scores.

The order of arguments is (prediction, truth) everywhere.
"""

from napari_emseg.metrics.isbi import (
    RandInfoScores,
    thin,
    v_rand_at,
    v_rand_v_info,
    v_rand_v_info_steps,
)

__all__ = [
    "RandInfoScores",
    "thin",
    "v_rand_at",
    "v_rand_v_info",
    "v_rand_v_info_steps",
]
