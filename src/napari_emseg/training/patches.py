"""Examples and corrections → patches: what a step of training sees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_emseg.core.card import Offset
from napari_emseg.core.tiles import Geometry
from napari_emseg.core.training import FinetuneSettings, TrainSettings
from napari_emseg.inference.sections import stand_in
from napari_emseg.training.affinities import (
    UNKNOWN,
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
from napari_emseg.training.dataset import Example
from napari_emseg.training.losses import (
    IGNORE,
    INSIDE,
    border_weight,
    class_weights,
)
from napari_emseg.training.sparse_labels import BLOCK, RUN

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
    `through` are ids as the sections beside it have them, where `ids` are its own; they
    are `(2, y, x)`, with numbers of runs, where several gave them.
    """

    image: Tensor
    labels: Tensor
    context: int = 1
    ids: Tensor | None = None
    below: Side = ()
    above: Side = ()
    through: Tensor | None = None


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
        ids = _sampled_ids(piece.ids, where)
    # nothing is learnt of what can't be seen
    hidden = drawn.on_target(torch.zeros_like(target)) == IGNORE
    ids[hidden] = UNKNOWN
    through = None
    if piece.through is not None:
        through = _sampled_ids(piece.through, where)
        through[hidden] = UNKNOWN
    together = affinity_targets(ids, near, affinities, through)
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
    return _sampled_ids(ids, moved)


def _sampled_ids(ids: Tensor, where: Tensor) -> Tensor:
    """Read ids `(1, y, x)`, or `(2, y, x)` with their runs; see `RUN`."""
    found = sample(ids, where, "nearest").round().long()
    run = found[1] if len(found) > 1 else torch.zeros_like(found[0])
    return torch.where(found[0] > 0, found[0] + RUN * run, found[0])


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
    affinities
        Of the network. Corrections say of them what hangs together in a section, and,
        where cells are known through the stack, how these go on.
    opinion
        What the weights say of affinities `(n, offsets, y, x)` in windows: probable
        ones are rehearsed.

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
        affinities: Sequence[Offset] = (),
        opinion: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not crops:
            msg = "nothing is corrected yet; there is nothing to learn from"
            raise ValueError(msg)
        self._settings = settings
        self._reach = JITTER * (settings.patch - 2 * trim)
        self._affinities, self._opinion = affinities, opinion
        self._new, self._old = (
            ([_piece(c, device, ids=bool(affinities)) for c in part], _anchors(part))
            for part in (crops, rehearsal)
        )
        self.rehearsed = rehearsed(settings) if self._old[1] else 0

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, target and weight, see `Patches`."""
        rng = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + step)
        n_new = max(1, self._settings.batch - self.rehearsed)
        kinds = [self._new] * n_new + [self._old] * self.rehearsed
        image, target, weight = stacked([self._patch(*kind, rng) for kind in kinds])
        if self._affinities and self._opinion is not None and self.rehearsed:
            old = slice(n_new, None)
            target[old, 1:] = _probable(self._opinion(image[old]), target[old, 1:])
        return image, target, weight

    def _patch(
        self, crops: list[Piece], anchors: list[Anchor], rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        which, places = anchors[int(torch.randint(len(anchors), (), generator=rng))]
        anchor = places[int(torch.randint(len(places), (), generator=rng))]
        jitter = (torch.rand(2, generator=rng) * 2 - 1) * self._reach
        y, x = (float(a) + float(j) for a, j in zip(anchor, jitter, strict=True))
        image, target, weight = draw_patch(
            crops[which], (y, x), self._settings, rng, self._affinities
        )
        classes = target[0] if self._affinities else target
        return image, target, weight * _loudness(classes)


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


SURE = 0.8
"""An affinity so probable, or one as improbable, is rehearsed."""


def _probable(p: Tensor, like: Tensor) -> Tensor:
    """Return what is probable as targets, in the middle of patches that are larger."""
    found = torch.full_like(like, IGNORE)
    y, x = ((a - b) // 2 for a, b in zip(like.shape[-2:], p.shape[-2:], strict=True))
    inner = found[..., y : y + p.shape[-2], x : x + p.shape[-1]]
    inner[p > SURE] = 1
    inner[p < 1 - SURE] = 0
    return found


def _piece(crop: Crop, device: torch.device, *, ids: bool) -> Piece:
    labels = np.stack([crop.target.astype(np.float32), crop.weight])
    seen = crop.image.reshape(-1, *crop.image.shape[-2:])
    half = len(seen) // 2
    planes = torch.from_numpy(np.ascontiguousarray(seen[:, None])).to(device)

    def plane(values: NDArray[Any]) -> Tensor:
        planes = values.astype(np.float32).reshape(-1, *values.shape[-2:])
        return torch.from_numpy(planes).to(device)

    def side(cells: Sequence[NDArray[np.int32]], step: int) -> Side:
        """Put sections on one side, the nearest first, with cells where known."""
        return tuple(
            (planes[half + k * step], plane(cells[k - 1]) if k <= len(cells) else None)
            for k in range(1, half + 1)
        )

    cells = plane(connected_cells(crop.target)) if ids else None
    return Piece(
        planes[half],
        torch.from_numpy(labels).to(device),
        len(seen),
        cells,
        side(crop.below, -1),
        side(crop.above, 1),
        None if crop.through is None or not ids else plane(crop.through),
    )


def _anchors(crops: Sequence[Crop]) -> list[Anchor]:
    """List the squares of all crops; those of a rare class once more, around it."""
    found: list[Anchor] = []
    for number, crop in enumerate(crops):
        known = crop.target != IGNORE
        if crop.through is not None:
            # without the numbers of runs
            known |= crop.through.reshape(-1, *known.shape)[0] != UNKNOWN
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
