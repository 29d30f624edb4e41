"""Between napari and the rest of the house: stacks ↔ layers, readers, writers, samples.

No Qt and no torch: napari imports this when it looks for plugins that open a file.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_warning
from numpy.typing import NDArray

from napari_emseg._napari.layers import (
    KEY,
    LayerData,
    Shown,
    Storable,
    is_turned,
    layer_of,
    placement_of,
    set_voxel_size,
    stack_of,
    stacks_of,
    voxel_size_of,
)
from napari_emseg._napari.versions import PLUGIN
from napari_emseg.core.labels import Meaning
from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import Stack
from napari_emseg.io import AmbiguousFileError, open_stack, save_stack
from napari_emseg.io.formats import SUFFIXES
from napari_emseg.io.output import refuse_to_replace
from napari_emseg.sample import fib25, fib25_cells, vnc, vnc_membranes

__all__ = [
    "KEY",
    "LayerData",
    "get_reader",
    "is_in_pixels",
    "layer_of",
    "place_as_in_file",
    "placement_of",
    "read_layers",
    "sample_fib25",
    "sample_vnc",
    "set_voxel_size",
    "stack_in_file",
    "stack_of",
    "voxel_size_of",
    "write_image",
    "write_labels",
]

PROJECT, PROJECT_FILE = ".emseg", "project.json"
DOCK = "EM segmentation"
NAPARIS = ("napari", "builtins")
"""Names of napari's own reader, as it notes them in a layer."""


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return a reader for files and folders that look like EM stacks by their name.

    Or for a project: a folder `NAME.emseg`, or `project.json` in it, since napari
    offers a folder only to readers of every folder.
    """
    paths = [path] if isinstance(path, str) else list(path)
    if len(paths) == 1 and _project_folder(paths[0]) is not None:
        return open_project
    readable = all(
        Path(p).is_dir() or Path(p).name.lower().endswith(SUFFIXES) for p in paths
    )
    return read_layers if paths and readable else None


def _project_folder(path: str) -> Path | None:
    folder = Path(path)
    if folder.name == PROJECT_FILE:
        folder = folder.parent
    return folder if folder.name.endswith(PROJECT) else None


def read_layers(path: str | Sequence[str]) -> list[LayerData]:
    """Open files as lazy layers, with their voxel size.

    Parameters
    ----------
    path
        A file or folder, or several.

    Returns
    -------
    list
        A layer's data, options and type for each, which
        `viewer.add_layer(Layer.create(*each))` shows.

    Raises
    ------
    ValueError
        If a file needs a choice; the panel 1 Data asks for it.
    OSError
        If a file is damaged.
    """
    paths = [path] if isinstance(path, str) else list(path)
    try:
        return [layer_of(_told(open_stack(p))) for p in paths]
    except AmbiguousFileError as e:
        msg = e.message("choose with Plugins › EM segmentation, 1 Data, Open")
        raise ValueError(msg) from e


def stack_in_file(layer: Layer) -> Stack | None:
    """Open the file of a layer that napari's own reader has shown without voxel size.

    Returns
    -------
    Stack | None
        What the file holds, with its voxel size; None if the layer comes from elsewhere
        or was given a size or place, if its file says no size, or is of another shape.
    """
    path = layer.source.path
    if layer.source.reader_plugin not in NAPARIS or not path or not _is_bare(layer):
        return None
    try:
        stack = open_stack(path)
    except (OSError, ValueError):  # such as colour, of which napari shows all channels
        return None
    data = layer.data[0] if layer.multiscale else layer.data
    alike = (1, *data.shape)[-3:] == stack.shape
    return stack if alike and stack.voxel_size_nm is not None else None


def _is_bare(layer: Layer) -> bool:
    """Tell if a layer is a picture or stack that nobody has given a size or place."""
    if not isinstance(layer, Image) or layer.ndim not in (2, 3) or is_turned(layer):
        return False
    moved = np.any(layer.scale != 1) or np.any(layer.translate != 0)
    return is_in_pixels(layer) and not moved


def is_in_pixels(layer: Layer) -> bool:
    """Tell if no length is known of a layer."""
    return all(str(unit) == "pixel" for unit in layer.units)


def place_as_in_file(layer: Layer, stack: Stack) -> None:
    """Give a layer the voxel size and the place that the stack in its file has."""
    set_voxel_size(layer, stack.voxel_size_nm)
    layer.translate = stack.origin_nm[-layer.ndim :]


def _told(stack: Stack) -> Stack:
    """Say in a notification what seems odd about a stack."""
    for remark in stack.metadata.get("remarks", ()):
        show_warning(f"{stack.name}: {remark}")
    return stack


def write_image(path: str, data: Any, options: dict[str, Any]) -> list[str]:
    """Save an image layer section by section; the name says the format.

    Raises
    ------
    OSError
        If it is no grey picture or stack, is turned in the window, or can't be written.
    """
    return _written(path, Image(data, **_known(options, ("rgb", "multiscale"))))


def write_labels(path: str, data: Any, options: dict[str, Any]) -> list[str]:
    """Save a labels layer section by section; the name says the format.

    Raises
    ------
    OSError
        If it is no picture or stack of labels, is turned in the window, or can't be
        written.
    """
    return _written(path, Labels(data, **_known(options, ("multiscale",))))


def _known(options: dict[str, Any], more: tuple[str, ...]) -> dict[str, Any]:
    names = ("name", "scale", "translate", "units", "axis_labels", "metadata", *more)
    names += ("affine", "rotate", "shear")
    return {name: options[name] for name in names if name in options}


def _written(path: str, layer: Layer) -> list[str]:
    try:
        return _write(path, layer)
    except ValueError as e:  # which napari takes for a writer that doesn't fit
        raise OSError(str(e)) from e


def _write(path: str, layer: Layer) -> list[str]:
    if is_turned(layer):
        msg = (
            f"{layer.name} is turned, sheared or mirrored in the window, which files "
            "can't say; save it after resetting its transform (rotate, shear, affine)"
        )
        raise ValueError(msg)
    stack = stack_of(layer)
    viewer = napari.current_viewer()
    others = () if viewer is None else viewer.layers
    refuse_to_replace(Path(path), stacks_of(filter(_is_lazy, (layer, *others))))
    about = stack.metadata.get(KEY)
    # napari's dialog has asked whether to replace an existing file
    written = save_stack(
        path,
        replace(stack, data=Storable(stack.data)),
        provenance=Provenance.model_validate(about) if about else None,
        overwrite=True,
    )
    return [str(written)]


def _is_lazy(layer: Layer) -> bool:
    return isinstance(layer.data, Shown) and layer.data.painted is None


def sample_vnc() -> list[LayerData]:
    """Return the bundled EM stack, and its membranes as a hidden labels layer."""
    membranes = vnc_membranes()
    labels = (np.asarray(membranes.data[:]) > 0).astype(np.uint8)
    return _sample(vnc(), labels, f"{membranes.name}, drawn", "membrane")


def sample_fib25() -> list[LayerData]:
    """Return the bundled FIB-SEM stack, and its cells as a hidden labels layer."""
    cells = fib25_cells()
    return _sample(fib25(), np.asarray(cells.data[:]), f"{cells.name}, drawn", "cells")


def _sample(
    stack: Stack, drawn: NDArray[np.generic], name: str, kind: Meaning
) -> list[LayerData]:
    """Return a stack, and what its authors drew in it, hidden, right over it."""
    image = layer_of(stack)
    options = {
        "name": name,
        "visible": False,
        "metadata": {KEY: Provenance(kind=kind).model_dump(mode="json")},
        **{key: image[1][key] for key in ("scale", "units", "axis_labels")},
    }
    return [image, (drawn, options, "labels")]


def open_project(path: str | Sequence[str]) -> list[tuple[Any, ...]]:
    """Open a project in the dock of the window, where it is saved while one works.

    Without a window, return what is in it as layers: the stack, corrections, cells.

    Raises
    ------
    OSError
        If it is no project, or its stack isn't where it was.
    """
    given = path if isinstance(path, str) else path[0]
    folder = str(_project_folder(given) or given)
    viewer = napari.current_viewer()
    if viewer is None:
        return _project_layers(folder)
    docks = viewer.window.dock_widgets.values()
    dock = next((x for x in docks if hasattr(x, "open_project")), None)
    if dock is None:
        _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, DOCK)
    dock.open_project(folder)
    return [(None,)]  # napari's word for: nothing more to add


def _project_layers(folder: str) -> list[tuple[Any, ...]]:
    from napari_emseg.project import Project  # not when napari looks for readers

    with Project(folder, read_only=True) as project:
        stack = project.open_source().stack
        depth = stack.shape[0]
        image = layer_of(stack)
        found: list[tuple[Any, ...]] = [image]
        for name in ("corrections", "cells"):
            values = np.stack([project.section(name, z) for z in range(depth)])
            made = Provenance(kind=name, source=stack.source)
            labels = layer_of(
                replace(stack, data=values, name=f"{stack.name} {name}", metadata={})
            )
            options = labels[1] | {"metadata": {KEY: made.model_dump(mode="json")}}
            options.pop("contrast_limits", None)
            found.append((values, options, "labels"))
    return found
