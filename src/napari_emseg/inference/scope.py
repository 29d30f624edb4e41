"""What a run covers: which sections and region, resampled how; said in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from napari_emseg.core.card import Card
from napari_emseg.core.settings import Normalisation, PredictSettings
from napari_emseg.core.stack import Stack

SAME_SIZE = 0.02
"""Voxel sizes that differ by less than this part are not worth a resampling."""

LARGE_UPSAMPLING = 2.0

MOST_ZOOM = 16.0
"""Beyond it a voxel size is a mistake (µm or Å given as nm)."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A resolved request: everything about a run that follows from stack and card.

    `sections` are in order of work; `zoom` is network pixels per source pixel `(y, x)`;
    `channels` are those of the network whose probabilities are wanted.
    """

    stack: Stack
    sections: tuple[int, ...]
    roi: tuple[slice, slice]
    zoom: tuple[float, float]
    channels: tuple[int, ...]
    rule: Normalisation
    notes: tuple[str, ...]

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
) -> Scope:
    """Work out what a run covers.

    Raises
    ------
    ValueError
        If a section, the region or a class isn't there, or the voxel size is absurd.
    """
    rule = card.normalisation
    if settings.statistics != "card":
        rule = rule.model_copy(update={"scope": settings.statistics})
    zoom, notes = zoom_of(stack, card, settings)
    return Scope(
        stack=stack,
        sections=_checked_sections(sections, stack),
        roi=_checked_roi(roi, stack),
        zoom=zoom,
        channels=_channels(classes, card),
        rule=rule,
        notes=notes,
    )


def zoom_of(
    stack: Stack, card: Card, settings: PredictSettings
) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Return network pixels per source pixel `(y, x)`, and what to tell the user.

    Raises
    ------
    ValueError
        If the sizes differ by more than `MOST_ZOOM`.
    """
    wanted = card.pixel_size_nm
    if not settings.rescale or wanted is None:
        return (1.0, 1.0), ()
    if stack.voxel_size_nm is None:
        sizes = _in_words(wanted)
        note = f"no voxel size given, used as it is (the weights expect {sizes} nm/px)"
        return (1.0, 1.0), (note,)
    given = stack.voxel_size_nm[1:]
    zoom = (given[0] / wanted[0], given[1] / wanted[1])
    if all(abs(z - 1) < SAME_SIZE for z in zoom):
        return (1.0, 1.0), ()
    if max(zoom) > MOST_ZOOM or min(zoom) < 1 / MOST_ZOOM:
        msg = (
            f"{stack.name}: {_in_words(given)} nm/px is too far from the weights' "
            f"{_in_words(wanted)} nm/px (at most {MOST_ZOOM:g}× either way); "
            "check the voxel size, or turn rescaling off"
        )
        raise ValueError(msg)
    times = _in_words((round(zoom[0], 2), round(zoom[1], 2)))
    notes = [f"rescaled {_in_words(given)} → {_in_words(wanted)} nm/px ({times}×)"]
    if max(zoom) > LARGE_UPSAMPLING:
        notes.append(
            f"enlarged more than {LARGE_UPSAMPLING:g}×: the picture is much coarser "
            "than what the weights learnt from, so expect poor membranes"
        )
    return zoom, tuple(notes)


def _in_words(pair: tuple[float, float]) -> str:
    y, x = pair
    return f"{y:g}" if y == x else f"{y:g} × {x:g}"


def _checked_sections(sections: Sequence[int] | None, stack: Stack) -> tuple[int, ...]:
    n = stack.shape[0]
    if sections is None:
        return tuple(range(n))
    wanted = tuple(dict.fromkeys(int(z) for z in sections))
    outside = [z for z in wanted if not 0 <= z < n]
    if not wanted or outside:
        what = f"no section {outside[0]}" if outside else "no section is asked for"
        msg = f"{stack.name}: {what}; sections are 0..{n - 1}"
        raise ValueError(msg)
    return wanted


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
