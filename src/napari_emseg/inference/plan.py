"""A scope in, tiles out: as large as memory allows, smaller ones when it runs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.memory import cores
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.tiles import Geometry, Tile, TilePlan, read_tile
from napari_emseg.inference.runtime import Runtime
from napari_emseg.inference.scope import PredictionScope
from napari_emseg.inference.sections import Section

SHARE_OF_FREE = 0.5
"""Part of the free memory that a run may take; others use the machine too."""

CPU_SIDE = 1536
"""A core works for two seconds on such a window: larger ones delay Cancel."""

MOST_CPU_SIDE = 2304
"""With several cores: a sixth of such a window is halo, and a third of the smaller."""

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
            *(scope.stack.shape[1:], geometry, scope.zoom, self.tile, scope.roi),
            scope.band,
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
    # pixels of network input in all windows that are computed at once
    most = max(1, int(free * SHARE_OF_FREE / bytes_per_pixel))
    limits = Limits(settings.tile, settings.batch or 1)
    if settings.tile is None:
        limits = _chosen(limits, scope, geometry, most, settings.threads, gpu=gpu)
    y, x = limits.plan(scope, geometry).window_shape
    if settings.batch is None and gpu:
        fits = min(most, GPU_BATCH_PIXELS) // (y * x)
        limits = replace(limits, batch=min(max(1, fits), MOST_BATCH))
    return limits


def _cpu_pixels(threads: int | None) -> int:
    """Return how large a window on a CPU may be, by the cores that work on it."""
    return min(CPU_SIDE**2 * (threads or cores()), MOST_CPU_SIDE**2)


def _chosen(
    limits: Limits,
    scope: PredictionScope,
    geometry: Geometry,
    most: int,
    threads: int | None,
    *,
    gpu: bool,
) -> Limits:
    """Limit the tile to `most` pixels at once, and to what is good for the device."""
    # Any tile gives the same numbers here. Otherwise they depend on the tile a little,
    # so its size must not depend on how much memory happens to be free.
    if geometry.exact:
        pixels = most // limits.batch
        pixels = pixels if gpu else min(pixels, _cpu_pixels(threads))
    else:
        pixels = min(most, BLENDED_SIDE * BLENDED_SIDE)
        limits = replace(limits, batch=max(1, min(limits.batch, most // pixels)))
    y, x = limits.plan(scope, geometry).window_shape
    if y * x > pixels:
        # square windows have the least halo for their pixels
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
    # of a window three halos wide, a ninth of the area is core: less isn't worth a try
    floor = max(3 * geometry.halo, TilePlan.smallest_tile(geometry))
    tile = max(floor, side // 2)
    if side > floor and (limits.tile is None or tile < limits.tile):
        return replace(limits, tile=tile)
    if batch > 1:
        return replace(limits, batch=batch // 2)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class TileTask:
    """A tile of a section; `parent` is the one that it was cut from, if it was."""

    section: Section
    plan: TilePlan
    tile: Tile
    parent: TileTask | None = None

    @property
    def whole(self) -> TileTask:
        """The tile of the run's own plan that this is, or is a part of."""
        return self if self.parent is None else self.parent.whole

    @property
    def share(self) -> Fraction:
        """Part of the section; all that are computed add up to 1."""
        # exact, so that the parts of a section add up to 1 and
        # its end is noticed; floats don't
        above = Fraction(1) if self.parent is None else self.parent.share
        return above / len(self.plan)

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """Weight `(y, x)` of each pixel of the core; None if it has no overlap.

        Parts of a tile that overlap its neighbours share its weight.
        """
        own = self.tile.weights
        if self.parent is None or (above := self.parent.weights) is None:
            return own
        y, x = (
            slice(a.start - b.start, a.stop - b.start)
            for a, b in zip(self.tile.core, self.parent.tile.core, strict=True)
        )
        return above[y, x] if own is None else own * above[y, x]

    def read(self) -> NDArray[np.float32]:
        """Return the window `(context, y, x)` as the network sees it."""
        return read_tile(self.section.windows, self.plan, self.tile)


