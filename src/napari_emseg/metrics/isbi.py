"""The ISBI 2012 scores: probability of inside and a truth mask in, scores out.

>>> found = v_rand_v_info(inside, truth)      # the fast part, for validation
>>> found.v_rand, found.v_rand_threshold, found.v_info, found.v_rand_sections
>>> v_rand_at(inside, truth, 0.5)             # each section at a fixed threshold

`inside` is `(z, y, x)` or `(y, x)`, floating point in [0, 1], 1 = inside a cell, that
is 1 - membrane. `truth` has the same shape; 0 = membrane, anything else = inside. The
order is always (prediction, truth); swapped, split and merge change places in silence.

After Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation
algorithms for connectomics", Front. Neuroanat. 9:142 (2015), with every detail of the
challenge's own evaluation: its running sum of thresholds, its thinning of the borders,
its order of pixels.
"""

from __future__ import annotations

from napari_emseg.metrics.rand_info import (
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
