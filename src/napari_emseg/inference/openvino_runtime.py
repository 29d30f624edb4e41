"""OpenVINO as a runtime: about twice as fast as PyTorch on a CPU, the same numbers.

Faster still in bf16, where the CPU has it, or int8, with other numbers. For int8 the
network is quantised by NNCF in a process of its own: it can be ended at any time, keeps
to the threads it is given, prints nowhere, and gives its memory back.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from napari_emseg.core.errors import OtherPrecisionError
from napari_emseg.core.memory import free_ram
from napari_emseg.core.paths import read_bounded
from napari_emseg.core.records import Progress, Record
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


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """What OpenVINO says of the CPU, and which OpenVINO."""

    name: str
    capabilities: tuple[str, ...]
    version: str


@cache
def cpu_facts() -> CpuFacts:
    """Ask OpenVINO for what this CPU computes in."""
    openvino = import_openvino()
    core = openvino.Core()
    return CpuFacts(
        str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip(),
        tuple(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        str(openvino.get_version()),
    )


def cpu_is_known() -> bool:
    """Tell if `cpu_facts` answers at once; else it loads OpenVINO, for seconds."""
    return bool(cpu_facts.cache_info().currsize)


@dataclass(frozen=True, slots=True)
class QuantisedModel:
    """A network for int8, as OpenVINO writes it."""

    xml: bytes
    values: bytes

    def pack(self) -> bytes:
        """Return it as the bytes of one file, which begins with their checksum."""
        rest = len(self.xml).to_bytes(8, "big") + self.xml + self.values
        return sha256(rest).digest() + rest

    @classmethod
    def unpack(cls, packed: bytes) -> QuantisedModel:
        """Take what `pack` has returned.

        Raises
        ------
        ValueError
            If that isn't what it was.
        """
        digest, rest = packed[:32], packed[32:]
        end = 8 + int.from_bytes(rest[:8], "big")
        if sha256(rest).digest() != digest or not 8 < end <= len(rest):
            msg = "the quantised network is damaged"
            raise ValueError(msg)
        return cls(rest[8:end], rest[end:])

    @property
    def sha256(self) -> str:
        """Checksum, by which it is known."""
        return self.pack()[:32].hex()


class _Facts(BaseModel):
    """What a packed model begins with."""

    context: int = Field(ge=1)
    geometry: Geometry
    bytes_per_pixel: float = Field(gt=0)
    expected: tuple[int, int, int, int]
    xml: int = Field(gt=0)
    values: int = Field(gt=0)


@dataclass(frozen=True, slots=True, eq=False)
class ConvertedModel:
    """A network in float32 as OpenVINO writes it, and what else a run asks of it.

    Parameters
    ----------
    context, geometry, bytes_per_pixel
        As of the network.
    expected
        What PyTorch gives for the random window that every model is checked by.
    """

    context: int
    geometry: Geometry
    bytes_per_pixel: float
    xml: bytes
    values: bytes
    expected: NDArray[np.float32]

    def pack(self) -> bytes:
        """Return it as the bytes of one file."""
        n, c, y, x = self.expected.shape
        facts = _Facts(
            context=self.context,
            geometry=self.geometry,
            bytes_per_pixel=self.bytes_per_pixel,
            expected=(n, c, y, x),
            xml=len(self.xml),
            values=len(self.values),
        )
        head = facts.model_dump_json().encode()
        rest = self.expected.astype("<f4").tobytes()
        size = len(head).to_bytes(8, "big")
        return b"".join((size, head, self.xml, self.values, rest))

    @classmethod
    def unpack(cls, packed: bytes) -> ConvertedModel:
        """Take what `pack` has returned.

        Raises
        ------
        ValueError
            If it is something else.
        """
        start = 8 + int.from_bytes(packed[:8], "big")
        facts = _Facts.model_validate_json(packed[8:start])
        middle = start + facts.xml
        end = middle + facts.values
        expected = np.frombuffer(packed[end:], "<f4").reshape(facts.expected)
        return cls(
            facts.context,
            facts.geometry,
            facts.bytes_per_pixel,
            packed[start:middle],
            packed[middle:end],
            expected.astype(np.float32),
        )


class OpenVinoRuntime:
    """Runs a network by OpenVINO on the CPU, windows of any shape.

    Parameters
    ----------
    network
        As PyTorch has it, or as it was converted before.
    precision
        float32, bf16 or int8.
    quantised
        The same network for int8.

    Raises
    ------
    ImportError
        If OpenVINO isn't installed.
    RuntimeError
        If it can't run this network, or gives other numbers than PyTorch.
    OtherPrecisionError
        If the CPU has no bf16, or the network wasn't quantised for int8.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        network: nn.Module | ConvertedModel,
        *,
        threads: int | None = None,
        notes: tuple[str, ...] = (),
        precision: str = "float32",
        quantised: QuantisedModel | None = None,
    ) -> None:
        self.notes = notes
        self.precision = "float32"
        kind = cast("Network | ConvertedModel", network)
        known = network if isinstance(network, ConvertedModel) else None
        self.context: int = known.context if known else context_of(network)
        self.geometry = kind.geometry
        self.bytes_per_pixel = kind.bytes_per_pixel
        self._lock = Lock()
        self._openvino = import_openvino()
        self._threads = threads
        # the oldest first to go
        self._compiled: dict[tuple[int, ...] | None, Any] = {}
        require_precision(precision, quantised)
        if known or quantised:
            stored = quantised or cast("ConvertedModel", known)
            self._model = self._openvino.Core().read_model(
                model=stored.xml, weights=stored.values
            )
        else:
            module = cast("nn.Module", network)
            self._model = _convert(self._openvino, module, self.geometry)
        self._expected: NDArray[np.float32] | None = None
        if quantised is None:
            # a trace fixes what Python computed from the shape; another shape would
            # show it
            self._expected = known.expected if known else self._by_torch(module)
            self._check(self._expected)
        if precision != "float32":
            self.precision = precision
            self._compiled.clear()
            check_probabilities(self(self._random_window()))

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
        # than if windows may have any shape, and compiling takes as long. In int8 each
        # shape rounds in its own way, so that tiles would show: by 0.01 at most.
        fixed = batch[:, 0].size > LARGE and self.precision == "float32"
        shape = batch.shape if fixed else None
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
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
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

    def _random_window(self) -> NDArray[np.float32]:
        shape = 1, self.context, *_legal_shape(self.geometry, 2)
        return np.random.default_rng(0).random(shape, dtype=np.float32)

    def converted(self) -> ConvertedModel:
        """Return the network as it is after it was checked, in float32.

        Raises
        ------
        RuntimeError
            If it is in another precision, or was run.
        """
        if self._expected is None or self._compiled.keys() - {None}:
            msg = "only a float32 network that hasn't run yet can be kept"
            raise RuntimeError(msg)
        with tempfile.TemporaryDirectory(prefix="emseg-model-") as name:
            path = Path(name) / GIVEN
            self._openvino.save_model(self._model, path, compress_to_fp16=False)
            values = read_bounded(path.with_suffix(".bin"), MOST_BYTES)
            xml = read_bounded(path, MOST_BYTES)
        return ConvertedModel(
            self.context,
            self.geometry,
            self.bytes_per_pixel,
            xml,
            values,
            self._expected,
        )

    def _by_torch(self, network: nn.Module) -> NDArray[np.float32]:
        """Return what PyTorch gives, on another shape than the one that was traced."""
        import torch

        from napari_emseg.models.forward import inner_logits, to_probabilities

        with torch.inference_mode():
            logits = inner_logits(network, torch.from_numpy(self._random_window()))
            wanted = to_probabilities(logits, network).numpy()
        # OpenVINO may make numbers of what is NaN by PyTorch
        check_probabilities(wanted)
        return np.asarray(wanted, np.float32)

    def _check(self, wanted: NDArray[np.float32]) -> None:
        """Compare with PyTorch's probabilities of the random window."""
        difference = float(np.abs(wanted - self(self._random_window())).max())
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


