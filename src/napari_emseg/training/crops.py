"""What is known of a stack → the pieces of it that training holds in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.axis import Axis
from napari_emseg.core.normalised import NormalisedSection, NormalisedStack
from napari_emseg.core.regions import Region
from napari_emseg.training.losses import IGNORE, border_weight
from napari_emseg.training.sparse_labels import BLOCK, SparseLabels


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A piece of a section in network pixels, all `(y, x)`.

    Parameters
    ----------
    image
        Normalised grey values.
    target
        Class numbers, `IGNORE` where nothing is known.
    weight
        What a known pixel counts.
    region
        Where the known pixels lie, on the source's grid.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    weight: NDArray[np.float32]
    region: Region


@dataclass(frozen=True, slots=True)
class Border:
    """Extra weight of thin walls, inside reviewed regions only; see `border_weight`."""

    w0: float = 0.0
    sigma: float = 5.0


def cut_crops(
    sections: NormalisedStack,
    opinions: SparseLabels,
    *,
    zoom: tuple[float, float] = (1.0, 1.0),
    margin: int,
    reviewed: Sequence[Region] = (),
    border: Border = Border(),
    stroke_weights: NDArray[np.float32] | None = None,
) -> Iterator[Crop]:
    """Cut out what is known, with `margin` network pixels around it.

    What lies close together comes in one piece. Blank sections give none, and alignment
    padding is not known.

    Parameters
    ----------
    stroke_weights
        What pixels of each class count outside reviewed regions, `(n_classes,)`; 1 by
        default.
    """
    shape = opinions.shape[1], opinions.shape[2]
    wide = ceil(margin / min(zoom))
    for region in _groups(opinions.blocks, wide, shape):
        section = sections.section(region.z)
        if section is None:
            continue
        around = region.grown(wide, shape)
        rows, columns = _network_span(around, zoom, shape)
        y, x = (
            np.clip(_nearest(*span), part.start, part.stop - 1)
            for span, part in zip((rows, columns), around.area, strict=True)
        )
        codes = _known(opinions.window(around), section, around)
        # code 0, no opinion, wraps to 255, which is
        # `IGNORE`; code k + 1 becomes class k
        target = codes[np.ix_(y - around.top, x - around.left)] - np.uint8(1)
        if (target == IGNORE).all():
            continue
        image = _resampled(section, rows, columns)
        known = target != IGNORE
        weight = known.astype(np.float32)
        if stroke_weights is not None:
            weight[known] = stroke_weights[target[known]]
        for part in reviewed:
            _weigh_reviewed(weight, target, (y, x), region.z, part, border)
        yield Crop(image, target, weight, region)


def _known(
    codes: NDArray[np.uint8], section: NormalisedSection, region: Region
) -> NDArray[np.uint8]:
    """Return codes without opinions on alignment padding."""
    if section.padding is not None:
        codes[section.padding[region.area]] = 0
    return codes


def _groups(
    blocks: Sequence[Region], margin: int, shape: tuple[int, int]
) -> Iterator[Region]:
    """Yield boxes of squares whose surroundings would meet."""
    grid = tuple(-(-n // BLOCK) for n in shape)
    reach = max(1, ceil(margin / BLOCK))
    for z in sorted({block.z for block in blocks}):
        known = np.zeros(grid, bool)
        for block in blocks:
            if block.z == z:
                known[block.top // BLOCK, block.left // BLOCK] = True
        # squares so near that their margins meet are one
        # group, and a group's box is one crop
        near = ndi.maximum_filter(known, 2 * reach + 1, mode="constant")
        groups, n = ndi.label(near, np.ones((3, 3)))
        groups[~known] = 0
        for rows, columns in ndi.find_objects(groups, n):
            yield Region(
                z,
                BLOCK * rows.start,
                BLOCK * columns.start,
                min(shape[0], BLOCK * rows.stop),
                min(shape[1], BLOCK * columns.stop),
            )


Span = tuple[Axis, int, int]
"""An axis with the first network pixel, and one past the last."""


def _network_span(
    region: Region, zoom: tuple[float, float], shape: tuple[int, int]
) -> tuple[Span, Span]:
    spans = []
    for part, size, times in zip(region.area, shape, zoom, strict=True):
        axis = Axis(size, times)
        # pixels whose middle lies in the region
        first, stop = (ceil(edge * times - 0.5) for edge in (part.start, part.stop))
        stop = max(1, min(axis.network_size, stop))
        spans.append((axis, min(first, stop - 1), stop))
    return spans[0], spans[1]


def _nearest(axis: Axis, start: int, stop: int) -> NDArray[np.intp]:
    """Return the source pixel under the middle of each network pixel."""
    position = np.floor((np.arange(start, stop) + 0.5) / axis.zoom)
    found: NDArray[np.intp] = np.clip(position, 0, axis.size - 1).astype(np.intp)
    return found


def _resampled(
    section: NormalisedSection, rows: Span, columns: Span
) -> NDArray[np.float32]:
    """Return grey values on the network's grid, as a run would read them."""
    down, across = (axis.to_network(a, b) for axis, a, b in (rows, columns))
    values = section.image[slice(*down.span), slice(*across.span)]
    values = down.apply(values, 0, down.span[0])
    return across.apply(values, 1, across.span[0])


def _weigh_reviewed(
    weight: NDArray[np.float32],
    target: NDArray[np.uint8],
    source: tuple[NDArray[np.intp], NDArray[np.intp]],
    z: int,
    reviewed: Region,
    border: Border,
) -> None:
    """Put in the weight map where everything is known."""
    if reviewed.z != z:
        return
    rows, columns = (
        # `at` ascends: the network pixels whose source pixel
        # lies in the region are a slice
        slice(*np.searchsorted(at, [part.start, part.stop]))
        for at, part in zip(source, reviewed.area, strict=True)
    )
    part = target[rows, columns]
    if part.size:
        extra = border_weight(part, w0=border.w0, sigma=border.sigma)
        weight[rows, columns] = np.where(part == IGNORE, 0, 1 + extra)
