"""Where a network contradicts itself: its heads each other, or itself in the mirror."""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_emseg.models.forward import inner_logits, to_probabilities
from napari_emseg.models.roi import Area, region_values
from napari_emseg.models.zoo import Network


def has_heads(network: nn.Module) -> bool:
    """Tell if a network has several heads, whose doubt costs no extra pass."""
    return len(getattr(network, "depths", ())) > 1


def membrane_and_uncertainty(
    network: nn.Module,
    section: NDArray[np.float32],
    area: Area,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return membrane probabilities of a region and how much they are in doubt.

    Doubt is the standard deviation of the heads' probabilities, at most 0.5, or of
    those of the picture and its mirror image, which takes a second pass. Both `(y, x)`;
    parameters as in `region_probabilities`.
    """
    compute = _by_heads if has_heads(network) else _by_mirror
    found = region_values(
        network, section, area, zoom, partial(compute, network=network)
    )
    return found[0], found[1]


def _by_heads(batch: Tensor, *, network: nn.Module) -> Tensor:
    """Return the last head's membrane, and the heads' standard deviation."""
    kind = cast("Network", network)
    cut = kind.geometry.margin - kind.geometry.trim
    heads = torch.stack(
        [to_probabilities(logits[:, :1], network) for logits in kind.supervised(batch)]
    )
    heads = heads[..., cut : heads.shape[-2] - cut, cut : heads.shape[-1] - cut]
    return torch.cat([heads[-1], heads.std(dim=0, correction=0)], dim=1)


def _by_mirror(batch: Tensor, *, network: nn.Module) -> Tensor:
    """Return membrane, and the standard deviation of it and of the mirror image's."""
    seen = to_probabilities(inner_logits(network, batch), network)[:, :1]
    mirrored = inner_logits(network, batch.flip(-1))
    other = to_probabilities(mirrored, network)[:, :1].flip(-1)
    return torch.cat([seen, (seen - other).abs() / 2], dim=1)
