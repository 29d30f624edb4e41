"""What a run will take: memory, time, and the tiles that fit."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt, prod
from shutil import which
from typing import cast

from napari_emseg.core.memory import free_ram
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry, TilePlan
from napari_emseg.inference import throughput
from napari_emseg.inference.scope import PredictionScope, scope_of
from napari_emseg.models.weights import Weights
from napari_emseg.models.zoo import Network

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
    # pixels of network input in all windows that are computed at once
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
    # Any tile gives the same numbers here. Otherwise they depend on the tile a little,
    # so its size must not depend on how much memory happens to be free.
    if geometry.exact:
        pixels = most // limits.batch
        pixels = pixels if gpu else min(pixels, CPU_SIDE * CPU_SIDE)
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


GPU_BYTES = 4 * 2**30
"""What a GPU is taken to have free as long as nobody has asked it."""

SECTIONS_IN_FLIGHT = 3
"""Results that wait to be written or are put together."""


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """What a run is expected to take.

    Parameters
    ----------
    megapixels
        Of network input, halos and rescaling included.
    peak_bytes
        Beyond what the program holds already; on a GPU, of its memory.
    seconds
        None as long as the weights' speed on this machine is unknown.
    notes
        What the run will tell, e.g. that it rescales.
    """

    sections: int
    tiles: int
    megapixels: float
    peak_bytes: int
    seconds: float | None
    device: str
    notes: tuple[str, ...]

    @property
    def words(self) -> str:
        """One line: `12 tiles · 30 sections · about 40 s · peak 0.6 GB on cpu`."""
        parts = [_count(self.tiles, "tile"), _count(self.sections, "section")]
        if self.seconds is not None:
            parts.append(_time(self.seconds))
        parts.append(f"peak {self.peak_bytes / 1e9:.1f} GB on {self.device}")
        return " · ".join(parts)


def estimate(
    stack: Stack,
    weights: Weights,
    *,
    settings: PredictSettings | None = None,
    sections: Sequence[int] | None = None,
    roi: tuple[slice, slice] | None = None,
    classes: Sequence[str] | None = None,
    keep: bool = False,
) -> RunEstimate:
    """Estimate a run; see `Predictor.run` for the parameters.

    Takes a millisecond. The time is known after `Predictor.measure` or a first run.

    Parameters
    ----------
    keep
        Whether the result stays in memory instead of going to a sink.

    Raises
    ------
    ValueError
        As `Predictor.run` does.
    """
    settings = settings or PredictSettings()
    weights = weights.at(settings.depth, settings.heads)
    scope = scope_of(
        stack, weights.card, settings, sections=sections, roi=roi, classes=classes
    )
    device = _device(settings)
    geometry, bytes_per_pixel = _facts(weights)
    limits = choose_limits(
        scope,
        geometry,
        settings,
        bytes_per_pixel=bytes_per_pixel,
        free=_free(device),
        gpu=device != "cpu",
    )
    plan = limits.plan(scope, geometry)
    n = len(scope.sections)
    window = prod(plan.window_shape)
    megapixels = n * len(plan) * window / 1e6
    ms = throughput.known(weights, settings)
    at_once = min(limits.batch, n * len(plan))
    peak = at_once * window * bytes_per_pixel
    if device == "cpu":
        peak += _of_sections(scope, keep=keep)
        if not geometry.exact and len(plan) > 1:
            peak += 4 * prod(scope.shape)  # the sum of weights
    return RunEstimate(
        sections=n,
        tiles=n * len(plan),
        megapixels=megapixels,
        peak_bytes=int(peak),
        seconds=None if ms is None else ms * megapixels / 1000,
        device=device,
        notes=scope.notes,
    )


def _of_sections(scope: PredictionScope, *, keep: bool) -> int:
    """Bytes of the sections that are read and of the results that are held."""
    # the section in hand and the one that is read ahead
    read = 2 * prod(scope.stack.shape[1:]) * scope.stack.dtype.itemsize
    held = len(scope.sections) if keep else SECTIONS_IN_FLIGHT
    return read + held * len(scope.channels) * prod(scope.shape) * 4


def _facts(weights: Weights) -> tuple[Geometry, float]:
    """Return what the card says of the network, else ask the network itself."""
    card = weights.card
    if card.geometry is not None and card.bytes_per_pixel is not None:
        return card.geometry, card.bytes_per_pixel
    network = cast("Network", weights.network())
    return network.geometry, network.bytes_per_pixel


def _device(settings: PredictSettings) -> str:
    """Say where the run will be; a guess as long as torch isn't loaded."""
    if settings.runtime == "openvino":
        return "cpu"
    if settings.device != "auto":
        return settings.device
    if "torch" in sys.modules:
        from napari_emseg.inference.torch_runtime import choose_device

        return choose_device("auto").type
    return "cuda" if which("nvidia-smi") else "cpu"


def _free(device: str) -> int:
    gpu = device.startswith("cuda")
    if gpu and "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            nth = int(device.partition(":")[2] or torch.cuda.current_device())
            if nth < torch.cuda.device_count():
                return int(torch.cuda.mem_get_info(nth)[0])
    return GPU_BYTES if gpu else free_ram()


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
