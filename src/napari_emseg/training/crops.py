"""What is known of a stack → the pieces of it that training holds in memory."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import Tensor

from napari_emseg.core.card import Card
from napari_emseg.core.intensity import zoom_of
from napari_emseg.core.records import Progress
from napari_emseg.core.regions import Region
from napari_emseg.core.tiles import Axis
from napari_emseg.inference.region import RegionPredictor
from napari_emseg.inference.sections import Section, SectionReader
from napari_emseg.models.zoo import Activation
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.losses import IGNORE, MEMBRANE, Loss, border_weight
from napari_emseg.training.sparse_labels import (
    BLOCK,
    NO_OPINION,
    RUN,
    SparseIds,
    SparseLabels,
)


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A piece of a section in network pixels, all `(y, x)`.

    Parameters
    ----------
    image
        Normalised grey values; `(context, y, x)` where neighbours are seen, too.
    target
        Class numbers, `IGNORE` where nothing is known.
    weight
        What a known pixel counts.
    region
        Where the known pixels lie, on the source's grid.
    through
        Ids of cells in this section, as others know them, `UNKNOWN` where nobody does;
        None where nothing is known of any. `(2, y, x)` with the numbers of their runs,
        where there are several.
    below, above
        The same of the sections that are seen beside it, the nearest first.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    weight: NDArray[np.float32]
    region: Region
    through: NDArray[np.int32] | None = None
    below: tuple[NDArray[np.int32], ...] = ()
    above: tuple[NDArray[np.int32], ...] = ()


@dataclass(frozen=True, slots=True)
class Border:
    """Extra weight of thin walls, inside reviewed regions only; see `border_weight`."""

    w0: float = 0.0
    sigma: float = 5.0


def cut_crops(
    sections: SectionReader,
    opinions: SparseLabels,
    *,
    zoom: tuple[float, float] = (1.0, 1.0),
    margin: int,
    reviewed: Sequence[Region] = (),
    border: Border = Border(),
    stroke_weights: NDArray[np.float32] | None = None,
    reviewed_weights: NDArray[np.float32] | None = None,
    ids: SparseIds | None = None,
    through: Sequence[Region] = (),
) -> Iterator[Crop]:
    """Cut out what is known, with `margin` network pixels around it.

    What lies close together comes in one piece. Blank sections give none, and alignment
    padding is not known.

    Parameters
    ----------
    stroke_weights, reviewed_weights
        What pixels of each class count outside of reviewed regions, and in them,
        `(n_classes,)`; 1 by default.
    ids
        Of cells through the stack; they count where a pixel is known, in it and in the
        sections beside it.
    through
        Whole squares in which they count besides, whatever else is known there.
    """
    shape = opinions.shape[1], opinions.shape[2]
    wide = ceil(margin / min(zoom))
    squares = dict.fromkeys((*opinions.blocks, *(through if ids is not None else ())))
    for region in groups_of(tuple(squares), wide, shape):
        section = sections.open(region.z)
        if section.blank:
            continue
        around = region.grown(wide, shape)
        rows, columns = _network_span(around, zoom, shape)
        y, x = (
            np.clip(_nearest(*span), part.start, part.stop - 1)
            for span, part in zip((rows, columns), around.area, strict=True)
        )
        codes = _known(opinions.window(around), section, around)
        # code 0, unlabelled, wraps to 255, which is
        # `IGNORE`; code k + 1 becomes class k
        pixels = np.ix_(y - around.top, x - around.left)
        target = codes[pixels] - np.uint8(1)
        known = target != IGNORE
        beside: tuple[NDArray[np.int32], Beside, Beside] | tuple[()] = ()
        if ids is not None:
            taught = known | _in_squares(through, section, around)[pixels]
            beside = _cells_beside(ids, section, around, np.ix_(y, x), taught)
        if not known.any() and not beside:
            continue
        image = _resampled(section, rows, columns)
        weight = known.astype(np.float32)
        if stroke_weights is not None:
            weight[known] = stroke_weights[target[known]]
        for part in reviewed:
            _weigh_reviewed(
                weight, target, (y, x), region.z, part, border, reviewed_weights
            )
        yield Crop(image, target, weight, region, *beside)


Beside = tuple[NDArray[np.int32], ...]


def _cells_beside(
    ids: SparseIds,
    section: Section,
    around: Region,
    pixels: tuple[NDArray[np.intp], ...],
    known: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], Beside, Beside] | tuple[()]:
    """Return ids of a section and of those that are seen beside it, as small numbers.

    Parameters
    ----------
    around
        Area of the section.
    pixels
        Rows and columns of the section that are taken of it.
    known
        Of these, what is known of the section; of others nothing is learnt.
    """
    rows, columns = pixels
    here = rows - around.top, columns - around.left

    def window(z: int) -> NDArray[np.int64]:
        return ids.window(replace(around, z=z))[here]

    half = section.context // 2
    sides = [
        [window(s.z) for s in side[:half]] for side in (section.below, section.above)
    ]
    own = np.where(known, window(section.z), ids.UNKNOWN)
    if not (own > 0).any() or not any((w > 0).any() for side in sides for w in side):
        return ()
    found = np.unique(np.stack([own, *sides[0], *sides[1]]))
    # 0 and -1 stay what they are, whether they are among them or not
    found = found[found > 0]
    cells, runs = np.unique(found % RUN), np.unique(found // RUN)

    def small(values: NDArray[np.int64]) -> NDArray[np.int32]:
        place = np.searchsorted(cells, values % RUN) + 1
        ids = np.where(values > 0, place, values).astype(np.int32)
        if len(runs) == 1:
            return ids
        run = np.searchsorted(runs, np.maximum(values, 0) // RUN)
        return np.stack([ids, run.astype(np.int32)])

    below, above = (tuple(map(small, side)) for side in sides)
    return small(own), below, above


def _in_squares(
    squares: Sequence[Region], section: Section, around: Region
) -> NDArray[np.bool_]:
    """Return what of a window `(y, x)` lies in squares, and in no padding."""
    found = np.zeros(around.shape, bool)
    for part in filter(None, map(around.overlap, squares)):
        rows, columns = part.top - around.top, part.left - around.left
        found[rows : rows + part.shape[0], columns : columns + part.shape[1]] = True
    if section.empty is not None:
        found &= ~section.empty(around.area)
    return found


def reader_of(known: TrainingSet, card: Card) -> SectionReader:
    """Return what opens sections of a stack as weights see them."""
    return SectionReader(
        known.stack,
        card.normalisation,
        invert=known.invert,
        remember=True,
        context=card.context,
        excluded=known.excluded,
    )


def _known(
    codes: NDArray[np.uint8], section: Section, region: Region
) -> NDArray[np.uint8]:
    """Return codes without opinions on alignment padding."""
    if section.empty is not None:
        codes[section.empty(region.area)] = 0
    return codes


def groups_of(
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


def _resampled(section: Section, rows: Span, columns: Span) -> NDArray[np.float32]:
    """Return grey values on the network's grid, as a run would read them."""
    down, across = (axis.to_network(a, b) for axis, a, b in (rows, columns))
    values = section.windows(slice(*down.span), slice(*across.span))
    values = down.apply(values, -2, down.span[0])
    values = across.apply(values, -1, across.span[0])
    return values[0] if section.context == 1 else values


