"""Stack and weights in, membrane probabilities out, by overlap-tile."""

from napari_emseg.inference.predictor import (
    PredictionResult,
    Predictor,
    predict_stack,
    provenance,
)

__all__ = ["PredictionResult", "Predictor", "predict_stack", "provenance"]