class RunPlan:
    """How the sections of a run are cut into tiles.

    Reading takes the tiles of one section after the other. Where inference runs out of
    memory it makes what is left smaller: sections to come, and tiles that were read.

    Parameters
    ----------
    kept
        Bytes of main memory that the result will fill.
    """

    def __init__(
        self, scope: PredictionScope, settings: PredictSettings, *, kept: int = 0
    ) -> None:
        self.scope = scope
        self.limits = Limits(settings.tile, settings.batch or 1)
        self._settings = settings
        self._kept = kept
        self._geometry = Geometry(1, 0)
        self._planned: tuple[Limits, TilePlan] | None = None
        self._tiles_taken = 0
        self._tiles_split = 0
        self._sections_taken = 0

    def fit(self, runtime: Runtime, free: int | None = None) -> None:
        """Choose limits for a runtime, by what is free beside the result.

        Parameters
        ----------
        free
            Bytes; by default as the runtime has it now.

        Raises
        ------
        ValueError
            If the settings ask for a tile that leaves nothing beside the halo.
        """
        on_cpu = runtime.device == "cpu"
        free = runtime.free_memory() if free is None else free
        self._geometry = runtime.geometry
        self.limits = choose_limits(
            self.scope,
            runtime.geometry,
            self._settings,
            bytes_per_pixel=runtime.bytes_per_pixel,
            free=max(0, free - self._kept * on_cpu),
            gpu=not on_cpu,
        )

    @property
    def tiles(self) -> int:
        """Tiles of the whole run; grows when tiles are made smaller."""
        left = len(self.scope.sections) - self._sections_taken
        each = len(self._next()) if left else 0
        return self._tiles_taken + self._tiles_split + left * each

    def take_section(self) -> TilePlan:
        """Return the tiles of the next section, which keeps them to its end."""
        plan = self._next()
        self._tiles_taken += len(plan)
        self._sections_taken += 1
        return plan

    def _next(self) -> TilePlan:
        limits = self.limits
        if self._planned is None or self._planned[0] != limits:
            self._planned = limits, limits.plan(self.scope, self._geometry)
        return self._planned[1]

    def lower(self, window: tuple[int, int], batch: int) -> str | None:
        """Ask for less than what just ran out of memory; say what is done then.

        None if nothing is left to lower.
        """
        limits = lowered(self.limits, self._geometry, window, batch)
        if limits is None:
            return None
        before, self.limits = self.limits, limits
        if limits.tile == before.tile:
            return f"going on with {limits.batch} at once"
        return (
            f"going on with tiles of {limits.tile} px instead of {max(window)} px; "
            "finished tiles are kept"
        )

    def cut(self, tasks: Iterable[TileTask], begun: set[TileTask]) -> deque[TileTask]:
        """Cut tasks to the present limit, starting from whole ones where possible.

        Parameters
        ----------
        begun
            Whole tasks of which parts are finished.
        """
        tasks = list(tasks)
        # A tile of which nothing has been given out is cut anew from the
        # whole, which leaves less halo than cutting its parts. Once a part
        # is out only the rest can be cut.
        whole = [t if t.whole in begun else t.whole for t in tasks]
        pieces = [
            piece for task in dict.fromkeys(whole) for piece in self._cut_one(task)
        ]
        self._tiles_split += len(pieces) - len(tasks)
        return deque(pieces)

    def _cut_one(self, task: TileTask) -> list[TileTask]:
        limit = self.limits.tile
        if limit is None or max(task.plan.window_shape) <= limit:
            return [task]
        shape, zoom = task.plan.shape, task.plan.zoom
        # still a plan of the whole section: halos reach beyond the core that
        # is cut, so results don't change
        part = TilePlan(shape, self._geometry, zoom, limit, task.tile.core)
        return [TileTask(task.section, part, tile, task) for tile in part]
