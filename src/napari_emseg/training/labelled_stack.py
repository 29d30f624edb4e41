"""A stack with labels → examples at the pixel size that a network is trained at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.axis import Axis
from napari_emseg.core.card import Card
from napari_emseg.core.labels import Meaning
from napari_emseg.core.stack import Stack
from napari_emseg.core.zoom import zoom_of
from napari_emseg.training.card import Split
from napari_emseg.training.dataset import Example, read_examples
from napari_emseg.training.weightmap import IGNORE, INSIDE, MEMBRANE


@dataclass(frozen=True, slots=True, eq=False)
class LabelledStack:
    """A stack with labels, as one of several.

    Parameters
    ----------
    name
        By which its scores are called.
    images, labels
        `(z, y, x)` of one shape; the images' voxel size says how they are resampled.
    share
        How often patches come from it, beside the other sources' shares.
    unlabelled_beyond
        Of labels that are cells: zeros farther than so many px from any cell are not
        membrane, but something nobody has labelled. None if every zero is membrane.
    """

    name: str
    images: Stack
    labels: Stack
    meaning: Meaning
    split: Split
    share: float = 1.0
    unlabelled_beyond: float | None = None


def examples_of(
    source: LabelledStack, sections: Sequence[int], pixel_size_nm: tuple[float, float]
) -> list[Example]:
    """Read sections of a source, resampled to a pixel size `(y, x)`.

    Raises
    ------
    ValueError
        If images and labels don't match, or the images' voxel size isn't known.
    """
    if source.images.voxel_size_nm is None:
        msg = f"{source.name}: its voxel size must be known, to be resampled"
        raise ValueError(msg)
    if not sections:
        return []
    card = Card(name="", architecture="", pixel_size_nm=pixel_size_nm)
    zoom, _ = zoom_of(source.images, card)
    read = read_examples(
        source.images, source.labels, source.meaning, sections=sections
    )
    if source.unlabelled_beyond is not None:
        for example in read:
            deep = ndi.distance_transform_edt(example.target != INSIDE)
            example.target[deep > source.unlabelled_beyond] = IGNORE
    return [resampled(example, zoom) for example in read]


def resampled(example: Example, zoom: tuple[float, float]) -> Example:
    """Resample as a run does; membrane is where at least half of a pixel was."""
    if zoom == (1.0, 1.0):
        return example
    image = _resampled(example.image, zoom)
    wall = _resampled((example.target == MEMBRANE).astype(np.float32), zoom)
    unknown = _resampled((example.target == IGNORE).astype(np.float32), zoom)
    target = np.where(wall >= 0.5, MEMBRANE, INSIDE).astype(np.uint8)
    target[unknown > 0] = IGNORE
    return Example(image, target, example.section)


def _resampled(
    values: NDArray[np.float32], zoom: tuple[float, float]
) -> NDArray[np.float32]:
    for index, factor in enumerate(zoom):
        axis = Axis(values.shape[index], factor)
        values = axis.to_network(0, axis.network_size).apply(values, index, 0)
    return values
