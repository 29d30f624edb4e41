"""A network over a region of a section, tile by tile, on the section's own grid."""

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_emseg.core.regions import Area
from napari_emseg.core.tiles import TilePlan, check_probabilities, core_of, read_tile
from napari_emseg.models.forward import inner_logits, to_probabilities
from napari_emseg.models.zoo import Network

TILE = 768
"""Largest window, network px: enough for most regions, and little memory."""

Compute = Callable[[Tensor], Tensor]
"""Windows `(1, 1, y, x)` in, values `(1, c, y', x')` out, less the network's margin."""


def region_probabilities(
    network: nn.Module,
    section: NDArray[np.float32],
    area: Area,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> NDArray[np.float32]:
    """Return probabilities `(n_classes, y, x)` of a region of a section.

    Parameters
    ----------
    network
        In evaluation mode; its device is used.
    section
        Normalised grey values `(y, x)`, all of it: the halo is read around the region.
    area
        Rows and columns.
    zoom
        Network pixels per pixel of the section.
    """
    return region_values(
        network, section, area, zoom, partial(_probabilities, network=network)
    )


@torch.inference_mode()
def region_values(
    network: nn.Module,
    section: NDArray[np.float32],
    area: Area,
    zoom: tuple[float, float],
    compute: Compute,
) -> NDArray[np.float32]:
    """Return what `compute` says of a region, as in `region_probabilities`."""
    geometry = cast("Network", network).geometry
    tile = max(TILE, TilePlan.smallest_tile(geometry) + geometry.stride)
    shape = section.shape[0], section.shape[1]
    plan = TilePlan(shape, geometry, zoom, tile, area)
    device = next(network.parameters()).device
    top, left = area[0].start, area[1].start
    out: NDArray[np.float32] | None = None
    for part in plan:
        window = read_tile(lambda y, x: section[y, x], plan, part)
        batch = torch.from_numpy(np.ascontiguousarray(window))[None, None].to(
            device, memory_format=torch.channels_last
        )
        values = core_of(compute(batch)[0].cpu().numpy(), plan, part)
        check_probabilities(values)
        if out is None:
            size = (area[0].stop - top, area[1].stop - left)
            out = np.zeros((len(values), *size), np.float32)
        rows, columns = part.core
        here = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        share = part.weights
        # `share` adds up to 1 at each pixel; without it each pixel is in one core
        out[(slice(None), *here)] += values if share is None else values * share
    if out is None:
        msg = "a region without tiles"
        raise RuntimeError(msg)
    return out


def _probabilities(batch: Tensor, *, network: nn.Module) -> Tensor:
    return to_probabilities(inner_logits(network, batch), network)


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
    # `supervised` computes all of the window, of which the margin is wrong
    heads = heads[..., cut : heads.shape[-2] - cut, cut : heads.shape[-1] - cut]
    return torch.cat([heads[-1], heads.std(dim=0, correction=0)], dim=1)


def _by_mirror(batch: Tensor, *, network: nn.Module) -> Tensor:
    """Return membrane, and the standard deviation of it and of the mirror image's."""
    seen = to_probabilities(inner_logits(network, batch), network)[:, :1]
    mirrored = inner_logits(network, batch.flip(-1))
    other = to_probabilities(mirrored, network)[:, :1].flip(-1)
    # of two values the standard deviation is half their distance
    return torch.cat([seen, (seen - other).abs() / 2], dim=1)
