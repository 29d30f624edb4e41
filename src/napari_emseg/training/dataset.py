"""Images and labels → patches: what a step of training sees."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_emseg.core.card import Offset
from napari_emseg.core.intensity import normalise, padding, section_range, stack_range
from napari_emseg.core.labels import (
    Meaning,
    as_labels,
    format_sections,
    inside_mask,
    is_drawn,
    only_class,
    unlabelled,
)
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.core.training import FinetuneSettings, TrainSettings
from napari_emseg.inference.sections import Section, SectionReader, stand_in
from napari_emseg.training.affinities import (
    UNKNOWN,
    Numbering,
    affinity_targets,
    connected_cells,
)
from napari_emseg.training.augment import (
    Augmentation,
    NeighbourChanges,
    draw_augmentation,
    draw_neighbour_changes,
    sample,
)
from napari_emseg.training.crops import Crop
from napari_emseg.training.losses import (
    IGNORE,
    INSIDE,
    MEMBRANE,
    border_weight,
    class_weights,
)
from napari_emseg.training.sparse_labels import BLOCK


@dataclass(frozen=True, slots=True, eq=False)
class Neighbour:
    """A section beside another one: grey values, and ids if they may be learnt from."""

    image: NDArray[np.float32]
    ids: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One section: normalised grey values and uint8 class numbers, both `(y, x)`.

    Parameters
    ----------
    section
        Its number in the stack that it was read from, if it was.
    context
        Sections that a network sees.
    ids
        Of its cells, see `training.affinities`; None if nobody asks for them.
    below, above
        Sections beside it, the nearest first, some more than are seen. Arrays are
        shared between examples.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    section: int | None = None
    context: int = 1
    ids: NDArray[np.int32] | None = None
    below: tuple[Neighbour, ...] = ()
    above: tuple[Neighbour, ...] = ()

    @property
    def seen(self) -> NDArray[np.float32]:
        """What a network sees, `(context, y, x)`."""
        half = self.context // 2
        below, above = (
            stand_in([near.image for near in side], self.image, half)
            for side in (self.below, self.above)
        )
        return np.stack([*below[::-1], self.image, *above])


def read_examples(
    images: Stack,
    labels: Stack,
    meaning: Meaning,
    *,
    sections: Iterable[int] | None = None,
    rule: Normalisation | None = None,
    invert: bool = False,
    context: int = 1,
    affinities: Sequence[Offset] = (),
) -> list[Example]:
    """Read pairs of sections.

    Alignment padding and pixels without a label are ignored; blank sections, and those
    in which nothing is labelled, are left out.

    Parameters
    ----------
    context
        Sections that a network sees: neighbours are read with each, whichever are
        asked for. Labels are read of these only.
    affinities
        What ids are needed for.

    Raises
    ------
    ValueError
        If images and labels don't match, or no section has anything to learn from.
    """
    check_shapes(images, labels)
    rule = rule or Normalisation()
    whole = stack_range(images, rule) if rule.scope == "stack" else None
    examples, number = [], Numbering()
    for z in range(images.shape[0]) if sections is None else sections:
        section = images.section(z)
        mask = padding(section)
        grey = whole or section_range(section, rule, mask)
        if grey.blank:
            continue
        drawn = labels.section(z)
        target = target_of(drawn, meaning)
        if mask is not None:
            target[mask] = IGNORE
        if (target == IGNORE).all():
            continue
        ids = None
        if affinities and meaning == "cells":
            ids = number(as_labels(drawn, meaning))
            ids[target == IGNORE] = UNKNOWN
        elif affinities:
            ids = connected_cells(target)
        image = normalise(section, grey, invert=invert)
        examples.append(Example(image, target, z, ids=ids))
    if not examples:
        msg = (
            f"{images.name}: all sections are blank or without labels; there is "
            "nothing to learn from"
        )
        raise ValueError(msg)
    if not any((e.target == MEMBRANE).any() for e in examples):
        msg = (
            f"{labels.name}: no membrane in the labels when they are read as "
            f"{meaning!r}; say what they are"
        )
        raise ValueError(msg)
    farthest = max([context // 2, *(abs(z) for z, _, _ in affinities)])
    if farthest == 0:
        return examples
    # one more than is seen, for one that is missing in training
    reader = SectionReader(images, rule, invert=invert, context=2 * (farthest + 1) + 1)
    through = meaning == "cells"
    return _with_neighbours(examples, reader, context, through=through)


def _with_neighbours(
    examples: Sequence[Example], reader: SectionReader, context: int, *, through: bool
) -> list[Example]:
    """Put sections beside examples, those that a run would see.

    Parameters
    ----------
    through
        Whether ids of one section say something of another.
    """
    known = {e.section: e for e in examples if e.section is not None}
    images = {z: e.image for z, e in known.items()}

    def side(own: Example, sections: Sequence[Section]) -> tuple[Neighbour, ...]:
        found: list[Neighbour] = []
        for section in sections:
            z = section.z
            if z not in images:
                images[z] = section.window(slice(None), slice(None))
            image = images[z]
            if section.empty is not None:
                inner = found[-1].image if found else own.image
                gone = section.empty((slice(None), slice(None)))
                image = np.where(gone, inner, image)
            ids = known[z].ids if through and z in known else None
            found.append(Neighbour(image, ids))
        return tuple(found)

    result = []
    for z, own in known.items():
        section = reader.open(z)
        below, above = (side(own, part) for part in (section.below, section.above))
        result.append(replace(own, context=context, below=below, above=above))
    return result


def target_of(labels: NDArray[Any], meaning: Meaning) -> NDArray[np.uint8]:
    """Return class numbers `(y, x)` of a section, `IGNORE` where nothing is known.

    In a section in which nothing is drawn that is everywhere: an empty section says
    that nobody labelled it, not that it is all membrane, or all inside.
    """
    inside = inside_mask(labels, meaning)
    # `inside_mask` alone would take an empty section for all membrane, or all inside
    if not is_drawn(labels, meaning):
        return np.full(labels.shape, IGNORE, np.uint8)
    target = np.where(inside, INSIDE, MEMBRANE).astype(np.uint8)
    unknown = unlabelled(labels, meaning)
    if unknown is not None:
        target[unknown] = IGNORE
    return target


def labelled_sections(
    labels: Stack, meaning: Meaning, sections: Iterable[int] | None = None
) -> tuple[int, ...]:
    """Return the sections in which anything is drawn, of some or all.

    Those that are one class from edge to edge are not among them: a section that nobody
    drew is filled with one value, which isn't 0 in all programs.

    Raises
    ------
    ValueError
        If nothing is drawn in any of them; what the labels hold is said.
    """
    wanted = list(range(labels.shape[0]) if sections is None else sections)
    classes = {z: only_class(labels.section(z), meaning) for z in wanted}
    found = tuple(z for z in wanted if classes[z] == "")
    if wanted and not found:
        full = sorted({name for name in classes.values() if name})
        what = "nothing is labelled"
        why = "no value above 0"
        if full:
            what, why = (
                f"nothing but {' or '.join(full)}",
                "no boundary between classes",
            )
        msg = (
            f"{labels.name}: {what} in {format_sections(wanted)}: {why} when they are "
            f"read as {meaning!r}; say what they are"
        )
        raise ValueError(msg)
    return found


def check_shapes(images: Stack, labels: Stack) -> None:
    """Check that labels have the shape of the images.

    Raises
    ------
    ValueError
        If they don't.
    """
    if images.shape != labels.shape:
        msg = f"images are {images.shape} (z, y, x), but labels are {labels.shape}"
        raise ValueError(msg)


Patch = tuple[Tensor, Tensor, Tensor]
"""Image `(context, y, x)`; target `(y, x)`, with affinities `(1 + n, y, x)`; weight."""


class Patches(Protocol):
    """What a trainer learns from."""

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return image `(n, context, y, x)`, target and weight, both `(n, y, x)`.

        The same for the same step. Where affinities are learnt, targets are
        `(n, 1 + affinities, y, x)`.
        """