def _weigh_reviewed(
    weight: NDArray[np.float32],
    target: NDArray[np.uint8],
    source: tuple[NDArray[np.intp], NDArray[np.intp]],
    z: int,
    reviewed: Region,
    border: Border,
    weights: NDArray[np.float32] | None,
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
        known = part != IGNORE
        if weights is not None:
            extra[known] += weights[part[known]]
        else:
            extra += 1
        weight[rows, columns] = np.where(known, extra, 0)


NEAR, AWAY = 18, 6
"""Squares of each stack that are rehearsed: around corrections, and away from them."""

BESIDE = 4
"""So near to a correction, px, nothing is rehearsed: strokes end somewhere."""

SIDE = 1.5
"""Of such a square, in patches."""


def rehearsal_crops(
    predictor: RegionPredictor,
    known: TrainingSet,
    *,
    side: int,
    sure: float,
    confidence: float = 0.0,
    seed: int = 0,
) -> Generator[Progress, None, list[Crop]]:
    """Predict squares of a stack, and keep what is sure and not corrected.

    Parameters
    ----------
    side
        Of a patch, in network pixels; squares are larger.
    sure
        Share of each class that is kept, the surest of all squares.
    confidence
        Probability that a class must have at least, besides.
    """
    card = predictor.weights.card
    zoom, _ = zoom_of(known.stack, card)
    sections = reader_of(known, card)
    spans = [max(1, round(SIDE * side / times)) for times in zoom]
    opinions = SparseLabels(known.stack.shape)
    # Pseudo-rehearsal (Robins 1995): old data aren't at hand, so what the old weights
    # say of this stack is learnt again beside what is new.
    places = _places(known, (spans[0], spans[1]), seed)
    shown: list[tuple[Region, Shown]] = []
    for done, region in enumerate(places, start=1):
        p = predictor.probabilities(known.stack, region, **known.seen)
        if p is not None:
            shown.append((region, _shown(p, card.threshold)))
        yield Progress("rehearsal", done, len(places))
    found = surest([classes for _, classes in shown], sure, confidence)
    for (region, _), codes in zip(shown, found, strict=True):
        corrected = known.opinions.window(region) > 0
        # a correction says that the weights were wrong there, and likely next to it
        opinions.put(region, np.where(_beside(corrected), NO_OPINION, codes))
    return list(cut_crops(sections, opinions, zoom=zoom, margin=side // 2))


Shown = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""The class of each pixel `(y, x)`, and its probability."""


def _shown(p: NDArray[np.float32], threshold: float) -> Shown:
    """Return what a user is shown: membrane above the threshold, else the likeliest.

    In padding nothing has a probability, and nothing is shown.
    """
    other = p[MEMBRANE + 1 :].argmax(axis=0) + MEMBRANE + 1
    classes = np.where(p[MEMBRANE] > threshold, MEMBRANE, other)
    likely = np.take_along_axis(p, classes[None], axis=0)[0]
    classes = np.where(p.any(axis=0), classes, IGNORE)
    return classes.astype(np.uint8), likely


def surest(
    shown: Sequence[Shown], share: float, confidence: float = 0.0
) -> list[NDArray[np.uint8]]:
    """Return codes of the surest pixels of each class, 0 elsewhere.

    One limit for all classes would keep most of the class that the weights are surer
    of, on tissue that they don't know nearly always inside: every round would teach
    them that there are fewer membranes.

    Parameters
    ----------
    shown
        Of each picture, class and probability.
    share
        Of each class, over all pictures.
    confidence
        What is less probable is not kept in any case.
    """
    least = np.full(IGNORE + 1, confidence)
    for k in {int(k) for classes, _ in shown for k in np.unique(classes)}:
        found = [likely[classes == k] for classes, likely in shown]
        limit = np.quantile(np.concatenate(found), 1 - share)
        least[k] = max(confidence, float(limit))
    return [
        np.where(likely >= least[classes], classes + 1, NO_OPINION).astype(np.uint8)
        for classes, likely in shown
    ]


def _beside(corrected: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grow what is corrected `(y, x)`."""
    near: NDArray[np.bool_] = ndi.maximum_filter(
        corrected, 2 * BESIDE + 1, mode="constant"
    )
    return near


def _places(known: TrainingSet, side: tuple[int, int], seed: int) -> list[Region]:
    """Choose squares around corrections, and away from them over the sections."""
    shape = known.stack.shape[1], known.stack.shape[2]
    corrected = known.usable.blocks
    order = np.random.default_rng((seed, 1)).permutation(len(corrected))
    near = (
        _square(corrected[k].z, *_spot(known.opinions, corrected[k]), side, shape)
        for k in order
    )
    found = _apart(near, known.reviewed, NEAR)
    free = [z for z in range(known.stack.shape[0]) if z not in known.excluded]
    away = _anywhere(free, side, shape, np.random.default_rng(seed))
    # not where somebody reviewed, or said how cells go on: there the truth is known
    taken = (*corrected, *known.reviewed, *known.through, *found)
    return found + _apart(away, taken, AWAY)


def _anywhere(
    sections: Sequence[int],
    side: tuple[int, int],
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> Iterator[Region]:
    """Yield random squares, more than are needed."""
    rows, columns = min(side[0], shape[0]), min(side[1], shape[1])
    for _ in range(4 * AWAY if sections else 0):
        z = sections[int(rng.integers(len(sections)))]
        y = int(rng.integers(shape[0] - rows + 1))
        x = int(rng.integers(shape[1] - columns + 1))
        yield Region(z, y, x, y + rows, x + columns)


def _spot(opinions: SparseLabels, block: Region) -> tuple[int, int]:
    """Return a corrected pixel of a square, the one in the middle of its list."""
    places = np.argwhere(opinions.window(block))
    y, x = places[len(places) // 2]
    return block.top + int(y), block.left + int(x)


def _square(
    z: int, y: int, x: int, side: tuple[int, int], shape: tuple[int, int]
) -> Region:
    """Return a square around a place, moved into the section."""
    rows, columns = min(side[0], shape[0]), min(side[1], shape[1])
    top = min(max(0, y - rows // 2), shape[0] - rows)
    left = min(max(0, x - columns // 2), shape[1] - columns)
    return Region(z, top, left, top + rows, left + columns)


def _apart(
    regions: Iterable[Region], taken: Sequence[Region], most: int
) -> list[Region]:
    """Take the first that meet neither each other nor what is taken."""
    found: list[Region] = []
    for region in regions:
        crowded = any(region.overlap(other) for other in (*taken, *found))
        if not crowded and len(found) < most:
            found.append(region)
    return found


class RehearsingLoss:
    """A loss of which a share is taken of rehearsed patches, on their classes only.

    What the weights never knew is not in their output, so a new class learns nothing
    from the rehearsal, not even that it isn't there.

    Parameters
    ----------
    rehearsed
        Number of patches at the end of a batch that are rehearsal.
    n_old
        Number of classes that the weights had.
    share
        Of the rehearsal, in [0, 1).
    """

    def __init__(self, loss: Loss, rehearsed: int, n_old: int, share: float) -> None:
        self._loss = loss
        self._rehearsed = rehearsed
        self._n_old = n_old
        self._share = share

    def __call__(
        self, logits: Tensor, target: Tensor, weight: Tensor, activation: Activation
    ) -> Tensor:
        """Return the loss of a batch."""
        n = len(logits) - self._rehearsed
        new = self._loss(logits[:n], target[:n], weight[:n], activation)
        if self._rehearsed == 0:
            return new
        # soft-max over the old classes only: what it says of new ones isn't in the loss
        old = self._loss(
            logits[n:, : self._n_old].contiguous(), target[n:], weight[n:], activation
        )
        return torch.lerp(new, old, self._share)
