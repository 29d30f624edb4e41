"""Prediction and truth in, scores out: the ISBI 2012 challenge's, and overlap scores.

The order of arguments is (prediction, truth) everywhere.
"""

from napari_emseg.metrics.agreement import PixelCounts
from napari_emseg.metrics.evaluation import Evaluation, evaluate, evaluate_steps
from napari_emseg.metrics.isbi import IsbiScores, isbi_scores, isbi_scores_steps
from napari_emseg.metrics.merge_split_errors import Mistakes, find_mistakes
from napari_emseg.metrics.overlap import (
    CellScores,
    OverlapScores,
    cell_scores,
    overlap_by_section,
    overlap_scores,
)
from napari_emseg.metrics.rand_info import (
    RandInfoScores,
    agreement_at,
    thin,
    v_rand_at,
    v_rand_v_info,
    v_rand_v_info_steps,
)

__all__ = [
    "CellScores",
    "Evaluation",
    "IsbiScores",
    "Mistakes",
    "OverlapScores",
    "PixelCounts",
    "RandInfoScores",
    "agreement_at",
    "cell_scores",
    "evaluate",
    "evaluate_steps",
    "find_mistakes",
    "isbi_scores",
    "isbi_scores_steps",
    "overlap_by_section",
    "overlap_scores",
    "thin",
    "v_rand_at",
    "v_rand_v_info",
    "v_rand_v_info_steps",
]
