"""What an ilastik user would have: a random forest on scikit-image features."""

from __future__ import annotations

from typing import Any

import numpy as np
from annotator import Tissue
from numpy.typing import NDArray


def learn_forest(
    tissue: Tissue, codes: NDArray[np.uint8], seed: int
) -> NDArray[np.float32]:
    """Return membrane `(z, y, x)` of the scored sections, learnt from `codes`.

    Does what `skimage.future.fit_segmenter` does, and keeps probabilities.
    """
    from sklearn.ensemble import RandomForestClassifier

    grey = np.asarray(tissue.stack.data)
    used = [z for z in range(len(codes)) if codes[z].any()]
    seen = np.concatenate([features(grey[z])[codes[z] > 0] for z in used])
    said = np.concatenate([codes[z][codes[z] > 0] for z in used])
    trees = RandomForestClassifier(100, max_samples=0.5, n_jobs=1, random_state=seed)
    trees.fit(seen, said)
    first = int(np.flatnonzero(trees.classes_ == 1)[0])
    membrane = []
    for z in tissue.task.scored:
        values = features(grey[z])
        p = trees.predict_proba(values.reshape(-1, values.shape[-1]))[:, first]
        membrane.append(p.reshape(grey.shape[1:]))
    return np.stack(membrane).astype(np.float32)


def features(section: NDArray[Any]) -> NDArray[np.float32]:
    """Return scikit-image's features `(y, x, n)`, those of its example."""
    from skimage.feature import multiscale_basic_features

    return multiscale_basic_features(
        section,
        intensity=True,
        edges=True,
        texture=True,
        sigma_min=1,
        sigma_max=8,
    )
