"""How large tiles may be: chosen from free memory, lowered when memory runs out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt

from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.tiles import Geometry, TilePlan
from napari_emseg.inference.scope import PredictionScope

SHARE_OF_FREE = 0.5
"""Part of the free memory that a run may take; others use the machine too."""

CPU_SIDE = 1536
"""A core works for two seconds on such a window: larger ones only delay Cancel."""

BLENDED_SIDE = 1536
"""Of windows that the result depends on: on every device, and whatever is free."""

GPU_BATCH_PIXELS = 2048 * 2048
"""A GPU is busy with so many pixels at once; more only takes memory."""

MOST_BATCH = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest window side in network pixels (None: no limit) and windows at once."""

    tile: int | None
    batch: int

    def plan(self, scope: PredictionScope, geometry: Geometry) -> TilePlan:
        """Tiles of one section of the run."""
        return TilePlan(
            scope.stack.shape[1:], geometry, scope.zoom, self.tile, scope.roi
        )


def choose_limits(
    scope: PredictionScope,
    geometry: Geometry,
    settings: PredictSettings,
    *,
    bytes_per_pixel: float,
    free: int,
    gpu: bool,
) -> Limits:
    """Take windows as large as memory allows, so that little of them is halo.

    A section that fits is one tile. On a GPU several small windows go together. Where
    the result depends on the window, its size follows from the section alone as long as
    one window of that size fits.

    Raises
    ------
    ValueError
        If the settings ask for a tile that leaves nothing beside the halo.
    """
    most = max(1, int(free * SHARE_OF_FREE / bytes_per_pixel))
    limits = Limits(settings.tile, settings.batch or 1)
    if settings.tile is None:
        limits = _chosen(limits, scope, geometry, most, gpu=gpu)
    y, x = limits.plan(scope, geometry).window_shape
    if settings.batch is None and gpu:
        fits = min(most, GPU_BATCH_PIXELS) // (y * x)
        limits = replace(limits, batch=min(max(1, fits), MOST_BATCH))
    return limits


def _chosen(
    limits: Limits, scope: PredictionScope, geometry: Geometry, most: int, *, gpu: bool
) -> Limits:
    """Limit the tile to `most` pixels at once, and to what is good for the device."""
    if geometry.exact:
        pixels = most // limits.batch
        pixels = pixels if gpu else min(pixels, CPU_SIDE * CPU_SIDE)
    else:
        pixels = min(most, BLENDED_SIDE * BLENDED_SIDE)
        limits = replace(limits, batch=max(1, min(limits.batch, most // pixels)))
    y, x = limits.plan(scope, geometry).window_shape
    if y * x > pixels:
        side = max(TilePlan.smallest_tile(geometry), isqrt(pixels))
        limits = replace(limits, tile=side)
    return limits


def lowered(
    limits: Limits, geometry: Geometry, window: tuple[int, int], batch: int
) -> Limits | None:
    """Return less than what just ran out of memory; None if nothing is left to lower.

    The tile is halved until a third of its side is core, then the batch.
    """
    side = max(window)
    floor = max(3 * geometry.halo, TilePlan.smallest_tile(geometry))
    tile = max(floor, side // 2)
    if side > floor and (limits.tile is None or tile < limits.tile):
        return replace(limits, tile=tile)
    if batch > 1:
        return replace(limits, batch=batch // 2)
    return None
