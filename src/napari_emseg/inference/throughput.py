"""How fast weights run on this machine, remembered from one program to the next."""

import json
import platform
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
from platformdirs import user_cache_path
from pydantic import Field, TypeAdapter

from napari_emseg._installed import __version__
from napari_emseg.core.atomic import write_whole
from napari_emseg.core.memory import cores
from napari_emseg.core.paths import read_bounded
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.symmetry import SYMMETRIES
from napari_emseg.core.tiles import TilePlan
from napari_emseg.inference.runtime import Runtime
from napari_emseg.models.weights import Weights

SIDE = 320
"""Of the picture that is timed: large enough to be typical, over in a second."""

Machine = tuple[str, str, str, int | None]
Key = tuple[str, int | None, str, Machine]

_MS_PER_MEGAPIXEL: dict[Key, float] = {}
"""Of one pass of the network."""


def known(weights: Weights, settings: PredictSettings) -> float | None:
    """Return ms per megapixel of network input; None if never measured."""
    ms = _MS_PER_MEGAPIXEL.get(_key(weights, settings))
    if ms is None:
        ms = _kept_before().get(_entry(weights, settings))
    if ms is None and settings.precision in ("bf16", "int8"):
        # not run yet: it takes no longer than float32
        return known(weights, settings.model_copy(update={"precision": "auto"}))
    return None if ms is None else ms * _passes(settings)


def remember(weights: Weights, settings: PredictSettings, ms: float) -> None:
    """Keep what was measured, ms per megapixel of network input."""
    # kept for one pass, so that a time without mirrors tells one with them
    once = ms / _passes(settings)
    _MS_PER_MEGAPIXEL[_key(weights, settings)] = once
    _keep(_entry(weights, settings), once)


def measure(runtime: Runtime) -> float:
    """Return ms per megapixel of network input, from one small window."""
    shape = TilePlan((SIDE, SIDE), runtime.geometry).window_shape
    batch = np.zeros((1, runtime.context, *shape), np.float32)
    runtime(batch)  # the first of a shape allocates
    start = perf_counter()
    runtime(batch)
    return (perf_counter() - start) * 1e9 / batch[:, 0].size


def _passes(settings: PredictSettings) -> int:
    """How often the network runs over each window."""
    return len(SYMMETRIES) if settings.tta else 1


def _key(weights: Weights, settings: PredictSettings) -> Key:
    part = weights.at(settings.depth, settings.heads)
    s = settings
    machine = s.device, s.runtime, s.precision, s.threads
    return str(part.path), part.depth, part.heads, machine


ROUGHLY = 1.25
"""A speed on disk that is as near as this to the latest isn't written anew."""

MOST = 500
"""So many speeds are kept, the latest."""

_SPEEDS = TypeAdapter(dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]])


def speeds_file() -> Path | None:
    """Return where speeds are kept; None: nowhere."""
    return user_cache_path("napari-emseg", appauthor=False) / "speeds.json"


@cache
def _kept_before() -> dict[str, float]:
    """Return what was on disk when it was first asked for."""
    return _read()


def _read() -> dict[str, float]:
    """Return speeds by entry; none if there is no such file, or it is damaged."""
    path = speeds_file()
    with suppress(OSError, ValueError):
        if path is not None:
            return _SPEEDS.validate_json(read_bounded(path, 200 * MOST))
    return {}


def _keep(entry: str, ms: float) -> None:
    """Write a speed; a folder that can't be written keeps none."""
    path, speeds = speeds_file(), _read()  # other programs have written meanwhile
    known = speeds.pop(entry, ms * 2 * ROUGHLY)
    if path is None or 1 / ROUGHLY < known / ms < ROUGHLY:
        return
    latest = [*speeds.items(), (entry, ms)][-MOST:]
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(dict(latest)))


def _entry(weights: Weights, settings: PredictSettings) -> str:
    """Return what stands for weights, settings, machine and versions in the file."""
    _, *way = _key(weights, settings)
    words = json.dumps([weights.sha256, way, *_here()])
    return sha256(words.encode()).hexdigest()[:32]


@cache
def _here() -> tuple[str, ...]:
    """Return what a speed depends on beside: a home may be shared by machines."""
    return (
        __version__,
        platform.node(),
        platform.machine(),
        str(cores()),
        *(_version(name) for name in ("torch", "openvino")),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
