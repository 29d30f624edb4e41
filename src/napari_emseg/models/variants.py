"""The ways in which one set of weights can be run: to which depth, by which heads."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from napari_emseg.core.card import Card, Variant, affinity_names
from napari_emseg.core.settings import Heads
from napari_emseg.models.zoo import Network, Prunable, affinities_of, context_of

if TYPE_CHECKING:
    from torch import nn


def with_facts(card: Card, network: Network) -> Card:
    """Return the card with all that follows from its network, and from parts of it.

    Scores and times that the card knows of its variants are kept, as far as the network
    can be run in that way.
    """
    variants: list[Variant] = []
    for depth, heads, part in parts_of(network):
        facts = _facts(part)
        if depth is not None:
            config = cast("Prunable", part).config
            facts["config"] = config.model_dump(mode="json")
        for tta in (False, True):
            known = card.variant(depth, heads, tta=tta)
            if known is None and (tta or depth is None):
                continue  # there is nothing to say of it that the card doesn't
            known = known or Variant(depth=depth, heads=heads)
            variants.append(known.model_copy(update=facts))
    own = {**_facts(network), **_channels(card, network), "variants": tuple(variants)}
    return card.model_copy(update=own)


def _channels(card: Card, network: Network) -> dict[str, Any]:
    """Return what a network sees and says, with names for its affinities."""
    affinities = affinities_of(network)
    return {
        "context": context_of(network),
        "affinities": affinities,
        "classes": (*card.pixel_classes, *affinity_names(affinities)),
    }


def card_at(card: Card, depth: int, heads: Heads) -> Card:
    """Return the card of weights that are cut to a depth.

    Raises
    ------
    ValueError
        If they can't be; what can be is said.
    """
    if not card.depths:
        msg = (
            f"{card.name} has no depth and no heads to choose, since it is a "
            f"{card.architecture}; leave them out"
        )
        raise ValueError(msg)
    if depth not in card.depths:
        there = ", ".join(map(str, card.depths))
        msg = f"depth of {card.name} must be one of {there}, got {depth!r}"
        raise ValueError(msg)
    found = card.variant(depth, heads)
    if found is None:
        msg = f"{card.name} has no mean of heads, since only head {depth} is there"
        raise ValueError(msg)
    facts = ("config", "parameters", "geometry", "bytes_per_pixel")
    return card.model_copy(
        update={
            **{name: getattr(found, name) for name in facts},
            "scores": found.scores,
            "ms_per_megapixel": found.ms_per_megapixel,
            "threshold": found.threshold or card.threshold,
            "variants": tuple(v for v in card.variants if _holds(found, v)),
        }
    )


def is_mean(heads: Heads, depth: int) -> bool:
    """Tell if several heads are averaged; the mean of one head is itself."""
    return heads == "mean" and depth > 1


def own_way(network: Network) -> tuple[int | None, Heads]:
    """Return the depth and heads that a network has as it is."""
    depths: tuple[int, ...] = getattr(network, "depths", ())
    config = getattr(network, "config", None)
    mean = getattr(config, "heads", None) == "mean"
    return max(depths, default=None), "mean" if mean else "last"


def _holds(part: Variant, other: Variant) -> bool:
    """Tell if the network of `part` can be run as `other`, too."""
    if other.depth is None or part.depth is None:
        return False
    if part.heads == "mean":
        return other.depth <= part.depth
    return (other.depth, other.heads) == (part.depth, part.heads)


def parts_of(network: Network) -> Iterator[tuple[int | None, Heads, Network]]:
    """Cut a network to each of its depths, and to each mean of heads.

    One without depth is its only part, of depth None.
    """
    depths: tuple[int, ...] = getattr(network, "depths", ())
    if not depths:
        yield None, "last", network
    whole = cast("Prunable", network)
    for depth in depths:
        yield depth, "last", whole.pruned(depth)
        # the mean of one head is that head; without head 1 there is no mean
        if depth > 1 and depths[0] == 1:
            yield depth, "mean", whole.pruned(depth, "mean")


def _facts(network: Network) -> dict[str, Any]:
    parameters = cast("nn.Module", network).parameters()
    return {
        "parameters": sum(p.numel() for p in parameters),
        "geometry": network.geometry,
        "bytes_per_pixel": network.bytes_per_pixel,
    }