class PatchSource:
    """Draws augmented patches; the same seed and step give the same patches.

    Everything stays on `device`: per section the grey values, the classes and the
    weight map, which is warped with them.

    Parameters
    ----------
    n_classes
        Of the network; more than the labels have is no harm.
    trim
        Pixels that the network's output is shorter than a patch, on each side. Patches
        reach that far beyond the section, so that its border is learnt from too.
    affinities
        That are learnt besides.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        settings: TrainSettings,
        *,
        n_classes: int,
        device: torch.device,
        trim: int = 0,
        affinities: Sequence[Offset] = (),
    ) -> None:
        self._settings = settings
        self._trim = trim
        self._affinities = affinities
        balance = np.ones(n_classes, np.float32)
        if settings.balance:
            balance = class_weights([e.target for e in examples], n_classes)
        shared = _Shared(device)
        self._pieces = [
            shared.piece(e, _weights(e, balance, settings)) for e in examples
        ]

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, target and weight, see `Patches`."""
        # by step, not drawn on: a run that is resumed sees the
        # patches that it would have seen
        rng = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + step)
        return stacked([self.patch(rng) for _ in range(self._settings.batch)])

    def patch(self, rng: torch.Generator) -> Patch:
        """Draw image, target and weight of one patch."""
        which = int(torch.randint(len(self._pieces), (), generator=rng))
        piece = self._pieces[which]
        # what the network gives of a patch; only that must lie in the section
        seen = self._settings.patch - 2 * self._trim
        y, x = (
            # the middle of a patch whose output lies in the section; of a smaller
            # section the rest is mirrored
            (seen - 1) / 2 + int(torch.randint(max(1, n - seen + 1), (), generator=rng))
            for n in piece.image.shape[1:]
        )
        return draw_patch(piece, (y, x), self._settings, rng, self._affinities)


