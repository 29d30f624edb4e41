"""Stack and weights in, membrane probabilities out, by overlap-tile."""

from napari_emseg.inference.estimate import RunEstimate, estimate
from napari_emseg.inference.precision import PrecisionChoice
from napari_emseg.inference.predictor import (
    PredictionResult,
    Predictor,
    predict_stack,
    provenance,
)

__all__ = [
    "PrecisionChoice",
    "PredictionResult",
    "Predictor",
    "RunEstimate",
    "estimate",
    "predict_stack",
    "provenance",
]
