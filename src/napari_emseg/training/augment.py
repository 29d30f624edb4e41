"""Random changes of training patches: parameters are drawn first, then applied.

Geometry is one warp of image, target and weight alike; grey values change afterwards.
All of it runs on the device of the image, in torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

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
        scale = 2.0 ** float((torch.rand((), generator=rng) - 0.5) * 0.4)
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


def change_grey(
    image: Tensor, settings: AugmentSettings, rng: torch.Generator
) -> Tensor:
    """Change contrast, brightness and gamma of `(y, x)`, add noise, maybe invert."""
    c = settings.contrast
    gain, offset, gamma = (torch.rand(3, generator=rng) * 2 - 1).tolist()
    # normalised grey values go a little below 0, where powers
    # aren't defined: left as they are
    image = image.clamp(min=0) ** (1 + c * gamma) + image.clamp(max=0)
    image = (image - 0.5) * (1 + c * gain) + 0.5 + c / 2 * offset
    strength = float(torch.rand((), generator=rng)) * settings.noise
    image = image + strength * _noise(image, rng)
    if settings.invert and bool(torch.rand((), generator=rng) < settings.invert):
        image = 1 - image
    return image


def add_artefacts(
    image: Tensor, target: Tensor, settings: AugmentSettings, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Do to `(y, x)` what cutting and imaging do, each with the chance in settings.

    Where nothing can be seen any more the target becomes `IGNORE`.
    """

    def happens() -> bool:
        return bool(torch.rand((), generator=rng) < settings.artefacts)

    if happens():
        image = _blur(image, 0.5 + float(torch.rand((), generator=rng)))
    if happens():
        image = _contrast_step(image, rng)
    if happens():
        image = _charging(image, rng)
    if happens():
        image = _knife_mark(image, rng)
    if happens():
        image, target = _blank(image, target, rng)
    return image, target


def _noise(image: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(image.shape, generator=rng).to(image)


def _blur(image: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(3 * sigma))
    x = torch.arange(-radius, radius + 1, device=image.device)
    # by rows, then by columns: a Gaussian is separable
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(image[None, None], (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1))[0, 0]


def _line(image: Tensor, rng: torch.Generator) -> Tensor:
    """Signed distance in px of each pixel to a random line through the patch."""
    side = torch.tensor(image.shape)
    angle = torch.rand((), generator=rng) * pi
    y0, x0 = torch.rand(2, generator=rng) * side
    y = torch.arange(image.shape[0])[:, None] - y0
    x = torch.arange(image.shape[1])[None] - x0
    distance: Tensor = y * torch.cos(angle) + x * torch.sin(angle)
    return distance.to(image.device)


def _contrast_step(image: Tensor, rng: torch.Generator) -> Tensor:
    """Two halves of different contrast, as where two tiles of a montage meet."""
    gain, offset = (torch.rand(2, generator=rng) * 0.6 - 0.3).tolist()
    return torch.where(_line(image, rng) > 0, image * (1 + gain) + offset, image)


def _charging(image: Tensor, rng: torch.Generator) -> Tensor:
    """Rows that start bright or dark and fade along the scan."""
    rows = torch.randn(image.shape[0], generator=rng)
    rows = rows * (torch.rand(image.shape[0], generator=rng) < 0.1) * 0.4
    length = image.shape[1] * (0.1 + float(torch.rand((), generator=rng)))
    fade = torch.exp(-torch.arange(image.shape[1]) / length)
    return image + (rows[:, None] * fade).to(image)


def _knife_mark(image: Tensor, rng: torch.Generator) -> Tensor:
    """Draw a straight bright or dark scratch of 1–4 px."""
    width, sign = torch.rand(2, generator=rng).tolist()
    mark = torch.exp(-((_line(image, rng) / (0.5 + 1.5 * width)) ** 2))
    return image + (0.7 if sign < 0.5 else -0.7) * mark


def _blank(
    image: Tensor, target: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One side of a line without tissue: one grey value, nothing to learn."""
    gone = _line(image, rng) > image.shape[0] / 4
    level = float(torch.rand((), generator=rng))
    return torch.where(gone, level, image), torch.where(gone, IGNORE, target)