def stacked(patches: Sequence[Patch]) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch, see `Patches`."""
    image, target, weight = zip(*patches, strict=True)
    return torch.stack(image), torch.stack(target), torch.stack(weight)


Side = tuple[tuple[Tensor, Tensor | None], ...]
"""Image and ids `(1, y, x)` of sections on one side, the nearest first."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What patches are cut from: an example on a device.

    `image` is `(1, y, x)`, `labels` target and weight `(2, y, x)`, `ids` `(1, y, x)`.
    """

    image: Tensor
    labels: Tensor
    context: int = 1
    ids: Tensor | None = None
    below: Side = ()
    above: Side = ()


class _Shared:
    """Puts examples on a device; what several of them share is there once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # by identity, with the array itself, so that it isn't another one's later
        self._known: dict[int, tuple[object, Tensor]] = {}

    def piece(self, example: Example, weight: NDArray[np.float32]) -> Piece:
        """Return what patches are cut from."""
        labels = np.stack([example.target.astype(np.float32), weight])
        below, above = (
            tuple((self._tensor(near.image), self._ids(near.ids)) for near in side)
            for side in (example.below, example.above)
        )
        return Piece(
            self._tensor(example.image),
            torch.from_numpy(labels).to(self._device),
            example.context,
            self._ids(example.ids),
            below,
            above,
        )

    def _ids(self, ids: NDArray[np.int32] | None) -> Tensor | None:
        return None if ids is None else self._tensor(ids)

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        if id(values) not in self._known:
            # ids as floats, too, since that is what can be sampled
            plain = np.ascontiguousarray(values, np.float32)[None]
            tensor = torch.from_numpy(plain).to(self._device)
            self._known[id(values)] = values, tensor
        return self._known[id(values)][1]


