"""Parts of a network: what is its encoder, its decoder, its head; one class more.

Told by the names of a network's children, so that it works for all architectures that
keep to them: `encoder` or `down…` is the encoder, `head…` or `tail` is the head,
everything else is the decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import log2
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import Conv2d

from napari_emseg.models.zoo import affinities_of, build, context_of

if TYPE_CHECKING:
    from torch import Tensor, nn

Part = Literal["encoder", "decoder", "head"]

ENCODER, HEAD = ("encoder", "down"), ("head", "tail")

UNSEEN = -24.0
"""Logit of a class that nothing was learnt about: e^-24 is lost beside 1 in float32."""


def part_of(name: str) -> Part:
    """Return which part a parameter or a module belongs to, by its name."""
    child = name.partition(".")[0]
    if child.startswith(ENCODER):
        return "encoder"
    return "head" if child.startswith(HEAD) else "decoder"


def modules_of(network: nn.Module, *parts: Part) -> Iterator[nn.Module]:
    """Yield the modules of some parts, the network itself left out."""
    for name, module in network.named_modules():
        if name and part_of(name) in parts:
            yield module


COARSE = 2
"""Levels below the resolution of the output, from which on a decoder is coarse."""


def coarse_decoder(network: nn.Module, side: int) -> list[nn.Module]:
    """Return layers of the decoder that work at a quarter of the resolution or less.

    Told by what they give for an empty picture, so for networks of any names; the
    network is as it was afterwards.

    Parameters
    ----------
    side
        Of a picture that the network takes, px.
    """
    heights: dict[nn.Module, int] = {}

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        heights[layer] = output.shape[-2]

    layers = [
        layer
        for layer in modules_of(network, "decoder")
        if next(layer.parameters(recurse=False), None) is not None
    ]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    training = network.training
    first = next(network.parameters())
    try:
        with torch.no_grad():
            empty = first.new_zeros(1, context_of(network), side, side)
            found = network.eval()(empty)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    whole = found.shape[-2]
    # rounded, since networks without padding lose some pixels at every level
    return [x for x in layers if round(log2(whole / heights.get(x, whole))) >= COARSE]


def with_classes(
    network: nn.Module, architecture: str, config: dict[str, Any], n_classes: int
) -> nn.Module:
    """Return a copy with more classes; what it says of the old ones doesn't change.

    Parameters
    ----------
    config
        That rebuilds the network.
    n_classes
        Of the copy, affinities not counted: new classes come before them.

    Raises
    ------
    ValueError
        If it has as many already, or its last layer has no bias.
    """
    state, last = network.state_dict(), len(affinities_of(network))
    wider = build(architecture, {**config, "n_classes": n_classes})
    grown = 0
    for name, value in wider.state_dict().items():
        if state[name].shape == value.shape:
            value.copy_(state[name])
        else:
            # only the last layer has a row for each class; all
            # else has the shape that it had
            _grow(value, state[name], name, last)
            grown += name.endswith(".bias")
    if not grown:
        msg = f"{architecture} with {n_classes} classes has no layer to add a class to"
        raise ValueError(msg)
    return wider.train(network.training).to(next(network.parameters()))


def without_affinities(
    network: nn.Module, architecture: str, config: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a copy that gives no affinities, and the configuration that rebuilds it.

    What it says of classes doesn't change.
    """
    kept = {k: v for k, v in config.items() if k != "affinities"}
    small = build(architecture, kept)
    state = network.state_dict()
    for name, value in small.state_dict().items():
        # rows of affinities are the last of the last layer, and of nothing else
        value.copy_(state[name][: len(value)] if value.ndim else state[name])
    return small.train(network.training).to(next(network.parameters())), kept


ADDED_LAYERS = "dac.norms.", "fine.", "finest."
"""Layers of a CE-Net that its configuration adds to those of the paper."""


def with_context(
    network: nn.Module, architecture: str, config: dict[str, Any]
) -> nn.Module:
    """Return a copy that sees more sections, and gives affinities that it had not.

    What it says of the classes doesn't change before it learns on: it looks at the
    section itself alone. The new affinities begin untrained, as do the layers that a
    configuration adds; a normalisation among them does change what it says.

    Parameters
    ----------
    config
        Of the copy; it differs from the network's own in `context`, `affinities`, and
        what is in `ADDED_LAYERS`.

    Raises
    ------
    ValueError
        If it differs in something else, or sees fewer sections than the network.
    """
    wider = build(architecture, config)
    state, more = network.state_dict(), context_of(wider) - context_of(network)
    new = wider.state_dict().keys() - state.keys()
    fits = more >= 0 and wider.state_dict().keys() >= state.keys()
    fits = fits and all(name.startswith(ADDED_LAYERS) for name in new)
    for name, value in wider.state_dict().items() if fits else ():
        old = state.get(name)
        if old is None:
            continue  # an added layer
        if value.shape == old.shape:
            value.copy_(old)
        elif value.ndim == old.ndim == 4 and value.shape[1] - old.shape[1] == more > 0:
            # the first kernel: sections are its channels, and the middle one is seen
            value.zero_()[:, more // 2 : more // 2 + old.shape[1]] = old
        elif value.shape[1:] == old.shape[1:] and len(value) > len(old):
            value[: len(old)] = old  # rows of affinities come last
        else:
            fits = False
    if not fits:
        msg = f"a {architecture} {config} is more than this network with a wider view"
        raise ValueError(msg)
    return wider.train(network.training).to(next(network.parameters()))


def untrained_layers(network: nn.Module, first: int) -> list[Conv2d]:
    """Return the layers in which nothing was learnt yet about classes from `first`."""
    stop = -len(affinities_of(network)) or None
    return [
        module
        for module in network.modules()
        if isinstance(module, Conv2d)
        and module.bias is not None
        and len(module.bias[:stop]) > first
        and bool((module.bias[first:stop] == UNSEEN).all())
    ]


def set_prior_bias(layers: Iterable[Conv2d], first: int, logits: list[float]) -> None:
    """Let new classes begin to learn from these logits, their usual ones."""
    with torch.no_grad():
        for layer in layers:
            if layer.bias is not None:
                layer.bias[first : first + len(logits)] = torch.tensor(logits)


def _grow(new: Tensor, old: Tensor, name: str, last: int) -> None:
    """Fill rows with the old ones, the `last` of which stay the last.

    Those between say that nothing is there.
    """
    n, m = len(old) - last, len(new) - last
    with torch.no_grad():
        new[:n], new[m:] = old[:n], old[n:]
        new[n:m] = UNSEEN if name.endswith(".bias") else 0.0
