"""A finished input of a batch on screen: results over what they were made of."""

from __future__ import annotations

from typing import Any

from napari import Viewer
from napari.layers import Image, Layer

from napari_emseg._napari import layer_of, placement_of, stack_of
from napari_emseg._napari.layers import place
from napari_emseg.batch.project_overlay import open_input
from napari_emseg.batch.queue import Entry
from napari_emseg.io import open_stack


def show_results(viewer: Viewer, entry: Entry) -> list[Layer]:
    """Show the results of an entry over its source; what is there is shown again.

    Raises
    ------
    ValueError
        If there are none.
    OSError
        If source or results can't be read.
    """
    row = entry.row
    if not row.outputs:
        why = "; ".join(row.warnings) or f"it is {row.state}"
        msg = f"{row.name} has no results: {why}"
        raise ValueError(msg)
    source = _source_layer(viewer, entry)
    if source is None:
        source = viewer.add_layer(_made(open_input(entry.given).stack))
        entry.key = str(source.unique_id)
    shown = [
        _result_layer(viewer, str(path), source)
        for path in row.outputs
        if path.parent.is_dir() and _is_shown(path.name)
    ]
    viewer.layers.selection.active = shown[-1]
    return shown


def _is_shown(name: str) -> bool:
    """Tell a result from its table, and from copies for other programs."""
    stem, _, suffix = name.rpartition(".")
    return suffix != "csv" and stem.endswith(("-membranes", "-cells"))


def _source_layer(viewer: Viewer, entry: Entry) -> Layer | None:
    """Return the layer of the source, if it is still there."""
    given = entry.given
    for layer in viewer.layers:
        if str(layer.unique_id) == entry.key:
            return layer
        if isinstance(layer, Image) and given.path and _path(layer) == given.path:
            return layer
    return None


def _result_layer(viewer: Viewer, path: str, source: Layer) -> Layer:
    there = [layer for layer in viewer.layers if _path(layer) == path]
    layer = there[0] if there else viewer.add_layer(_made(open_stack(path)))
    layer.visible = True
    if layer.data.shape == _shape(source):
        place(layer, placement_of(source))
    if isinstance(layer, Image):
        layer.blending, layer.opacity = "additive", 0.5
    return layer


def _made(stack: Any) -> Layer:
    return Layer.create(*layer_of(stack))


def _path(layer: Layer) -> str | None:
    try:
        return stack_of(layer).source
    except ValueError:
        return None


def _shape(layer: Layer) -> tuple[int, ...]:
    return tuple(stack_of(layer).shape)
