"""Tissue with a truth, an annotator who knows it, and how weights are scored on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

import napari_emseg as emseg
from napari_emseg.core.labels import Meaning, inside_mask
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.metrics import cell_scores, v_rand_at, v_rand_v_info
from napari_emseg.metrics.inputs import cells_of_inside
from napari_emseg.models.weights import Weights
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.sparse_labels import SparseLabels

SECONDS_PER_PLACE, PIXELS_PER_SECOND = 6.0, 15.0
"""How long the annotator takes: to look at a place, and to draw."""

BRUSH = 3
"""Half the width of the annotator's strokes, px."""

TOLERANCE = 2
"""Walls may lie so far beside the true ones, px."""

SMALLEST_MISTAKE = 12
"""Smaller groups of wrong pixels are not worth a stroke."""


@dataclass(frozen=True)
class Task:
    """Tissue, the sections that may be corrected, and those that are scored."""

    name: str
    images: str
    ids: str
    voxel_size_nm: tuple[float, float, float]
    corrected: tuple[int, ...]
    scored: tuple[int, ...]
    crop: int
    side: int
    labels_are: Meaning = "cells"

    def load(self, folder: Path) -> Tissue:
        """Read the part of it that is used."""
        part = (slice(None), slice(0, self.crop), slice(0, self.crop))
        grey, ids = (
            np.asarray(open_stack(folder / path).data[part])
            for path in (self.images, self.ids)
        )
        stack = Stack(grey, name=self.name, voxel_size_nm=self.voxel_size_nm)
        inside = inside_mask(ids, self.labels_are)
        if self.labels_are != "cells":
            ids = cells_of_inside(inside)
        truth = np.where(inside, 2, 1).astype(np.uint8)
        return Tissue(self, stack, ids.astype(np.uint32), truth)


FIB25 = Task(
    "fib25",
    "fib25/ts2_raw_150-249.tif",
    "fib25/ts2_ids_150-249.tif",
    (10, 10, 10),
    corrected=tuple(range(32, 72, 4)),
    scored=(*range(0, 21, 4), *range(80, 100, 4)),
    crop=250,
    side=32,
)
VNC = Task(
    "vnc",
    "vnc/raw.tif",
    "vnc/membranes.tif",
    (50, 4.6, 4.6),
    corrected=(0, 2, 4),
    scored=(8, 10, 12),
    crop=512,
    side=44,
    labels_are="membrane",
)
CORTEX = Task(
    "cortex",
    "cortex_ac4/raw_00-29.tif",
    "cortex_ac4/ids_00-29.tif",
    (30, 6, 6),
    corrected=tuple(range(0, 10, 2)),
    scored=(19, 22, 25, 28),
    crop=512,
    side=44,
)


@dataclass(frozen=True, eq=False)
class Tissue:
    """A task's stack, ids of its cells, and codes: 1 membrane, 2 inside."""

    task: Task
    stack: Stack
    ids: NDArray[np.uint32]
    truth: NDArray[np.uint8]

    def known(self, codes: NDArray[np.uint8] | None = None) -> TrainingSet:
        """Return what is corrected; sections that are not for it are excluded."""
        shape = self.stack.shape
        opinions = SparseLabels(shape) if codes is None else SparseLabels.read(codes)
        out = frozenset(range(shape[0])) - frozenset(self.task.corrected)
        return TrainingSet(self.stack, opinions, excluded=out)

    def labelled(self) -> TrainingSet:
        """Return all that is true of the sections that may be corrected."""
        codes = np.zeros_like(self.truth)
        codes[list(self.task.corrected)] = self.truth[list(self.task.corrected)]
        return self.known(codes)

    def membrane(
        self, weights: Weights, sections: Iterable[int]
    ) -> NDArray[np.float32]:
        """Predict as everybody does; by one thread."""
        settings = PredictSettings(invert="no", threads=1)
        return emseg.predict(
            self.stack, weights, sections=list(sections), settings=settings
        )

    def scores(self, membrane: NDArray[np.float32], threshold: float) -> dict[str, Any]:
        """Score `membrane` of the scored sections, and the cells made of it by default.

        V_Rand and VI of each section, too.
        """
        z = list(self.task.scored)
        inside = self.truth[z] == 2
        found = v_rand_v_info(1 - membrane, inside, threads=1)
        cells = emseg.segment(membrane, settings=CellSettings(threshold=threshold))
        of_cells = [cell_scores(*pair) for pair in zip(cells, self.ids[z], strict=True)]
        vi = [scores.variation_of_information for scores in of_cells]
        everything = cell_scores(cells, self.ids[z]).as_dict()
        return {
            "v_rand": found.v_rand,
            "v_rand_threshold": found.v_rand_threshold,
            "v_info": found.v_info,
            "vi": float(np.mean(vi)),
            **{f"cells_{name}": value for name, value in everything.items()},
            "threshold": threshold,
            "v_rand_at_threshold": float(
                v_rand_at(1 - membrane, inside, 1 - threshold).mean()
            ),
            "v_rand_by_section": found.rand.f[found.rand.best].tolist(),
            "vi_by_section": vi,
        }


@dataclass
class Annotator:
    """Corrects what weights get wrong in a place; knows the truth.

    Walls that are only wider or lie a little beside the true ones are left alone, as a
    person would. Where a wall is missing it is drawn with a brush, cells on both sides
    too; where one is spurious it is painted over. Then all of the place is said to be
    right.
    """

    truth: NDArray[np.uint8]
    seconds: float = 0.0
    places: int = 0

    def codes(self, region: Region, shown: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return codes `(y, x)` for a region in which membrane is shown."""
        truth = self.truth[region.z, *region.area]
        drawn = mistakes(truth == 1, shown)
        self.places += 1
        self.seconds += SECONDS_PER_PLACE + drawn.sum() / BRUSH / PIXELS_PER_SECOND
        return truth


def mistakes(wall: NDArray[np.bool_], shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what a brush draws `(y, x)` where walls are missing or spurious."""
    missing = wall & ~thickened(shown, TOLERANCE)
    spurious = shown & ~thickened(wall, TOLERANCE)
    groups, n = ndi.label(missing | spurious, np.ones((3, 3)))
    sizes = np.bincount(groups.ravel(), minlength=n + 1)
    sizes[0] = 0
    return thickened(sizes[groups] >= SMALLEST_MISTAKE, BRUSH)


def thickened(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Grow a mask `(y, x)` by some pixels on each side."""
    return ndi.binary_dilation(mask, np.ones((3, 3)), iterations=by)
