"""A project that is dropped onto napari, or named on its command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import napari
import numpy as np

from napari_emseg._napari.layers import KEY, layer_of
from napari_emseg.core.records import Provenance

SUFFIX = ".emseg"
PLUGIN, DOCK = "napari-emseg", "EM segmentation"


def open_project(path: str | Sequence[str]) -> list[tuple[Any, ...]]:
    """Open a project in the dock of the window, where it is saved while one works.

    Without a window, return what is in it as layers: the stack, corrections, cells.

    Raises
    ------
    OSError
        If it is no project, or its stack isn't where it was.
    """
    folder = path if isinstance(path, str) else path[0]
    viewer = napari.current_viewer()
    if viewer is None:
        return _layers(folder)
    docks = viewer.window.dock_widgets.values()
    dock = next((x for x in docks if hasattr(x, "open_project")), None)
    if dock is None:
        _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, DOCK)
    dock.open_project(folder)
    return [(None,)]  # napari's word for: nothing more to add


def _layers(folder: str) -> list[tuple[Any, ...]]:
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
