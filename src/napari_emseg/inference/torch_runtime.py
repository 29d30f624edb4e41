"""PyTorch as a runtime: CUDA, MPS or CPU. Importing this imports torch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_emseg.core.memory import free_ram
from napari_emseg.core.tiles import TilePlan
from napari_emseg.models.forward import in_range, inner_logits, to_probabilities
from napari_emseg.models.zoo import Network, context_of

NO_PRIMITIVE = "could not create a primitive"
"""What oneDNN says when it finds no room for its code; PyTorch's own needs none."""


def choose_device(wanted: str) -> torch.device:
    """Return the device to use; `auto` takes a GPU where there is one.

    Raises
    ------
    ValueError
        If a device is asked for that isn't there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    kind, _, nth = wanted.partition(":")
    gpus = torch.cuda.device_count() if there["cuda"] else 0
    if not there.get(kind, False) or (nth and int(nth) >= gpus):
        several = [f"cuda:{n}" for n in range(1, gpus)]
        found = ", ".join([*(name for name, ok in there.items() if ok), *several])
        msg = f"no device {wanted!r} on this machine; there is: {found}"
        raise ValueError(msg)
    return torch.device(wanted)


SAME = 1e-3
"""Most that probabilities by Apple's GPU may differ from the CPU's."""


def load_on_gpu(
    network: nn.Module, device: torch.device, *, half: bool
) -> "TorchRuntime":
    """Put a network on a GPU; Apple's must give the CPU's numbers for a few pixels.

    Raises
    ------
    RuntimeError
        If it doesn't, or there is too little memory.
    """
    runtime = TorchRuntime(network, device, half=half)
    if device.type == "mps":
        geometry = runtime.geometry
        shape = TilePlan((1, 1 + 2 * geometry.stride), geometry).window_shape
        window = np.random.default_rng(0).random(
            (1, runtime.context, *shape), dtype=np.float32
        )
        wanted = TorchRuntime(network, torch.device("cpu"))(window)
        difference = float(np.abs(wanted - runtime(window)).max())
        if not difference <= SAME:
            msg = f"its probabilities differ from the CPU's by {difference:.2g}"
            raise RuntimeError(msg)
    return runtime


class TorchRuntime:
    """Runs a network by PyTorch, channels-last; float16 inside on CUDA if `half`.

    float16 keeps three more bits than bfloat16, so that probabilities change by less
    than 0.01. A network that overflows it is run in float32 from then on.
    """

    name = "torch"

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        half: bool = True,
        threads: int | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._device = device
        self.network = _fused(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._half = half and device.type == "cuda"
        self._threads = threads
        self.device = str(device)
        self.notes = notes
        kind = cast("Network", network)
        self.context: int = context_of(network)
        self.geometry = kind.geometry
        self.bytes_per_pixel = kind.bytes_per_pixel

    @property
    def precision(self) -> str:
        """The arithmetic of the network; float32 once float16 has overflowed."""
        return "float16" if self._half else "float32"

    @torch.inference_mode()
    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return probabilities `(n, channels, y', x')`."""
        values = torch.from_numpy(np.ascontiguousarray(batch)).to(
            self._device, memory_format=torch.channels_last
        )
        with _threads(self._threads):
            try:
                logits = self._logits(values)
            except RuntimeError as e:
                if NO_PRIMITIVE not in str(e):
                    raise
                with _without_onednn():
                    logits = self._logits(values)
            probabilities = to_probabilities(logits, self.network)
        result: NDArray[np.float32] = probabilities.cpu().numpy()
        return result

    def _logits(self, values: Tensor) -> Tensor:
        if self._half:
            with torch.autocast("cuda", dtype=torch.float16):
                logits = inner_logits(self.network, values)
            if torch.isfinite(logits).all():
                return logits
            self._half = False
        return inner_logits(self.network, values)

    def free_memory(self) -> int:
        """Bytes free on the device, with what torch holds but doesn't use."""
        if self._device.type != "cuda":
            return free_ram()
        self.release()
        return int(torch.cuda.mem_get_info(self._device)[0])

    def release(self) -> None:
        """Give back GPU memory that torch keeps for later."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _fused(network: nn.Module) -> nn.Module:
    """Copy a network with each batch normalisation folded into its convolution.

    It saves an array as large as the convolution's output, the time to fill it, and on
    a CPU as much again for asking the system for it.
    """
    network = in_range(network).eval()
    for block in list(network.modules()):
        if not isinstance(block, nn.Sequential):
            continue
        for (a, first), (b, second) in pairwise(list(block.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                # an Identity keeps the place of what is folded in:
                # others may be asked for by index
                setattr(block, a, fuse_conv_bn_eval(first, second))
                setattr(block, b, nn.Identity())
    return network


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Let torch use its own convolutions, which are slower."""
    with warnings.catch_warnings():
        # it speaks of Intel's GPUs when the switch is used, whatever there is
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads; None leaves it alone."""
    if number is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
