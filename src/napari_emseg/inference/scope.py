"""What a run covers: which sections and region, resampled how; said in words."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from napari_emseg.core.card import Card
from napari_emseg.core.intensity import zoom_of
from napari_emseg.core.settings import Normalisation, PredictSettings
from napari_emseg.core.stack import (
    ISOTROPIC,
    Stack,
    is_isotropic,
    sections_asked,
)

Turned = tuple[tuple[int, int], ...]
"""Places among a scope's channels, and the channels of a turned view that say them."""


@dataclass(frozen=True, slots=True)
class PredictionScope:
    """A resolved request: everything about a run that follows from stack and card.

    `sections` are in order of work; `zoom` is network pixels per source pixel `(y, x)`;
    `channels` are those of the network whose probabilities are wanted. `context` is how
    many sections it sees; those that are `excluded` aren't shown beside others.
    """

    stack: Stack
    sections: tuple[int, ...]
    roi: tuple[slice, slice]
    zoom: tuple[float, float]
    channels: tuple[int, ...]
    rule: Normalisation
    notes: tuple[str, ...]
    context: int = 1
    excluded: frozenset[int] = frozenset()
    zoom_z: float = 1.0
    """Network pixels per section, in views along y and x."""
    turned: tuple[Turned, ...] = ()
    """What views along y and x say of the channels."""
    band: slice | None = None
    """Rows of which there is a single row of tiles, see `TilePlan`."""

    @property
    def shape(self) -> tuple[int, int]:
        """`(y, x)` of the region in source pixels."""
        y, x = self.roi
        return y.stop - y.start, x.stop - x.start


def scope_of(
    stack: Stack,
    card: Card,
    settings: PredictSettings,
    *,
    sections: Sequence[int] | None = None,
    roi: tuple[slice, slice] | None = None,
    classes: Sequence[str] | None = None,
    excluded: Collection[int] = (),
) -> PredictionScope:
    """Work out what a run covers.

    Raises
    ------
    ValueError
        If a section, the region or a class isn't there, or the voxel size is absurd.
    """
    rule = card.normalisation
    if settings.statistics != "card":
        rule = rule.model_copy(update={"scope": settings.statistics})
    zoom, notes = zoom_of(stack, card, rescale=settings.rescale)
    channels = _channels(classes, card)
    return PredictionScope(
        stack=stack,
        sections=sections_asked(sections, stack),
        roi=_checked_roi(roi, stack),
        zoom=zoom,
        channels=channels,
        rule=rule,
        notes=notes,
        context=card.context,
        excluded=frozenset(excluded),
        zoom_z=1.0 if settings.views == 1 else _zoom_through(stack, card, settings),
        turned=tuple(turned_channels(channels, card, axis) for axis in (1, 2)),
    )


def turned_channels(channels: Sequence[int], card: Card, axis: int) -> Turned:
    """Say which channels of planes along an axis tell the same as a section's.

    An affinity along y is one to the next plane for planes along y. Those that no
    channel of such planes tells are left out.
    """
    # the axes of such planes, as those of the stack: the planes' own order comes first
    order = (1, 0, 2) if axis == 1 else (2, 0, 1)
    first = len(card.pixel_classes)
    found = []
    for place, channel in enumerate(channels):
        if channel < first:
            found.append((place, channel))
            continue
        z, y, x = (card.affinities[channel - first][along] for along in order)
        if (z, y, x) in card.affinities:
            found.append((place, first + card.affinities.index((z, y, x))))
    return tuple(found)


def why_one_view(stack: Stack) -> str:
    """Say why a stack has no views along y and x; empty if it has."""
    size = stack.voxel_size_nm
    if stack.shape[0] == 1:
        return "three views need more than a single section"
    isotropic = is_isotropic(size)
    if size is None or isotropic is None:
        known = "unknown" if size is None else f"? × {size[1]:g} × {size[2]:g} nm"
        return f"three views need the voxel size along z, y and x, which is {known}"
    if isotropic:
        return ""
    return (
        f"three views need voxels no more than {ISOTROPIC:g} times as long as wide, "
        f"these are {size[0]:g} × {size[1]:g} × {size[2]:g} nm (z, y, x)"
    )


def _zoom_through(stack: Stack, card: Card, settings: PredictSettings) -> float:
    """Return network pixels per section; refuse what has no other views."""
    size, why = stack.voxel_size_nm, why_one_view(stack)
    if why:
        unknown = is_isotropic(size) is None and stack.shape[0] > 1
        helps = "give it, or take one view" if unknown else "take one view"
        msg = f"{stack.name}: {why}; {helps}"
        raise ValueError(msg)
    edge = None if size is None else size[0]
    turned = stack if edge is None else stack.with_voxel_size((edge, edge, edge))
    return zoom_of(turned, card, rescale=settings.rescale)[0][0]


def refuse_results(stack: Stack) -> None:
    """Raise a ValueError if a stack says that it is a result, such as membranes."""
    made = stack.metadata.get("emseg")
    if made is None or made["kind"] == "em":
        return
    kind = made["kind"]
    if kind in ("membrane", "inside") or kind.startswith("class "):
        kind = f"probabilities of {kind}"
    msg = f"{stack.name} holds {kind}, which is a result; a network needs EM"
    raise ValueError(msg)


def _checked_roi(roi: tuple[slice, slice] | None, stack: Stack) -> tuple[slice, slice]:
    whole = tuple(slice(0, size) for size in stack.shape[1:])
    if roi is None:
        return whole[0], whole[1]
    parts = []
    for part, full, axis in zip(roi, whole, "yx", strict=True):
        start = 0 if part.start is None else int(part.start)
        stop = full.stop if part.stop is None else int(part.stop)
        if not 0 <= start < stop <= full.stop or part.step not in (None, 1):
            msg = (
                f"{stack.name}: region {axis} {start}:{stop} is empty or outside "
                f"the section, which has 0:{full.stop}"
            )
            raise ValueError(msg)
        parts.append(slice(start, stop))
    return parts[0], parts[1]


def _channels(classes: Sequence[str] | None, card: Card) -> tuple[int, ...]:
    wanted = ("membrane",) if classes is None else tuple(classes)
    unknown = [name for name in wanted if name not in card.classes]
    if not wanted or unknown:
        what = f"no class {unknown[0]!r}" if unknown else "no class is asked for"
        msg = f"{card.name}: {what}; its classes are: {', '.join(card.classes)}"
        raise ValueError(msg)
    return tuple(card.classes.index(name) for name in wanted)
