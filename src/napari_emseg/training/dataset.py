"""Images and labels → patches: what a step of training sees."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_emseg.core.intensity import normalise, padding, section_range, stack_range
from napari_emseg.core.labels import (
    Meaning,
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
from napari_emseg.training.augment import draw_augmentation, sample
from napari_emseg.training.crops import Crop
from napari_emseg.training.losses import (
    IGNORE,
    INSIDE,
    MEMBRANE,
    border_weight,
    class_weights,
)
from napari_emseg.training.sparse_labels import BLOCK


@dataclass(frozen=True, slots=True)
class Example:
    """One section: normalised grey values and uint8 class numbers, both `(y, x)`.

    `section` is its number in the stack that it was read from, if it was.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    section: int | None = None


def read_examples(
    images: Stack,
    labels: Stack,
    meaning: Meaning,
    *,
    sections: Iterable[int] | None = None,
    rule: Normalisation | None = None,
    invert: bool = False,
) -> list[Example]:
    """Read pairs of sections.

    Alignment padding and pixels without a label are ignored; blank sections, and those
    in which nothing is labelled, are left out.

    Raises
    ------
    ValueError
        If images and labels don't match, or no section has anything to learn from.
    """
    check_shapes(images, labels)
    rule = rule or Normalisation()
    whole = stack_range(images, rule) if rule.scope == "stack" else None
    examples = []
    for z in range(images.shape[0]) if sections is None else sections:
        section = images.section(z)
        mask = padding(section)
        grey = whole or section_range(section, rule, mask)
        if grey.blank:
            continue
        target = target_of(labels.section(z), meaning)
        if mask is not None:
            target[mask] = IGNORE
        if (target == IGNORE).all():
            continue
        examples.append(Example(normalise(section, grey, invert=invert), target, z))
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
    return examples


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


class Patches(Protocol):
    """What a trainer learns from."""

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return image `(n, 1, y, x)`, target `(n, y, x)` and weight `(n, y, x)`.

        The same for the same step.
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
    """

    def __init__(
        self,
        examples: Sequence[Example],
        settings: TrainSettings,
        *,
        n_classes: int,
        device: torch.device,
        trim: int = 0,
    ) -> None:
        self._settings = settings
        self._trim = trim
        balance = np.ones(n_classes, np.float32)
        if settings.balance:
            balance = class_weights([e.target for e in examples], n_classes)
        # image, target and weight as channels of one array, so
        # that one warp moves all of them
        self._sections = [
            torch.from_numpy(_channels(e, balance, settings)).to(device)
            for e in examples
        ]

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return image `(n, 1, y, x)`, target `(n, y, x)` and weight `(n, y, x)`."""
        # by step, not drawn on: a run that is resumed sees the
        # patches that it would have seen
        rng = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + step)
        patches = [self.patch(rng) for _ in range(self._settings.batch)]
        image, target, weight = zip(*patches, strict=True)
        return torch.stack(image)[:, None], torch.stack(target), torch.stack(weight)

    def patch(self, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw image, target and weight, each `(y, x)`."""
        which = int(torch.randint(len(self._sections), (), generator=rng))
        section = self._sections[which]
        # what the network gives of a patch; only that must lie in the section
        seen = self._settings.patch - 2 * self._trim
        y, x = (
            # the middle of a patch whose output lies in the section; of a smaller
            # section the rest is mirrored
            (seen - 1) / 2 + int(torch.randint(max(1, n - seen + 1), (), generator=rng))
            for n in section.shape[1:]
        )
        return draw_patch(section, (y, x), self._settings, rng)


def draw_patch(
    section: Tensor,
    centre: tuple[float, float],
    settings: TrainSettings,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut an augmented patch around `centre` `(y, x)` out of `(3, y, x)`.

    Returns image, target and weight, each `(side, side)`.
    """
    drawn = draw_augmentation(settings.augment, settings.patch, rng)
    where = drawn.positions(centre).to(section.device)
    # the same positions for all three; class numbers can't be interpolated
    image = sample(section[:1], where, "bicubic")[0]
    target, weight = sample(section[1:], where, "nearest")
    image, target = drawn.on_image(image), drawn.on_target(target.round().long())
    return image, target, weight


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


def _channels(
    example: Example, balance: NDArray[np.float32], settings: TrainSettings
) -> NDArray[np.float32]:
    """Image, target and weight as one `(3, y, x)` array."""
    weight = border_weight(
        example.target, w0=settings.border_weight, sigma=settings.border_sigma
    )
    known = example.target != IGNORE
    # equation 2 of Ronneberger et al. 2015: class balance plus border term
    weight[known] += balance[example.target[known]]
    return np.stack([example.image, example.target.astype(np.float32), weight])


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
            ([_image_channels(c).to(device) for c in part], _anchors(part))
            for part in (crops, rehearsal)
        )
        self.rehearsed = rehearsed(settings) if self._old[1] else 0

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return image `(n, 1, y, x)`, target `(n, y, x)` and weight `(n, y, x)`."""
        rng = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + step)
        n_new = max(1, self._settings.batch - self.rehearsed)
        kinds = [self._new] * n_new + [self._old] * self.rehearsed
        patches = [self._patch(*kind, rng) for kind in kinds]
        image, target, weight = zip(*patches, strict=True)
        return torch.stack(image)[:, None], torch.stack(target), torch.stack(weight)

    def _patch(
        self, crops: list[Tensor], anchors: list[Anchor], rng: torch.Generator
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


def _image_channels(crop: Crop) -> Tensor:
    """Image, target and weight as one `(3, y, x)` tensor."""
    parts = (crop.image, crop.target.astype(np.float32), crop.weight)
    return torch.from_numpy(np.stack(parts))


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
