"""Random changes of training patches: parameters are drawn first, then applied.

Geometry is one warp of image, target and weight alike; grey values change afterwards.
All of it runs on the device of the image, in torch. What is drawn is an `Augmentation`,
which does the same to any picture, as often as it is applied (as transforms of torchio
are replayed).
"""

from dataclasses import dataclass, replace
from math import pi
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_emseg.core.training import AugmentSettings
from napari_emseg.training.losses import IGNORE


@dataclass(frozen=True, slots=True)
class Warp:
    """Where each pixel of a patch comes from.

    `matrix` (2, 2) turns, flips and scales; `shift` (2, g, g) are displacements (y, x)
    in px on a coarse grid; `exact` says that pixels fall on pixels.
    """

    matrix: Tensor
    shift: Tensor
    exact: bool


def draw_warp(settings: AugmentSettings, rng: torch.Generator) -> Warp:
    """Draw a warp: quarter turns and flips only, or any angle with deformation."""
    turn = int(torch.randint(4, (), generator=rng))
    flip = bool(torch.rand((), generator=rng) < 0.5)
    grid = (2, settings.elastic_grid, settings.elastic_grid)
    exact = bool(torch.rand((), generator=rng) >= settings.warp)
    angle, scale, shift = turn * pi / 2, 1.0, torch.zeros(grid)
    if not exact:
        angle += float(torch.rand((), generator=rng) - 0.5) * pi / 2
        octaves = 2 * settings.scale
        scale = 2.0 ** float((torch.rand((), generator=rng) - 0.5) * octaves)
        # Elastic deformation (Simard et al. 2003) in the form of
        # Ronneberger et al. 2015, 3.1: random displacements on a coarse
        # grid instead of smoothed ones of every pixel.
        shift = torch.randn(grid, generator=rng) * settings.elastic_sigma
    a = torch.tensor(angle)
    matrix = torch.stack([torch.cos(a), -torch.sin(a), torch.sin(a), torch.cos(a)])
    matrix = matrix.view(2, 2) * scale
    if flip:
        matrix = matrix * torch.tensor([1.0, -1.0])
    # cosines of quarter turns are 0 and ±1 but for
    # rounding, which would blur the sampling
    return Warp(matrix.round() if exact else matrix, shift, exact)


def positions(warp: Warp, centre: tuple[float, float], side: int) -> Tensor:
    """Return where the pixels of a patch lie, `(side, side, 2)` as (y, x) in px.

    The displacements are made smooth by bicubic interpolation (Ronneberger 2015, 3.1).
    """
    # around the patch's middle, so that turning and flipping keep it where it is
    line = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    where = torch.stack([y, x], dim=-1) @ warp.matrix.T
    if not warp.exact:
        smooth = F.interpolate(
            warp.shift[None], (side, side), mode="bicubic", align_corners=True
        )
        where = where + smooth[0].permute(1, 2, 0)
    return where + torch.tensor(centre)


def sample(picture: Tensor, where: Tensor, mode: str) -> Tensor:
    """Read `picture` `(c, y, x)` at `where` `(h, w, 2)`, mirrored at the border."""
    y, x = picture.shape[1:]
    last = torch.tensor([max(x - 1, 1), max(y - 1, 1)], device=where.device)
    # `grid_sample` wants (x, y) from -1 to 1, which with align_corners are the middles
    # of the first and the last pixel
    grid = where.flip(-1) * 2 / last - 1
    return F.grid_sample(
        picture[None],
        grid[None].to(picture),
        mode=mode,
        padding_mode="reflection",
        align_corners=True,
    )[0]


@dataclass(frozen=True, slots=True, eq=False)
class GreyChange:
    """Contrast, brightness and gamma of a patch, its noise `(y, x)`, and inversion."""

    gain: float
    offset: float
    gamma: float
    noise: Tensor
    inverted: bool

    def apply(self, image: Tensor) -> Tensor:
        """Return the changed image `(y, x)`."""
        # normalised grey values go a little below 0, where powers
        # aren't defined: left as they are
        image = image.clamp(min=0) ** self.gamma + image.clamp(max=0)
        image = (image - 0.5) * self.gain + 0.5 + self.offset
        image = image + self.noise.to(image)
        return 1 - image if self.inverted else image


