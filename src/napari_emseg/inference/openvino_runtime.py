"""OpenVINO as a runtime: about twice as fast as PyTorch on a CPU, the same numbers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.memory import free_ram
from napari_emseg.core.tiles import Geometry, TilePlan, check_probabilities
from napari_emseg.models.zoo import Network, context_of

if TYPE_CHECKING:
    from torch import nn

SAME = 1e-4
"""Most that probabilities of a few random pixels may differ from PyTorch's."""

LARGE = 640 * 640
"""A window of more pixels has a network compiled for its shape; a preview's has not."""

SHAPES = 2
"""So many shapes are kept compiled: an oblong window has two when it is turned."""


class OpenVinoRuntime:
    """Runs a network by OpenVINO on the CPU, in float32, windows of any shape.

    Raises
    ------
    ImportError
        If OpenVINO isn't installed.
    RuntimeError
        If it can't run this network, or gives other numbers than PyTorch.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        network: nn.Module,
        *,
        threads: int | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.notes = notes
        kind = cast("Network", network)
        self.context: int = context_of(network)
        self.geometry = kind.geometry
        self.bytes_per_pixel = kind.bytes_per_pixel
        self._lock = Lock()
        self._openvino = import_openvino()
        self._model = _convert(self._openvino, network, self.geometry)
        self._threads = threads
        # the oldest first to go
        self._compiled: dict[tuple[int, ...] | None, Any] = {}
        # a trace fixes what Python computed from the shape; another shape would show it
        self._check(network)

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return probabilities `(n, channels, y', x')`.

        Raises
        ------
        RuntimeError
            If memory runs out, or the network can't take a window of this shape.
        """
        with self._lock:
            try:
                return self._infer(np.ascontiguousarray(batch))
            except RuntimeError:
                self._compiled.clear()  # it would fail again, whatever it is given
                raise

    def _infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        # Buffers are shared better where shapes are known: it takes a third less memory
        # than if windows may have any shape, and compiling takes as long.
        shape = batch.shape if batch[:, 0].size > LARGE else None
        if shape not in self._compiled:
            for known in list(self._compiled)[: len(self._compiled) + 1 - SHAPES]:
                del self._compiled[known]
            self._compiled[shape] = self._compile(shape)
        request = self._compiled[shape].create_infer_request()
        # the synchronous call returns the last result, and no error, when it fails
        request.start_async({0: self._openvino.Tensor(batch, shared_memory=True)})
        request.wait()
        result: NDArray[np.float32] = np.array(request.get_output_tensor().data)
        return result

    def _compile(self, shape: tuple[int, ...] | None) -> Any:
        self._model.reshape(_any(self.context) if shape is None else list(shape))
        options: dict[str, Any] = {
            # its own choice would be bfloat16 on CPUs that have it
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        if self._threads is not None:
            options["INFERENCE_NUM_THREADS"] = self._threads
        return self._openvino.Core().compile_model(self._model, "CPU", options)

    def free_memory(self) -> int:
        """Bytes of memory that a run may use now."""
        return free_ram()

    def release(self) -> None:
        """Give the buffers of the last window back; they are as large as its peak."""
        with self._lock:
            self._compiled.clear()

    def _check(self, network: nn.Module) -> None:
        """Compare with PyTorch on another shape than the one that was traced."""
        import torch

        from napari_emseg.models.forward import inner_logits, to_probabilities

        y, x = _legal_shape(self.geometry, 2)
        shape = 1, self.context, y, x
        batch = np.random.default_rng(0).random(shape, dtype=np.float32)
        with torch.inference_mode():
            logits = inner_logits(network, torch.from_numpy(batch))
            wanted = to_probabilities(logits, network)
        # OpenVINO may make numbers of what is NaN by PyTorch
        check_probabilities(wanted.numpy())
        difference = float(np.abs(wanted.numpy() - self(batch)).max())
        if not difference <= SAME:
            msg = f"OpenVINO differs from PyTorch by {difference:.2g} in probabilities"
            raise RuntimeError(msg)


def _any(context: int) -> list[int]:
    """Return the shape of windows `(n, context, y, x)` of any size."""
    return [-1, context, -1, -1]


def _legal_shape(geometry: Geometry, cells: int) -> tuple[int, int]:
    """Return a small window shape that the network can take."""
    shape = (1, 1 + geometry.stride * cells)
    return TilePlan(shape, geometry).window_shape


def import_openvino() -> Any:
    """Import OpenVINO without the package by which it would report its use.

    Every import of OpenVINO goes through here: whoever imports it first decides.
    """
    telemetry = "openvino_telemetry"
    if telemetry in sys.modules or "openvino" in sys.modules:
        import openvino
    else:
        sys.modules[telemetry] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            del sys.modules[telemetry]
    return openvino


@contextmanager
def _unreported() -> Iterator[None]:
    """Report no conversion, even where somebody else imported OpenVINO before."""
    telemetry: Any = sys.modules.get("openvino_telemetry")
    if telemetry is None:
        yield
        return
    from openvino.tools.ovc import telemetry_stub

    reporting, telemetry.Telemetry = telemetry.Telemetry, telemetry_stub.Telemetry
    try:
        yield
    finally:
        telemetry.Telemetry = reporting


def _convert(openvino: Any, network: nn.Module, geometry: Geometry) -> Any:
    """Trace by hand: OpenVINO's own tracing checks itself, which takes four seconds."""
    import torch

    with warnings.catch_warnings(), torch.no_grad(), _unreported():
        # tracing warns of every Python number that it takes as constant: _check is
        # there to find out whether one of them should not have been
        warnings.simplefilter("ignore")
        seen = context_of(network)
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            _with_probabilities(network),
            torch.zeros(1, seen, *_legal_shape(geometry, 0)),
            check_trace=False,
        )
        return openvino.convert_model(traced, input=_any(seen))


def _with_probabilities(network: nn.Module) -> nn.Module:
    """Return a module that ends in probabilities instead of logits."""
    from torch import Tensor, nn

    from napari_emseg.models.forward import inner_logits, to_probabilities

    class Probabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return to_probabilities(inner_logits(self.network, x), self.network)

    return Probabilities().eval()