def draw_patch(
    piece: Piece,
    centre: tuple[float, float],
    settings: TrainSettings,
    rng: torch.Generator,
    affinities: Sequence[Offset] = (),
) -> Patch:
    """Cut an augmented patch around `centre` `(y, x)` out of a piece."""
    drawn = draw_augmentation(settings.augment, settings.patch, rng)
    where = drawn.positions(centre).to(piece.image.device)
    # the same positions for all; class numbers can't be interpolated
    image = sample(piece.image, where, "bicubic")[0]
    target, weight = sample(piece.labels, where, "nearest")
    image, target = drawn.on_image(image), drawn.on_target(target.round().long())
    if piece.context == 1 and not affinities:
        return image[None], target, weight
    half, sides = piece.context // 2, (piece.below, piece.above)
    changes = [
        draw_neighbour_changes(settings.augment, len(s), half or 1, settings.patch, rng)
        for s in sides
    ]
    below, above = (
        stand_in(_neighbours(side, change, drawn, where, half), image, half)
        for side, change in zip(sides, changes, strict=True)
    )
    seen = torch.stack([*below[::-1], image, *above])
    if not affinities:
        return seen, target, weight

    def near(z: int) -> Tensor | None:
        return _ids_at(sides[z > 0], changes[z > 0], abs(z) - 1, where)

    ids = torch.full_like(target, UNKNOWN)
    if piece.ids is not None:
        ids = sample(piece.ids, where, "nearest")[0].round().long()
    # nothing is learnt of what can't be seen
    ids[drawn.on_target(torch.zeros_like(target)) == IGNORE] = UNKNOWN
    together = affinity_targets(ids, near, affinities)
    return seen, torch.cat([target[None], together]), weight


def _neighbours(
    side: Side, changes: NeighbourChanges, drawn: Augmentation, where: Tensor, half: int
) -> list[Tensor]:
    """Return the sections of one side that are seen, the nearest first."""
    found = []
    for nth in changes.kept[:half]:
        moved = where + changes.shift[nth].to(where)
        image = sample(side[nth][0], moved, "bicubic")[0]
        found.append(changes.on_image(nth, image, drawn.grey))
    return found


def _ids_at(
    side: Side, changes: NeighbourChanges, place: int, where: Tensor
) -> Tensor | None:
    """Return ids of the section that is in a place beside the patch, if known."""
    if place >= len(changes.kept):
        return None
    nth = changes.kept[place]
    ids = side[nth][1]
    if ids is None:
        return None
    moved = where + changes.shift[nth].to(where)
    return sample(ids, moved, "nearest")[0].round().long()


def check_patch(geometry: Geometry, side: int) -> None:
    """Check that a network takes patches of this size without losing its grid.

    Raises
    ------
    ValueError
        With the nearest sizes that it takes.
    """
    stride, least = geometry.stride, max(geometry.stride, geometry.smallest)
    if geometry.padding == "valid":
        # the smallest output is `remainder`, or a whole stride if that is 0
        least = 2 * geometry.context + geometry.remainder
        least += 0 if geometry.remainder else stride
    if side < least or (side - least) % stride:
        below = least + max(0, side - least) // stride * stride
        msg = (
            f"patch must be {least} px or a multiple of {stride} px more for this "
            f"network, got {side}; the nearest are {below} and {below + stride}"
        )
        raise ValueError(msg)


def _weights(
    example: Example, balance: NDArray[np.float32], settings: TrainSettings
) -> NDArray[np.float32]:
    """Return what each pixel `(y, x)` counts."""
    weight = border_weight(
        example.target, w0=settings.border_weight, sigma=settings.border_sigma
    )
    known = example.target != IGNORE
    # equation 2 of Ronneberger et al. 2015: class balance plus border term
    weight[known] += balance[example.target[known]]
    return weight


JITTER = 0.2
"""A known pixel lies at most so far from the middle of what is seen of a patch."""

