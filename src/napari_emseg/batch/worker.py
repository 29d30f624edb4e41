"""What a worker keeps between tasks: the opened stack, the network, and its turn."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Protocol

from filelock import FileLock

from napari_emseg._installed import __version__
from napari_emseg.batch.completion_log import SUM, Facts, checksum
from napari_emseg.batch.context import Context, FileRef
from napari_emseg.batch.inputs import Input, OpenInput, open_input
from napari_emseg.core.atomic import sync
from napari_emseg.core.memory import free_ram
from napari_emseg.core.paths import read_bounded
from napari_emseg.core.settings import PredictSettings
from napari_emseg.io.fingerprint import (
    FEW_FILES,
    SourceChangedError,
    describe_change,
    source_state,
)
from napari_emseg.models.weights import Weights, load_weights
from napari_emseg.segmentation.edge_classifier import EdgeClassifier, read_edges

if TYPE_CHECKING:
    from napari_emseg.inference import Predictor
    from napari_emseg.inference.openvino_runtime import QuantisedModel

_LOADING = Lock()
_CPU = Lock()

VOLUME_BYTES = 1_500_000_000
"""Of memory at the most while the fragments of a volume, or of a block, are found."""


class VersionMismatchError(RuntimeError):
    """A worker runs another version of this program."""


class TaskBody(Protocol):
    """A part of the work: frozen, small, with the same result however often done."""

    def run(self) -> Facts:
        """Do it; results go to files, what was found out is returned."""

    def files(self) -> list[Path]:
        """Return the files that it has written, but for final results."""


def run_task(work: TaskBody, version: str) -> Facts:
    """Do a part of the work on a worker; what it wrote is on the disk then.

    Raises
    ------
    VersionMismatchError
        If the worker runs another version of this program.
    """
    # tasks are pickled by name: another version could do
    # another thing under the same stamp
    if version != __version__:
        msg = (
            f"the worker has napari-emseg {__version__}, but the batch was started by "
            f"{version}; install the same version everywhere"
        )
        raise VersionMismatchError(msg)
    facts = work.run()
    files = work.files()
    for file in files:
        sync(file)
    return {**facts, SUM: checksum(files)}


@contextmanager
def gpu_lock(settings: PredictSettings) -> Iterator[None]:
    """Wait for the network's turn: one run at a time in a process, and on a GPU."""
    with _CPU:
        gpu = _gpu(settings)
        if gpu is None:
            yield
            return
        user = os.getuid() if hasattr(os, "getuid") else 0
        with FileLock(Path(tempfile.gettempdir()) / f"emseg-{gpu}-{user}.lock"):
            yield


@contextmanager
def volume_lock() -> Iterator[None]:
    """Wait until there is memory for another volume, or block of one."""
    with _volumes():
        yield


@cache
def _volumes() -> BoundedSemaphore:
    # threads of this process would each hold one
    return BoundedSemaphore(max(1, free_ram() // (2 * VOLUME_BYTES)))


def _gpu(settings: PredictSettings) -> str | None:
    """Return the name of the GPU that a run takes; None on a CPU."""
    by_openvino = settings.runtime == "openvino" or settings.precision in (
        "bf16",
        "int8",
    )
    if settings.device == "cpu" or by_openvino:
        return None
    from napari_emseg.inference.runtime import device_type

    if device_type(settings.device) == "cpu":
        return None
    import torch

    from napari_emseg.inference.torch_runtime import choose_device

    device = choose_device(settings.device)
    if device.type != "cuda":
        return device.type
    # by UUID, since CUDA_VISIBLE_DEVICES gives one GPU another number in each process
    return f"gpu-{torch.cuda.get_device_properties(device).uuid}"


def opened(given: Input) -> OpenInput:
    """Open an input; the last few stay open."""
    with _LOADING:
        return _opened(given)


def require_same(context: Context) -> None:
    """Raise SourceChangedError if the input isn't what it was when the batch began.

    Of one that is gone what was read is right, and what wasn't is noticed elsewhere.

    Raises
    ------
    SourceChangedError
        So nothing is made of old and new sections together.
    """
    if context.seen is None:
        return
    try:
        stack = opened(context.given).stack
    except (OSError, ValueError):
        return
    now = source_state(stack, most=FEW_FILES)
    if now is not None and now.files and not context.seen.is_same(now):
        msg = describe_change(stack, context.seen, most=FEW_FILES)
        raise SourceChangedError(msg)


@lru_cache(maxsize=4)
def weights(ref: FileRef) -> Weights:
    """Load weights.

    Raises
    ------
    ValueError
        If they are not those that the batch was started with.
    """
    found = load_weights(ref.path)
    if found.sha256 != ref.sha256:
        msg = (
            f"{ref.path} holds other weights on {sys.platform} here than where the "
            f"batch was started ({found.sha256[:12]} instead of {ref.sha256[:12]})"
        )
        raise ValueError(msg)
    return found


@lru_cache(maxsize=4)
def edges(ref: FileRef) -> EdgeClassifier:
    """Read a classifier of edges.

    Raises
    ------
    ValueError
        If it isn't the one that the batch was started with.
    OSError
        If it can't be read.
    """
    found = read_edges(Path(ref.path))
    if found.sha256 != ref.sha256:
        msg = f"{ref.path} holds another classifier of edges than when the batch began"
        raise ValueError(msg)
    return found


def predictor(ref: FileRef) -> Predictor:
    """Return the predictor of this process, loaded once."""
    with _LOADING:
        return _predictor(ref)


@lru_cache(maxsize=2)
def quantised(path: Path, digest: str) -> QuantisedModel:
    """Read a network for int8 that a batch has calibrated.

    Raises
    ------
    OSError
        If it isn't what was written.
    """
    from napari_emseg.inference.openvino_runtime import MOST_BYTES, QuantisedModel

    try:
        found = QuantisedModel.unpack(read_bounded(path, MOST_BYTES))
        if found.sha256 == digest:
            return found
        why = "it is another one"
    except ValueError as e:
        why = str(e)
    msg = f"{path} can't be used: {why}; resume the batch, and it is made anew"
    raise OSError(msg)


@lru_cache(maxsize=4)
def _opened(given: Input) -> OpenInput:
    return open_input(given)


@lru_cache(maxsize=1)
def _predictor(ref: FileRef) -> Predictor:
    from napari_emseg.inference import Predictor

    return Predictor(weights(ref), settles="nothing")


def open_anew() -> None:
    """Open inputs anew from now on: a file may have come back."""
    with _LOADING:
        _opened.cache_clear()


def retry_unread(
    places: list[int], retries: int, work: Callable[[list[int]], dict[int, str]]
) -> dict[int, str]:
    """Do sections, and those that can't be read again, with files opened anew.

    Parameters
    ----------
    work
        Does some of them; returns the reason by place of those that it can't read.

    Returns
    -------
    dict
        Those that couldn't be read in the end.
    """
    failed: dict[int, str] = {}
    for _ in range(1 + retries):
        failed = work(places) if places else {}
        places = list(failed)
        if not places:
            break
        open_anew()
    return failed