def draw_grey_change(
    settings: AugmentSettings, side: int, rng: torch.Generator
) -> GreyChange:
    """Draw how the grey values of a patch `(side, side)` change."""
    c = settings.contrast
    gain, offset, gamma = (torch.rand(3, generator=rng) * 2 - 1).tolist()
    strength = _uniform(rng) * settings.noise
    noise = strength * torch.randn((side, side), generator=rng)
    # drawn only if it is asked for, so that seeds of before give the same patches
    inverted = settings.invert > 0 and _happens(settings.invert, rng)
    return GreyChange(1 + c * gain, c / 2 * offset, 1 + c * gamma, noise, inverted)


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line through a patch: the angle of its normal, and a point, px."""

    angle: float
    y: float
    x: float

    def distance(self, image: Tensor) -> Tensor:
        """Return the signed distance of each pixel of `(y, x)` to it, px."""
        angle = torch.tensor(self.angle)
        y = torch.arange(image.shape[0])[:, None] - self.y
        x = torch.arange(image.shape[1])[None] - self.x
        distance: Tensor = y * torch.cos(angle) + x * torch.sin(angle)
        return distance.to(image.device)


class Spoiling(Protocol):
    """What cutting or imaging did to a patch; its parameters are drawn already."""

    def apply(self, image: Tensor) -> Tensor:
        """Return the spoilt image `(y, x)`."""


@dataclass(frozen=True, slots=True)
class OutOfFocus:
    """A Gaussian blur of `sigma` px."""

    sigma: float

    def apply(self, image: Tensor) -> Tensor:
        """Return the spoilt image `(y, x)`."""
        radius = max(1, round(3 * self.sigma))
        x = torch.arange(-radius, radius + 1, device=image.device)
        # by rows, then by columns: a Gaussian is separable
        kernel = torch.exp(-(x**2) / (2 * self.sigma**2))
        kernel = kernel / kernel.sum()
        padded = F.pad(image[None, None], (radius,) * 4, mode="reflect")
        rows = F.conv2d(padded, kernel.view(1, 1, -1, 1))
        return F.conv2d(rows, kernel.view(1, 1, 1, -1))[0, 0]


@dataclass(frozen=True, slots=True)
class ContrastStep:
    """Two halves of different contrast, as where two tiles of a montage meet."""

    line: Line
    gain: float
    offset: float

    def apply(self, image: Tensor) -> Tensor:
        """Return the spoilt image `(y, x)`."""
        beyond = self.line.distance(image) > 0
        return torch.where(beyond, image * (1 + self.gain) + self.offset, image)


@dataclass(frozen=True, slots=True, eq=False)
class Charging:
    """Rows that start bright or dark, `rows` `(y,)`, and fade over `length` px."""

    rows: Tensor
    length: float

    def apply(self, image: Tensor) -> Tensor:
        """Return the spoilt image `(y, x)`."""
        fade = torch.exp(-torch.arange(image.shape[1]) / self.length)
        return image + (self.rows[:, None] * fade).to(image)


@dataclass(frozen=True, slots=True)
class KnifeMark:
    """A straight scratch: how wide, px, and what it adds to grey values."""

    line: Line
    width: float
    contrast: float

    def apply(self, image: Tensor) -> Tensor:
        """Return the spoilt image `(y, x)`."""
        mark = torch.exp(-((self.line.distance(image) / self.width) ** 2))
        return image + self.contrast * mark


@dataclass(frozen=True, slots=True)
class MissingTissue:
    """One grey value far enough beyond a line, where there is nothing to learn."""

    line: Line
    level: float

    def _gone(self, image: Tensor) -> Tensor:
        return self.line.distance(image) > image.shape[0] / 4

    def apply(self, image: Tensor) -> Tensor:
        """Return the spoilt image `(y, x)`."""
        return torch.where(self._gone(image), self.level, image)

    def hide(self, target: Tensor) -> Tensor:
        """Return the target `(y, x)`, `IGNORE` where nothing can be seen."""
        return torch.where(self._gone(target), IGNORE, target)


def draw_artefacts(
    settings: AugmentSettings, side: int, rng: torch.Generator
) -> tuple[Spoiling, ...]:
    """Draw what spoils a patch `(side, side)`, each with its own share of patches."""
    found: list[Spoiling] = []
    if _happens(settings.share_with("blur"), rng):
        found.append(OutOfFocus(0.5 + _uniform(rng)))
    if _happens(settings.share_with("contrast_step"), rng):
        gain, offset = (torch.rand(2, generator=rng) * 0.6 - 0.3).tolist()
        found.append(ContrastStep(_line(side, rng), gain, offset))
    if _happens(settings.share_with("charging"), rng):
        rows = torch.randn(side, generator=rng)
        rows = rows * (torch.rand(side, generator=rng) < 0.1) * 0.4
        found.append(Charging(rows, side * (0.1 + _uniform(rng))))
    if _happens(settings.share_with("knife_mark"), rng):
        width, sign = torch.rand(2, generator=rng).tolist()
        contrast = 0.7 if sign < 0.5 else -0.7
        found.append(KnifeMark(_line(side, rng), 0.5 + 1.5 * width, contrast))
    if _happens(settings.share_with("missing_tissue"), rng):
        found.append(MissingTissue(_line(side, rng), _uniform(rng)))
    return tuple(found)


def _uniform(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))


def _happens(share: float, rng: torch.Generator) -> bool:
    # compared in single precision, as it is drawn
    return bool(torch.rand((), generator=rng) < share)


def _line(side: int, rng: torch.Generator) -> Line:
    angle = torch.rand((), generator=rng) * pi
    y, x = (torch.rand(2, generator=rng) * side).tolist()
    return Line(float(angle), y, x)


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourChanges:
    """What happens to the sections on one side of a patch.

    Parameters
    ----------
    kept
        Which are there, the nearest first.
    shift
        Of each of them, whole px `(n, 2)`.
    blank, level
        The one in which nothing is seen, if there is one, and its grey value.
    gain, offset, noise
        Beside the grey values of the patch: `(n,)`, `(n,)` and `(n, side, side)`.
    """

    kept: tuple[int, ...]
    shift: Tensor
    blank: int | None
    level: float
    gain: Tensor
    offset: Tensor
    noise: Tensor

    def on_image(self, nth: int, image: Tensor, grey: GreyChange) -> Tensor:
        """Return the changed neighbour `(y, x)`; `grey` is that of the patch."""
        noise = self.noise[nth]
        if nth == self.blank:
            return self.level + noise.to(image)
        own = replace(
            grey,
            gain=grey.gain * float(self.gain[nth]),
            offset=grey.offset + float(self.offset[nth]),
            noise=noise,
        )
        return own.apply(image)


def draw_neighbour_changes(
    settings: AugmentSettings, n: int, seen: int, side: int, rng: torch.Generator
) -> NeighbourChanges:
    """Draw what happens to `n` sections on one side, of which `seen` are seen."""
    kept = list(range(n))
    if n and _happens(settings.missing_neighbour, rng):
        first = int(torch.randint(min(n, seen), (), generator=rng))
        # the stack may end there, or go on behind the gap
        kept = kept[:first] if _uniform(rng) < 0.3 else kept[:first] + kept[first + 1 :]
    shift = torch.zeros(n, 2)
    if n and _happens(settings.shifted, rng):
        # whole px, so that pixels that fall on pixels still do
        by = (torch.randn(2, generator=rng) * settings.shift).round()
        alone = _uniform(rng) < 0.5
        first = int(torch.randint(min(n, seen), (), generator=rng))
        shift[first : first + 1 if alone else n] = by
    blank = None
    if n and _happens(settings.blank_neighbour, rng):
        blank = int(torch.randint(min(n, seen), (), generator=rng))
    # neighbours are as bright as the patch, but for a little
    c, strength = settings.contrast / 4, _uniform(rng) * settings.noise
    gain = 1 + c * (torch.rand(n, generator=rng) * 2 - 1)
    offset = c / 2 * (torch.rand(n, generator=rng) * 2 - 1)
    noise = strength * torch.randn((n, side, side), generator=rng)
    return NeighbourChanges(
        tuple(kept), shift, blank, _uniform(rng), gain, offset, noise
    )


@dataclass(frozen=True, slots=True, eq=False)
class Augmentation:
    """All that happens to one patch of `side` px.

    Applied again, or to another picture, it does the same: `positions` moves pixels of
    whatever is `sample`d there, `on_image` and `on_target` are for what was sampled.
    """

    side: int
    warp: Warp
    grey: GreyChange
    artefacts: tuple[Spoiling, ...]

    def positions(self, centre: tuple[float, float]) -> Tensor:
        """Return where the pixels of the patch around `centre` lie, `(y, x, 2)`."""
        return positions(self.warp, centre, self.side)

    def on_image(self, image: Tensor) -> Tensor:
        """Return grey values `(side, side)` changed and spoilt."""
        image = self.grey.apply(image)
        for artefact in self.artefacts:
            image = artefact.apply(image)
        return image

    def on_target(self, target: Tensor) -> Tensor:
        """Return classes `(side, side)`, `IGNORE` where nothing can be seen."""
        for artefact in self.artefacts:
            if isinstance(artefact, MissingTissue):
                target = artefact.hide(target)
        return target


def draw_augmentation(
    settings: AugmentSettings, side: int, rng: torch.Generator
) -> Augmentation:
    """Draw all that happens to a patch; the same seed gives the same."""
    warp = draw_warp(settings, rng)
    grey = draw_grey_change(settings, side, rng)
    return Augmentation(side, warp, grey, draw_artefacts(settings, side, rng))
