"""One pass of a network over one picture mirrored by its halo: no tiles.

What tiles must equal, without anything of the loop that makes them.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_emseg.core.symmetry import mean_over_symmetries
from napari_emseg.core.tiles import TilePlan, core_of, read_tile
from napari_emseg.models.forward import inner_logits, to_probabilities
from napari_emseg.models.zoo import Network


@torch.inference_mode()
def predict_windows(
    network: nn.Module, windows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return probabilities `(n, n_classes, y', x')` of windows `(n, 1, y, x)`."""
    batch = torch.from_numpy(windows).to(memory_format=torch.channels_last)
    return to_probabilities(inner_logits(network, batch), network).numpy()


def predict_picture(
    network: nn.Module, picture: NDArray[np.float32], *, tta: bool = False
) -> NDArray[np.float32]:
    """Return probabilities `(n_classes, y, x)` of normalised grey values `(y, x)`."""
    height, width = picture.shape
    plan = TilePlan((height, width), cast("Network", network).geometry)
    (tile,) = plan.tiles
    window = read_tile(lambda y, x: picture[y, x], plan, tile)[None, None]
    run = partial(predict_windows, network)
    probabilities = mean_over_symmetries(run, window) if tta else run(window)
    return core_of(probabilities[0], plan, tile)
