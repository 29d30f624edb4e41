"""napari's own strokes on a labels layer → strokes of hand work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.session.brush import Stroke

Atom = tuple[tuple[Any, ...], NDArray[Any]]
"""An index into the layer's data, and the values there before."""


def strokes_of(
    painted: Iterable[Any], array: NDArray[Any], *, flat: bool
) -> list[Stroke]:
    """Return what one stroke changed, for each section and value.

    Parameters
    ----------
    painted
        The value of the layer's `events.paint`.
    array
        What was painted, `(z, y, x)`.
    flat
        The layer shows its only section, as `(y, x)`.
    """
    atoms = [_placed(atom, flat) for item in painted for atom in _atoms(item)]
    sections: dict[int, list[Atom]] = {}
    for atom in atoms:
        for z, part in _by_section(atom):
            sections.setdefault(z, []).append(part)
    strokes = []
    for z, parts in sections.items():
        strokes += _of_section(z, parts, np.asarray(array[z]))
    return strokes


def _atoms(item: Any) -> Iterator[Atom]:
    """Read either form in which napari keeps a change: a masked box, or indices."""
    if hasattr(item, "slice_key"):
        shape = tuple(part.stop - part.start for part in item.slice_key)
        if item.mask is None:
            mask = np.ones(shape, bool)
        else:
            mask = np.asarray(item.mask).reshape(shape)
        start = [part.start for part in item.slice_key]
        where = tuple(i + s for i, s in zip(np.nonzero(mask), start, strict=True))
        old = np.broadcast_to(np.asarray(item.old_values).ravel(), where[0].shape)
        yield where, old
    else:
        indices, old, _ = item
        where = tuple(np.atleast_1d(i) for i in indices)
        yield where, np.broadcast_to(old, where[0].shape)


def _placed(atom: Atom, flat: bool) -> Atom:
    where, old = atom
    return ((np.zeros_like(where[0]), *where), old) if flat else atom


def _by_section(atom: Atom) -> Iterator[tuple[int, Atom]]:
    (zs, ys, xs), old = atom
    for z in np.unique(zs):
        here = zs == z
        yield int(z), ((ys[here], xs[here]), old[here])


def _of_section(z: int, parts: list[Atom], now: NDArray[Any]) -> list[Stroke]:
    rows = np.concatenate([where[0] for where, _ in parts])
    columns = np.concatenate([where[1] for where, _ in parts])
    top, left = int(rows.min()), int(columns.min())
    area = slice(top, int(rows.max()) + 1), slice(left, int(columns.max()) + 1)
    now = now[area]
    old = now.copy()
    for (ys, xs), values in reversed(parts):
        old[ys - top, xs - left] = values
    changed = old != now
    return [
        Stroke(z, area, where, old[where], int(value))
        for value in np.unique(now[changed])
        if (where := changed & (now == value)).any()
    ]
