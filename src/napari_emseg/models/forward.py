"""One pass of a network over one picture mirrored by its halo: no tiles.

What tiles must equal, and enough for pictures that fit into memory.
"""

from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_emseg.core.symmetry import mean_over_symmetries
from napari_emseg.core.tiles import TilePlan, check_probabilities, core_of, read_tile
from napari_emseg.models.zoo import Network


def to_probabilities(logits: Tensor, network: nn.Module) -> Tensor:
    """Return float32 probabilities `(n, n_classes, y, x)` by the network's own end."""
    if cast("Network", network).activation == "softmax":
        return logits.float().softmax(dim=1)
    return logits.float().sigmoid()


def inner_logits(network: nn.Module, window: Tensor) -> Tensor:
    """Return logits of windows `(n, 1, y, x)` less the margin of their geometry.

    Networks with a method `inner` are asked to compute no more than that.
    """
    inner = getattr(network, "inner", None)
    if inner is not None:
        logits: Tensor = inner(window)
        return logits
    geometry = cast("Network", network).geometry
    # what a `valid` network has cut off by itself isn't cut again
    cut = geometry.margin - geometry.trim
    logits = network(window)
    return logits[:, :, cut : logits.shape[2] - cut, cut : logits.shape[3] - cut]


@torch.inference_mode()
def predict_windows(
    network: nn.Module, windows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return probabilities `(n, n_classes, y', x')` of windows `(n, 1, y, x)`.

    They lack the margin of the network's geometry. The network should be in evaluation
    mode; its device is used.
    """
    device = next(network.parameters()).device
    batch = torch.from_numpy(windows).to(device, memory_format=torch.channels_last)
    probabilities = to_probabilities(inner_logits(network, batch), network)
    found: NDArray[np.float32] = probabilities.cpu().numpy()
    check_probabilities(found)
    return found


def predict_picture(
    network: nn.Module, picture: NDArray[np.float32], *, tta: bool = False
) -> NDArray[np.float32]:
    """Return probabilities `(n_classes, y, x)` of normalised grey values `(y, x)`.

    The network should be in evaluation mode; its device is used.

    Parameters
    ----------
    tta
        Average over mirrors and rotations.
    """
    height, width = picture.shape
    plan = TilePlan((height, width), cast("Network", network).geometry)
    (tile,) = plan.tiles
    window = read_tile(lambda y, x: picture[y, x], plan, tile)[None, None]
    run = partial(predict_windows, network)
    probabilities = mean_over_symmetries(run, window) if tta else run(window)
    return core_of(probabilities[0], plan, tile)
