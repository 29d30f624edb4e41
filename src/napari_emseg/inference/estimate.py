"""What a run will take: memory and time."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from shutil import which
from typing import cast

from napari_emseg.core.memory import free_ram
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.inference import throughput
from napari_emseg.inference.plan import choose_limits
from napari_emseg.inference.precision import known_choice
from napari_emseg.inference.scope import PredictionScope, scope_of
from napari_emseg.inference.views import IN_MEMORY, STRIP_VOXELS, Pass, passes_of
from napari_emseg.models.weights import Weights
from napari_emseg.models.zoo import Network

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
    settings = known_choice(weights.at(settings.depth, settings.heads), stack, settings)
    weights = weights.at(settings.depth, settings.heads)
    scope = scope_of(
        stack, weights.card, settings, sections=sections, roi=roi, classes=classes
    )
    device = _device(settings)
    geometry, bytes_per_pixel = _facts(weights)
    passes = [] if settings.views == 1 else passes_of(scope, geometry)
    tiles, pixels, peak = 0, 0, 0.0
    for part in [one.scope for one in passes] or [scope]:
        limits = choose_limits(
            part,
            geometry,
            settings,
            bytes_per_pixel=bytes_per_pixel,
            free=_free(device),
            gpu=device != "cpu",
        )
        plan = limits.plan(part, geometry)
        n, window = len(part.sections) * len(plan), prod(plan.window_shape)
        tiles, pixels = tiles + n, pixels + n * window
        of_part = min(limits.batch, n) * window * bytes_per_pixel
        if device == "cpu" and not geometry.exact and len(plan) > 1:
            of_part += 4 * prod(part.shape)  # the sum of weights
        peak = max(peak, of_part)
    if device == "cpu":
        peak += _of_sections(scope, keep=keep) + _of_views(passes)
    megapixels, ms = pixels / 1e6, throughput.known(weights, settings)
    return RunEstimate(
        sections=len(scope.sections),
        tiles=tiles,
        megapixels=megapixels,
        peak_bytes=int(peak),
        seconds=None if ms is None else ms * megapixels / 1000,
        device=device,
        notes=scope.notes,
    )


def _of_sections(scope: PredictionScope, *, keep: bool) -> int:
    """Bytes of the sections that are read and of the results that are held."""
    # the section in hand and the one that is read ahead, with their neighbours
    read = (
        (scope.context + 1) * prod(scope.stack.shape[1:]) * scope.stack.dtype.itemsize
    )
    held = len(scope.sections) if keep else SECTIONS_IN_FLIGHT
    return read + held * len(scope.channels) * prod(scope.shape) * 4


def _of_views(passes: list[Pass]) -> int:
    """Bytes of the planes that are read together, and of the bands' results."""
    if not passes:
        return 0
    deepest = max(one.band.rows.stop - one.band.rows.start for one in passes)
    scope = passes[0].scope
    voxels = len(scope.channels) * deepest * prod(passes[0].area)
    # larger ones are put together on disk
    held = voxels if voxels <= IN_MEMORY else 0
    return 4 * (held + min(STRIP_VOXELS, prod(scope.stack.shape)))


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
