"""Take what runs found out of a section, and nothing that was done by hand."""

from __future__ import annotations

import numpy as np

from napari_emseg.proofreading.area import Area
from napari_emseg.proofreading.edits import Change
from napari_emseg.proofreading.linked import LinkedLabels
from napari_emseg.proofreading.rerun import burnt_in


def clear_section(linked: LinkedLabels, z: int) -> list[Change]:
    """Return what changes when a section loses its membranes and cells.

    Locked cells stay, and membranes that were drawn by hand.
    """
    linked.settle(z)
    _, height, width = linked.shape
    whole: Area = (slice(0, height), slice(0, width))
    membranes, cells, corrections = (
        np.asarray(linked.arrays[name][z])
        for name in ("membranes", "cells", "corrections")
    )
    locked = np.isin(cells, np.fromiter(linked.locked, np.int64))
    drawn = burnt_in(np.zeros_like(membranes), corrections)
    changes = (
        Change.between("membranes", z, whole, membranes, drawn),
        Change.between("cells", z, whole, cells, np.where(locked, cells, 0)),
    )
    return [change for change in changes if change is not None]
