"""A new class meets a network: its row of the last layer learns before all else.

Rows that begin at nothing would need longer than a round at the rate that suits a
network that is good already. Nothing that the network says of old classes by logits
changes meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from napari_emseg.core.finetuning import FinetuneSettings
from napari_emseg.core.records import Progress
from napari_emseg.models.zoo import Network
from napari_emseg.training.dataset import Patches
from napari_emseg.training.losses import LOSSES
from napari_emseg.training.patches import rehearsed
from napari_emseg.training.trainer import middle

STEPS = 60

RATE = 0.05


def fit_new_class_head(
    network: nn.Module,
    layers: Iterable[nn.Module],
    patches: Patches,
    settings: FinetuneSettings,
    n_old: int,
) -> Generator[Progress, None, None]:
    """Train the rows from `n_old` of some layers; all else stays as it is.

    Parameters
    ----------
    layers
        Those that give the logits.
    patches
        The last ones of a batch may be rehearsal, of which new classes learn nothing.
    """
    kind = cast("Network", network)
    network.eval()
    network.requires_grad_(False)
    rows = [p for layer in layers for p in layer.parameters()]
    hook = _only_new(n_old)
    hooks = [p.requires_grad_().register_hook(hook) for p in rows]  # type: ignore[no-untyped-call]
    optimiser = torch.optim.Adam(rows, lr=RATE)
    for step in range(STEPS):
        image, target, weight = patches.batch(step)
        n = len(image) - rehearsed(settings)
        outputs = kind.supervised(image[:n])
        target, weight = (middle(t[:n], outputs[0]) for t in (target, weight))
        losses = [
            LOSSES[settings.loss](logits, target, weight, kind.activation)
            for logits in outputs
        ]
        optimiser.zero_grad(set_to_none=True)
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield Progress("new classes", step + 1, STEPS)
    for each in hooks:
        each.remove()


def _only_new(n_old: int) -> Callable[[Tensor], Tensor]:
    """Return what sets the gradient of old rows to 0."""

    def hook(gradient: Tensor) -> Tensor:
        new = torch.arange(len(gradient), device=gradient.device) >= n_old
        return gradient * new.view(-1, *[1] * (gradient.ndim - 1))

    return hook
