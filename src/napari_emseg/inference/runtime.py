"""What runs a network: a replaceable part, chosen by the settings and the machine."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.card import Offset
from napari_emseg.core.errors import OtherPrecisionError
from napari_emseg.core.memory import free_ram
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.symmetry import mean_over_symmetries
from napari_emseg.core.tiles import Geometry
from napari_emseg.models.weights import Weights
from napari_emseg.models.zoo import is_bundled

if TYPE_CHECKING:
    from torch import nn

    from napari_emseg.inference.openvino_runtime import (
        ConvertedModel,
        OpenVinoRuntime,
        QuantisedModel,
    )

OPENVINO_BYTES = 10**9
"""What loading and compiling takes, about half of it, and what small tiles take."""


class Runtime(Protocol):
    """Runs one network on one device.

    Calling it computes probabilities `(n, channels, y', x')`, float32, of windows
    `(n, context, y, x)` of normalised grey values, float32, less the margin of
    `geometry` on each side. It raises `MemoryError` or `RuntimeError` when memory runs
    out (`is_out_of_memory`), and is safe to call from any thread, one at a time.
    """

    name: str
    device: str
    context: int
    geometry: Geometry
    bytes_per_pixel: float
    notes: tuple[str, ...]
    """What the user should know of how it was chosen."""

    @property
    def precision(self) -> str:
        """Arithmetic of the network: float32, float16, bf16 or int8."""

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return probabilities."""

    def free_memory(self) -> int:
        """Bytes that a run may use on the device at this moment."""

    def release(self) -> None:
        """Give back what is held only to be faster next time."""


_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|bad_alloc|alloc_cpu|"
    r"(can'?t|cannot|could not|couldn'?t|failed to|unable to) alloc|"
    # oneDNN in PyTorch, which says no more when its scratchpad can't be had
    r"could not create a primitive|could not create a memory object|"
    # no room for the stack of a thread
    r"resource temporarily unavailable|can'?t start new thread",
    re.IGNORECASE,
)
"""What PyTorch, CUDA, MPS, oneDNN and OpenVINO say when there is too little memory."""

# CUDA says both by RuntimeError; lack of memory is looked for first, see below
_DEVICE_LOST = re.compile(
    r"CUDA error|CUDA driver error|cuDNN error|cublas|device lost|Metal .*error",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory, on any device, from other errors."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and _OUT_OF_MEMORY.search(str(error)) is not None
    )


def is_device_lost(error: BaseException) -> bool:
    """Tell a failure of the GPU itself, after which only the CPU is left."""
    return (
        isinstance(error, RuntimeError)
        and not is_out_of_memory(error)
        and _DEVICE_LOST.search(str(error)) is not None
    )


def load_runtime(
    weights: Weights,
    settings: PredictSettings,
    network: nn.Module | None = None,
    quantised: QuantisedModel | None = None,
) -> Runtime:
    """Build the network and put it where the settings say.

    `auto` takes a GPU where there is one, and on a CPU OpenVINO where it is installed
    and gives the same numbers.

    Parameters
    ----------
    network
        To be run in place of that of the weights.
    quantised
        The same network for int8, which needs it.

    Raises
    ------
    ValueError
        If the device or the runtime isn't there, the weights don't fit, or nothing
        here computes in the precision that is asked for.
    """
    on_cpu = _only_on_cpu(settings) or is_reduced(settings)
    if on_cpu or device_type(settings.device) == "cpu":
        return _on_cpu(weights, settings, network, quantised)
    from napari_emseg.inference.torch_runtime import choose_device, load_on_gpu

    device = choose_device(settings.device)
    try:
        return load_on_gpu(
            weights.network() if network is None else network,
            device,
            half=settings.precision == "auto",
        )
    except RuntimeError as e:
        # Apple's GPU is tried at once, and not everything runs there
        if not (is_out_of_memory(e) or is_device_lost(e) or device.type == "mps"):
            raise
        note = f"running on the CPU, since {device} failed: {_first_line(e)}"
    return _on_cpu(weights, settings, network, None, note)


def device_type(wanted: str) -> str:
    """Return what kind of device is used: cpu, cuda or mps.

    PyTorch, which takes seconds to load, is only asked if it may have a GPU.

    Raises
    ------
    ValueError
        If a device is asked for that isn't there.
    """
    if wanted == "cpu" or (wanted == "auto" and not _may_have_gpu()):
        return "cpu"
    from napari_emseg.inference.torch_runtime import choose_device

    return choose_device(wanted).type


def _may_have_gpu() -> bool:
    """Tell if PyTorch has code for a GPU; one that is loaded can be asked itself."""
    found = find_spec("torch")
    if "torch" in sys.modules or sys.platform == "darwin" or found is None:
        return True
    folders = found.submodule_search_locations or ()
    named = [path.name for each in folders for path in Path(each, "lib").glob("*")]
    return not named or any("torch_cuda" in n or "torch_hip" in n for n in named)