Anchor = tuple[int, NDArray[np.int32]]
"""A crop's number, and the places `(n, 2)` of the known pixels of one of its squares.

Squares are drawn alike, so a short stroke is seen as often as a square of a reviewed
region.
"""


class CorrectionPatches:
    """Draws augmented patches where there is something to learn.

    The last `rehearsed` patches of each batch are of the rehearsal. The same seed and
    step give the same patches.

    Parameters
    ----------
    crops
        What was corrected.
    rehearsal
        What the weights knew; may be empty.
    trim
        Pixels that the network's output is shorter than a patch, on each side.

    Raises
    ------
    ValueError
        If nothing is known.
    """

    def __init__(
        self,
        crops: Sequence[Crop],
        settings: FinetuneSettings,
        *,
        device: torch.device,
        rehearsal: Sequence[Crop] = (),
        trim: int = 0,
    ) -> None:
        if not crops:
            msg = "nothing is corrected yet; there is nothing to learn from"
            raise ValueError(msg)
        self._settings = settings
        self._reach = JITTER * (settings.patch - 2 * trim)
        self._new, self._old = (
            ([_piece(c, device) for c in part], _anchors(part))
            for part in (crops, rehearsal)
        )
        self.rehearsed = rehearsed(settings) if self._old[1] else 0

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, target and weight, see `Patches`."""
        rng = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + step)
        n_new = max(1, self._settings.batch - self.rehearsed)
        kinds = [self._new] * n_new + [self._old] * self.rehearsed
        return stacked([self._patch(*kind, rng) for kind in kinds])

    def _patch(
        self, crops: list[Piece], anchors: list[Anchor], rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        which, places = anchors[int(torch.randint(len(anchors), (), generator=rng))]
        anchor = places[int(torch.randint(len(places), (), generator=rng))]
        jitter = (torch.rand(2, generator=rng) * 2 - 1) * self._reach
        y, x = (float(a) + float(j) for a, j in zip(anchor, jitter, strict=True))
        image, target, weight = draw_patch(crops[which], (y, x), self._settings, rng)
        return image, target, weight * _loudness(target)


def rehearsed(settings: FinetuneSettings) -> int:
    """Return how many patches of a batch are rehearsal; one is always new."""
    if settings.rehearsal == 0 or settings.batch == 1:
        return 0
    return min(settings.batch - 1, max(1, round(settings.rehearsal * settings.batch)))


def _loudness(target: Tensor) -> float:
    """Let the pixels of a short stroke count more than those of a full patch.

    Else a batch with one reviewed patch would drown all strokes in it.
    """
    known = float((target != IGNORE).float().mean())
    # halfway, on a log scale, between pixels that count alike (1)
    # and patches that do (1 / known)
    return known**-0.5 if known else 0.0


def _piece(crop: Crop, device: torch.device) -> Piece:
    labels = np.stack([crop.target.astype(np.float32), crop.weight])
    return Piece(
        torch.from_numpy(crop.image[None]).to(device),
        torch.from_numpy(labels).to(device),
    )


def _anchors(crops: Sequence[Crop]) -> list[Anchor]:
    """List the squares of all crops; those of a rare class once more, around it."""
    found: list[Anchor] = []
    for number, crop in enumerate(crops):
        known = crop.target != IGNORE
        # classes beyond membrane and inside are rare: their squares are listed twice
        for pixels in (known, known & (crop.target > INSIDE)):
            found += [(number, places) for places in _by_square(pixels)]
    return found


def _by_square(pixels: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Return the places `(n, 2)` of true pixels `(y, x)`, square by square."""
    places = np.argwhere(pixels).astype(np.int32)
    if not len(places):
        return []
    row, column = (places // BLOCK).T
    # sorted by square, so that `split` cuts the list where one square ends
    square = row * (pixels.shape[1] // BLOCK + 1) + column
    order = np.argsort(square, kind="stable")
    edges = np.flatnonzero(np.diff(square[order])) + 1
    return np.split(places[order], edges)