def require_precision(precision: str, quantised: QuantisedModel | None) -> None:
    """Refuse what can't be computed in.

    OpenVINO would compute in float32 then, and not say so.
    """
    if precision == "bf16" and "BF16" not in cpu_facts().capabilities:
        cpu = cpu_facts()
        has = ", ".join(cpu.capabilities)
        msg = f"this CPU has no bf16 instructions ({cpu.name}: {has})"
        raise OtherPrecisionError(msg)
    if precision == "int8" and quantised is None:
        msg = "int8 needs a network that was calibrated on the stack"
        raise OtherPrecisionError(msg)


def require_nncf() -> None:
    """Refuse int8 where nothing quantises."""
    if find_spec("nncf") is None:
        msg = 'int8 needs NNCF (pip install "napari-emseg[nncf]")'
        raise OtherPrecisionError(msg)


def package_version(name: str) -> str:
    """Return the version of an installed package; empty if it isn't there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


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

    from napari_emseg.models.forward import in_range, inner_logits, to_probabilities

    class Probabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = in_range(network)

        def forward(self, x: Tensor) -> Tensor:
            return to_probabilities(inner_logits(self.network, x), self.network)

    return Probabilities().eval()


def iter_quantise(
    network: nn.Module,
    windows: Sequence[NDArray[np.float32]],
    *,
    threads: int | None = None,
) -> Generator[Record, None, QuantisedModel]:
    """Quantise a network for int8, by what it computes of some windows.

    Closing the generator ends it at once. Takes about as long as 15 passes over the
    windows, and some seconds.

    Parameters
    ----------
    windows
        Batches as runtimes get them.

    Raises
    ------
    OtherPrecisionError
        If NNCF isn't installed, or can't do it.
    """
    require_nncf()
    openvino = import_openvino()
    model = _convert(openvino, network, cast("Network", network).geometry)
    with tempfile.TemporaryDirectory(prefix="emseg-int8-") as name:
        folder = Path(name)
        openvino.save_model(model, folder / GIVEN, compress_to_fp16=False)
        for k, window in enumerate(windows):
            np.save(folder / f"{k}.npy", window, allow_pickle=False)
        yield from _child(folder, threads)
        made = folder / MADE
        return QuantisedModel(
            read_bounded(made, MOST_BYTES),
            read_bounded(made.with_suffix(".bin"), MOST_BYTES),
        )


GIVEN, MADE = "float32.xml", "int8.xml"
MOST_BYTES = 2**31
"""Of a quantised network; one takes as many bytes as it has parameters, and a bit."""

LEAST_WEIGHT = 8e-4
"""Of a layer's largest, ten times the least range that NNCF takes: then only filters
that hardly count are made coarser by it."""

WEIGHTED = (
    *("Convolution", "ConvolutionBackpropData", "MatMul"),
    *("GroupConvolution", "GroupConvolutionBackpropData"),
)
"""Operations of OpenVINO that have weights as their second input."""

TICK = 0.1
"""Seconds after which it is looked whether the process has ended."""

CHILD = (
    "import sys; from napari_emseg.inference.openvino_runtime import quantise_files; "
    "quantise_files(sys.argv[1], int(sys.argv[2]))"
)


def _child(folder: Path, threads: int | None) -> Generator[Record, None, None]:
    """Run `quantise_files` in a process of its own.

    Raises
    ------
    OtherPrecisionError
        If it fails, with what it said last.
    """
    # -P: nothing is imported from the folder that happens to be the current one
    command = [sys.executable, "-P", "-W", "ignore", "-c", CHILD]
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with (folder / "words.txt").open("w+b") as words:
        process = subprocess.Popen(
            [*command, str(folder), str(threads or 0)],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            env=os.environ | limit,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        try:
            while True:
                try:
                    code = process.wait(TICK)
                    break
                except subprocess.TimeoutExpired:
                    yield Progress("calibrating int8", 0, 0)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code:
            words.seek(0)
            last = words.read().decode(errors="replace").strip().split("\n")[-1]
            msg = f"the network can't be quantised for int8: {last or code}"
            raise OtherPrecisionError(msg)


def quantise_files(name: str, threads: int) -> None:
    """Quantise the model in a folder by the windows there; runs in its own process.

    Parameters
    ----------
    threads
        CPU threads, 0 for all.
    """
    folder = Path(name)
    openvino = import_openvino()
    telemetry = "openvino_telemetry"
    # NNCF reports nothing where this package can't be imported
    sys.modules[telemetry] = None  # type: ignore[assignment]
    import nncf

    if threads:
        openvino.Core = _limited(openvino.Core, threads)  # as NNCF calls it
    count = len(list(folder.glob("*.npy")))
    windows = [np.load(folder / f"{k}.npy", allow_pickle=False) for k in range(count)]
    model = openvino.Core().read_model(folder / GIVEN)
    made = nncf.quantize(
        model,
        nncf.Dataset(windows),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=count,
        ignored_scope=nncf.IgnoredScope(names=small_layers(model)),
    )
    openvino.save_model(made, folder / MADE, compress_to_fp16=False)


def small_layers(model: Any) -> list[str]:
    """Return the names of layers whose weights are too small for NNCF, in float32.

    It takes a filter's range as 8e-5 at least, so that smaller weights all become 0. A
    layer that sees values of 1e8, since nothing normalises before it, has weights of
    1e-8 once its own normalisation is folded into them.
    """
    found = []
    for layer in model.get_ordered_ops():
        if layer.get_type_name() not in WEIGHTED:
            continue
        weights = layer.input_value(1).get_node()
        if weights.get_type_name() != "Constant":
            continue
        if float(np.abs(weights.data).max(initial=0)) < LEAST_WEIGHT:
            found.append(str(layer.get_friendly_name()))
    return found


def _limited(core: Any, threads: int) -> Any:
    """Return OpenVINO's core as one that compiles for so many threads."""

    class Limited(core):  # type: ignore[misc]
        def compile_model(self, *args: Any, config: Any = None, **more: Any) -> Any:
            config = (config or {}) | {"INFERENCE_NUM_THREADS": threads}
            return super().compile_model(*args, config=config, **more)

    return Limited