def _on_cpu(
    weights: Weights,
    settings: PredictSettings,
    network: nn.Module | None,
    quantised: QuantisedModel | None,
    *notes: str,
) -> Runtime:
    from napari_emseg.inference.openvino_runtime import OpenVinoRuntime

    if network is None and not is_bundled(weights.card.architecture):
        network = weights.network()
    threads = settings.threads
    free, takes = free_ram(), _takes_openvino(settings)
    precision = settings.precision if is_reduced(settings) else "float32"
    exactly = "" if precision == "float32" else " in float32"
    if takes and free < OPENVINO_BYTES:
        # tried all the same, it would leave too little for PyTorch, too
        notes += (
            f"running on PyTorch{exactly}, since OpenVINO needs "
            f"{OPENVINO_BYTES / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            "free",
        )
    elif takes:
        load = partial(
            OpenVinoRuntime,
            threads=threads,
            notes=notes,
            precision=precision,
            quantised=quantised,
        )
        try:
            return _by_openvino(weights, network, load)
        except (ImportError, RuntimeError, MemoryError) as e:
            why = _first_line(e)
            wanted = settings.runtime == "openvino" or exactly
            if wanted and not is_out_of_memory(e):
                msg = f"OpenVINO can't run {weights.card.name}: {why}"
                raise ValueError(msg) from e
            notes += (f"running on PyTorch{exactly}, since OpenVINO failed: {why}",)
    from napari_emseg.inference.torch_runtime import TorchRuntime, choose_device

    network = network or weights.network()
    return TorchRuntime(network, choose_device("cpu"), threads=threads, notes=notes)


def _by_openvino(
    weights: Weights,
    network: nn.Module | None,
    load: Callable[[nn.Module | ConvertedModel], OpenVinoRuntime],
) -> Runtime:
    """Load a network, that of the weights as it was converted before, if it was."""
    from napari_emseg.inference.user_cache import read_model, write_model

    if network is not None:
        return load(network)
    known = read_model(weights)
    if known is not None:
        with suppress(RuntimeError):  # then as if there were none
            return load(known)
    runtime = load(weights.network())
    if runtime.precision == "float32":
        write_model(weights, runtime)
    return runtime


def is_reduced(settings: PredictSettings) -> bool:
    """Tell if settings ask for arithmetic that only OpenVINO on a CPU has.

    Raises
    ------
    ValueError
        If they ask for something else at the same time, or OpenVINO isn't installed.
    """
    name = settings.precision
    if name not in ("bf16", "int8"):
        return False
    if settings.device not in ("auto", "cpu"):
        msg = f"{name} runs on a CPU, not on {settings.device!r}"
        raise OtherPrecisionError(msg)
    if settings.runtime == "torch":
        msg = f"{name} runs by OpenVINO, and the runtime is set to torch"
        raise OtherPrecisionError(msg)
    if find_spec("openvino") is None:
        msg = f'{name} needs OpenVINO (pip install "napari-emseg[openvino]")'
        raise OtherPrecisionError(msg)
    return True


def _only_on_cpu(settings: PredictSettings) -> bool:
    if settings.runtime != "openvino":
        return False
    if settings.device not in ("auto", "cpu"):
        msg = f"OpenVINO runs on the CPU here, not on {settings.device!r}"
        raise ValueError(msg)
    return True


def _takes_openvino(settings: PredictSettings) -> bool:
    if settings.runtime == "auto":
        return find_spec("openvino") is not None
    return settings.runtime == "openvino"


def _first_line(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "out of memory"
    return str(error).strip().split("\n")[0]


class TTARuntime:
    """Runs each window eight times, mirrored and turned, and averages.

    Affinities have directions: of them the four passes are averaged in which they lead
    the same way.

    The geometry is that of the network: its context is as wide on all sides, and the
    length of a window is a multiple of the stride (for `valid` networks always the same
    more than one), so that a turned window lies on the same pooling grid of the picture
    whichever tile it is.

    Parameters
    ----------
    affinities
        Offsets of the last channels.
    """

    def __init__(self, runtime: Runtime, affinities: Sequence[Offset] = ()) -> None:
        self._runtime = runtime
        self._affinities = affinities
        self.name = runtime.name
        self.device = runtime.device
        self.context = runtime.context
        self.geometry = runtime.geometry
        self.bytes_per_pixel = runtime.bytes_per_pixel
        self.notes = runtime.notes

    @property
    def precision(self) -> str:
        """Of the network."""
        return self._runtime.precision

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return the mean probabilities `(n, channels, y', x')`."""
        # probabilities are averaged, not logits
        return mean_over_symmetries(self._runtime, batch, self._affinities)

    def free_memory(self) -> int:
        """Bytes that a run may use on the device at this moment."""
        return self._runtime.free_memory()

    def release(self) -> None:
        """Give back what is held only to be faster next time."""
        self._runtime.release()
