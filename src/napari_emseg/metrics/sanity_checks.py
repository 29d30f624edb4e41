"""What looks wrong about a pair but may be right: said in words beside its scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.labels import Meaning

USUAL = 0.5
"""EM of tissue has 10 to 35 % membrane; more than this looks inverted."""


def find_doubts(
    prediction: NDArray[np.generic],
    *,
    membrane: NDArray[np.bool_],
    true_membrane: NDArray[np.bool_],
    prediction_is: Meaning,
    truth_is: Meaning,
) -> tuple[str, ...]:
    """Name what a person should look at before believing the scores.

    Parameters
    ----------
    prediction
        As it was given.
    membrane, true_membrane
        Masks of what was taken for membrane, where the truth is known.
    prediction_is, truth_is
        What the two were said to be.
    """
    found = []
    highest = int(prediction.max()) if prediction.dtype == np.uint8 else 255
    if prediction_is != "cells" and highest <= 1:
        found.append(
            f"the prediction's 8-bit values end at {highest} and were divided by 255; "
            "if it is a mask, give it as bool"
        )
    for name, mask, meaning in (
        ("prediction", membrane, prediction_is),
        ("truth", true_membrane, truth_is),
    ):
        share = float(mask.mean())
        if meaning != "cells" and share > USUAL:
            other = "inside" if meaning == "membrane" else "membrane"
            found.append(
                f"{share:.0%} of the {name} is membrane, usual are 10 to 35 %: "
                f"is it {other} rather than {meaning}?"
            )
    return tuple(found)
