"""How a stack is resampled for weights: to the voxel size they were trained at."""

from __future__ import annotations

from napari_emseg.core.card import Card
from napari_emseg.core.stack import Stack

SAME_SIZE = 0.02
"""Voxel sizes that differ by less than this part are not worth a resampling."""

LARGE_UPSAMPLING = 2.0

MOST_ZOOM = 16.0
"""Beyond it a voxel size is a mistake (µm or Å given as nm)."""


def zoom_of(
    stack: Stack, card: Card, *, rescale: bool = True
) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Return network pixels per source pixel `(y, x)`, and what to tell the user.

    Raises
    ------
    ValueError
        If the sizes differ by more than `MOST_ZOOM`.
    """
    wanted = card.pixel_size_nm
    if not rescale or wanted is None:
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
