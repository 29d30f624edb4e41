"""What every runtime makes of a network: probabilities of windows less their margin."""

from typing import cast

from torch import Tensor, nn

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
