"""What every runtime makes of a network: probabilities of windows less their margin."""

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from napari_emseg.models.zoo import Network, affinities_of


def to_probabilities(logits: Tensor, network: nn.Module) -> Tensor:
    """Return float32 probabilities `(n, channels, y, x)` by the network's own end.

    Classes may exclude one another; each affinity is a probability of its own.
    """
    if cast("Network", network).activation == "sigmoid":
        return logits.float().sigmoid()
    n = len(affinities_of(network))
    if n == 0:
        return logits.float().softmax(dim=1)
    classes, affinities = logits[:, :-n].float(), logits[:, -n:].float()
    return torch.cat([classes.softmax(dim=1), affinities.sigmoid()], dim=1)


def inner_logits(network: nn.Module, window: Tensor) -> Tensor:
    """Return logits of windows `(n, context, y, x)` less the margin of their geometry.

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


def in_range(network: nn.Module) -> nn.Module:
    """Return a copy with the same results, whose numbers fit into float16 and int8.

    Networks with a method `scale_middle` have numbers that need it.
    """
    network = deepcopy(network)
    scale = getattr(network, "scale_middle", None)
    if scale is not None:
        scale()
    return network
