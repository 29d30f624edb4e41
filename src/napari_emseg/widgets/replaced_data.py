"""Data that another plugin puts in a layer of ours → one edit, or words why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_info, show_warning
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_emseg.proofreading.edits import Name
    from napari_emseg.session import Results
    from napari_emseg.widgets.layers import ResultLayers

LINKED: tuple[Name, ...] = ("membranes", "corrections", "cells")


class Flat:
    """The only section `(y, x)` of a stack, as `(z, y, x)`."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.shape = (1, *data.shape)
        self.dtype = np.dtype(data.dtype)

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        return np.asarray(self._data)[None][key]


def take_over_data(
    layers: ResultLayers, results: Results, kind: str, check: Callable[[int], None]
) -> None:
    """Make an edit of how replaced data differs; the layer shows the results again.

    Strokes would be painted on the other data else, and neither recorded nor saved.
    `check` is called with the largest number in corrections, to refuse it.
    """
    layer = layers.get(kind)
    name: Name | None = next((n for n in LINKED if n == kind), None)
    if layer is None or name is None:
        return
    given = layer.data
    wanted = results.hand.linked.arrays[name]
    flat = wanted.shape[0] == 1 and len(given.shape) == 2
    try:
        if name == "corrections":
            largest = max(int(np.max(np.asarray(section))) for section in given)
            if largest <= np.iinfo(wanted.dtype).max:  # else it says so below
                check(largest)
        edit = results.hand.take_over(name, Flat(given) if flat else given)
    except (OSError, ValueError) as refusal:
        layers.restore(kind)
        show_warning(f"{layer.name} was replaced, and is as before: {refusal}")
        return
    layers.restore(kind)
    if edit is not None:
        show_info(f"{edit.words}; taken over as one step, which undo takes back")
    elif given.dtype != wanted.dtype:
        show_info(f"{layer.name} stays {wanted.dtype}: that is how it is recorded")
