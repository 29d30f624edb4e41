"""Prediction and truth in, scores out: the ISBI 2012 challenge's, and overlap scores.

The order of arguments is (prediction, truth) everywhere.
"""

from napari_emseg.metrics.isbi import IsbiScores, isbi_scores, isbi_scores_steps
from napari_emseg.metrics.rand_info import (
    RandInfoScores,
    agreement_at,
    thin,
    v_rand_at,
    v_rand_v_info,
    v_rand_v_info_steps,
)

__all__ = [
    "IsbiScores",
    "RandInfoScores",
    "agreement_at",
    "isbi_scores",
    "isbi_scores_steps",
    "thin",
    "v_rand_at",
    "v_rand_v_info",
    "v_rand_v_info_steps",
]
