from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_emseg.core.records import drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.inference import Predictor, openvino_runtime, torch_runtime
from napari_emseg.inference import runtime as runtimes
from napari_emseg.inference.runtime import load_runtime
from napari_emseg.inference.torch_runtime import TorchRuntime, choose_device
from napari_emseg.models.weights import Weights

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="OpenVINO is not installed"
)
CPU = torch.device("cpu")


class OnePixel(nn.Module):
    """Two logits, ± the grey value times a factor."""

    activation = "softmax"
    geometry = Geometry(1, 0)
    bytes_per_pixel = 12.0

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 1, bias=False)
        self.convolution.weight.data[:, 0, 0, 0] = torch.tensor([factor, -factor])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.convolution(x)
        return out


@pytest.fixture
def batch() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((2, 1, 24, 32), dtype=np.float32)


class TestDevice:
    @pytest.mark.parametrize(
        ("cuda", "mps", "wanted", "chosen"),
        [
            (True, False, "auto", "cuda"),
            (False, True, "auto", "mps"),
            (False, False, "auto", "cpu"),
            (True, True, "cpu", "cpu"),
            (True, True, "mps", "mps"),
        ],
    )
    def test_is_the_one_asked_for_or_the_fastest(
        self,
        monkeypatch: pytest.MonkeyPatch,
        cuda: bool,
        mps: bool,
        wanted: str,
        chosen: str,
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        assert choose_device(wanted).type == chosen

    def test_that_is_not_there_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ValueError, match=r"no device 'cuda' .* there is: .*cpu"):
            choose_device("cuda")


class TestChoice:
    """Which runtime the settings give."""

    @needs_openvino
    def test_auto_is_openvino_on_a_cpu(self, weights: Weights) -> None:
        assert load_runtime(weights, PredictSettings(device="cpu")).name == "openvino"

    def test_auto_is_torch_without_openvino(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "napari_emseg.inference.runtime.find_spec", lambda name: None
        )
        made = load_runtime(weights, PredictSettings(device="cpu"))
        assert (made.name, made.notes) == ("torch", ())

    def test_auto_is_torch_if_openvino_fails_and_says_so(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken(monkeypatch)
        made = load_runtime(weights, PredictSettings(device="cpu"))
        assert made.name == "torch"
        assert made.notes == (
            "running on PyTorch, since OpenVINO failed: unknown operation",
        )
        stack = Stack(np.arange(400, dtype=np.uint16).reshape(1, 20, 20))
        assert drain(Predictor(weights).run(stack)).notes[-1] == made.notes[0]

    def test_openvino_that_fails_is_an_error_if_asked_for(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken(monkeypatch)
        with pytest.raises(ValueError, match="can't run tiny: unknown operation"):
            load_runtime(weights, PredictSettings(runtime="openvino"))

    def test_openvino_runs_on_no_gpu(self, weights: Weights) -> None:
        with pytest.raises(ValueError, match="not on 'cuda'"):
            load_runtime(weights, PredictSettings(runtime="openvino", device="cuda"))

    def test_a_gpu_without_memory_for_the_network_is_left_at_once(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = TorchRuntime

        def full(network: nn.Module, device: torch.device, **rest: Any) -> TorchRuntime:
            if device.type == "cuda":
                msg = "CUDA out of memory. Tried to allocate 20.00 MiB."
                raise torch.OutOfMemoryError(msg)
            return made(network, device, **rest)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch_runtime, "TorchRuntime", full)
        runtime = load_runtime(weights, PredictSettings(runtime="torch"))
        assert runtime.device == "cpu"
        assert (
            "running on the CPU, since cuda failed: out of memory" in runtime.notes[0]
        )

    @pytest.mark.parametrize(
        ("off", "device", "why"),
        [
            (0.0005, "mps", ""),
            (0.01, "cpu", "its probabilities differ from the CPU's by 0.01"),
            (np.nan, "cpu", "its probabilities differ from the CPU's by nan"),
            (None, "cpu", "'aten::pool' is not implemented for the MPS device"),
        ],
    )
    def test_apples_gpu_is_used_where_it_gives_the_cpus_numbers(
        self,
        weights: Weights,
        monkeypatch: pytest.MonkeyPatch,
        off: float | None,
        device: str,
        why: str,
    ) -> None:
        class Apple(TorchRuntime):
            def __init__(self, network: nn.Module, device: torch.device, **rest: Any):
                super().__init__(network, CPU, **rest)
                self.device = str(device)

            def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
                found = super().__call__(batch)
                if self.device != "mps":
                    return found
                if off is None:
                    msg = f"The operator {why}."
                    raise NotImplementedError(msg)
                return found + np.float32(off)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        monkeypatch.setattr(torch_runtime, "TorchRuntime", Apple)
        runtime = load_runtime(weights, PredictSettings(runtime="torch"))
        assert runtime.device == device
        (note,) = runtime.notes or ("",)
        assert why in note
        assert note.startswith("running on the CPU, since mps failed: " if why else "")


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        msg = "unknown operation\nand a long trace"
        raise RuntimeError(msg)

    monkeypatch.setattr(openvino_runtime, "OpenVinoRuntime", fail)
    monkeypatch.setattr(
        "napari_emseg.inference.runtime.find_spec", lambda name: object()
    )


class TestTorch:
    def test_gives_probabilities_by_the_networks_own_end(
        self, batch: NDArray[np.float32]
    ) -> None:
        network = OnePixel(3)
        found = TorchRuntime(network, CPU)(batch)
        np.testing.assert_allclose(
            found[:, 0], 1 / (1 + np.exp(-6 * batch[:, 0])), 1e-5
        )
        network.activation = "sigmoid"  # type: ignore[misc]
        found = TorchRuntime(network, CPU)(batch)
        np.testing.assert_allclose(
            found[:, 0], 1 / (1 + np.exp(-3 * batch[:, 0])), 1e-5
        )

    def test_leaves_no_inference_mode_and_no_thread_count_behind(
        self, batch: NDArray[np.float32]
    ) -> None:
        before = torch.get_num_threads()
        seen = []
        network = OnePixel()
        network.register_forward_pre_hook(
            lambda *_: seen.append((torch.get_num_threads(), torch.is_grad_enabled()))
        )
        TorchRuntime(network, CPU, threads=before + 1)(batch)
        assert seen == [(before + 1, False)]
        assert torch.get_num_threads() == before
        assert not torch.is_inference_mode_enabled()

    def test_goes_on_without_onednn_where_that_finds_no_memory(
        self, batch: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = TorchRuntime(OnePixel(), CPU)(batch)
        real = TorchRuntime._logits

        def logits(self: TorchRuntime, values: Tensor) -> Tensor:
            if torch.backends.mkldnn.enabled:
                msg = "could not create a primitive"
                raise RuntimeError(msg)
            return real(self, values)

        monkeypatch.setattr(TorchRuntime, "_logits", logits)
        found = TorchRuntime(OnePixel(), CPU)(batch)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert torch.backends.mkldnn.enabled

    @pytest.mark.parametrize(("factor", "half"), [(1.0, True), (1e6, False)])
    def test_half_precision_that_overflows_is_left(
        self,
        batch: NDArray[np.float32],
        monkeypatch: pytest.MonkeyPatch,
        factor: float,
        half: bool,
    ) -> None:
        autocast = torch.autocast
        monkeypatch.setattr(
            torch_runtime.torch, "autocast", lambda _, dtype: autocast("cpu", dtype)
        )
        runtime = TorchRuntime(OnePixel(factor), CPU)
        runtime._half = True  # as on CUDA
        found = runtime(batch)
        expected = TorchRuntime(OnePixel(factor), CPU)(batch)
        np.testing.assert_allclose(found, expected, atol=1e-2)
        assert runtime._half is half
        assert found.dtype == np.float32


@needs_openvino
class TestOpenVino:
    def test_gives_torchs_numbers_for_any_shape_and_batch(
        self, make_weights: Callable[..., Weights]
    ) -> None:
        network = make_weights({"base": 8, "levels": 3}).network()
        ours = openvino_runtime.OpenVinoRuntime(network, threads=1)
        reference = TorchRuntime(network, CPU, threads=1)
        rng = np.random.default_rng(0)
        for shape in ((1, 1, 104, 104), (2, 1, 120, 104), (1, 1, 104, 128)):
            batch = rng.random(shape, dtype=np.float32)
            np.testing.assert_allclose(ours(batch), reference(batch), atol=1e-5)

    def test_respects_the_number_of_threads(self, weights: Weights) -> None:
        runtime = openvino_runtime.OpenVinoRuntime(weights.network(), threads=1)
        (compiled,) = runtime._compiled.values()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1

    def test_large_windows_give_the_same_numbers_by_networks_of_their_shape(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runtime = openvino_runtime.OpenVinoRuntime(weights.network(), threads=1)
        rng = np.random.default_rng(0)
        shapes = ((1, 1, 64, 96), (1, 1, 96, 64), (1, 1, 64, 64), (2, 1, 64, 96))
        windows = [rng.random(shape, dtype=np.float32) for shape in shapes]
        expected = [runtime(window) for window in windows]
        assert list(runtime._compiled) == [None]
        monkeypatch.setattr(openvino_runtime, "LARGE", 64 * 64)
        for window, values in zip(windows, expected, strict=True):
            np.testing.assert_array_equal(runtime(window), values)
        # the windows of 64² are small again, and memory is kept for two at most
        assert list(runtime._compiled) == [None, (2, 1, 64, 96)]

    def test_goes_on_after_a_failure(self, weights: Weights) -> None:
        runtime = openvino_runtime.OpenVinoRuntime(weights.network(), threads=1)
        batch = np.random.default_rng(0).random((1, 1, 64, 64), dtype=np.float32)
        expected = runtime(batch)
        with pytest.raises(RuntimeError, match="shape"):
            runtime(np.zeros((1, 2, 64, 64), np.float32))
        np.testing.assert_array_equal(runtime(batch), expected)
        runtime.release()
        np.testing.assert_array_equal(runtime(batch), expected)

    def test_that_gives_other_numbers_is_not_used(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        infer = openvino_runtime.OpenVinoRuntime._infer
        monkeypatch.setattr(
            openvino_runtime.OpenVinoRuntime,
            "_infer",
            lambda self, batch: infer(self, batch) * np.float32(0.99),
        )
        with pytest.raises(RuntimeError, match=r"differs from PyTorch by 0\.0"):
            openvino_runtime.OpenVinoRuntime(weights.network())
        assert load_runtime(weights, PredictSettings(device="cpu")).name == "torch"

    @pytest.mark.parametrize("runtime", ["auto", "openvino"])
    def test_is_not_begun_with_where_memory_is_short(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch, runtime: str
    ) -> None:
        """It would take what PyTorch needs, and fail."""
        monkeypatch.setattr(runtimes, "free_ram", lambda: 400_000_000)
        found = load_runtime(weights, PredictSettings(device="cpu", runtime=runtime))
        assert found.name == "torch"
        assert found.notes == (
            "running on PyTorch, since OpenVINO needs 1.0 GB of memory, and 0.4 GB are "
            "free",
        )

    def test_reports_its_use_to_nobody(self, weights: Weights) -> None:
        script = f"""
import sys
from pathlib import Path
from napari_emseg.core.settings import PredictSettings
from napari_emseg.inference.runtime import load_runtime
from napari_emseg.models.weights import read_weights
weights = read_weights(Path({str(weights.path)!r}))
assert load_runtime(weights, PredictSettings(device="cpu")).name == "openvino"
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""
        subprocess.run([sys.executable, "-c", script], check=True)

    def test_reports_nothing_where_others_imported_it_first(
        self, weights: Weights
    ) -> None:
        script = f"""
from pathlib import Path
import openvino, openvino_telemetry
from napari_emseg.inference.openvino_runtime import OpenVinoRuntime
from napari_emseg.models.weights import read_weights
events = []
telemetry = openvino_telemetry.Telemetry
telemetry.send_event = lambda _, *event: events.append(event)
OpenVinoRuntime(read_weights(Path({str(weights.path)!r})).network())
assert not events, events
assert openvino_telemetry.Telemetry is telemetry
"""
        subprocess.run([sys.executable, "-c", script], check=True)


LITTLE_MEMORY = """
import resource, sys, numpy as np, psutil
from pathlib import Path
from napari_emseg.core.records import Note, drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import Predictor
from napari_emseg.models.weights import read_weights

stack = Stack(np.random.default_rng(0).integers(0, 255, (1, 2300, 2300), np.uint8))
settings = PredictSettings(
    tile=4096, runtime=sys.argv[1], device="cpu", threads=1, rescale=False
)
predictor = Predictor(read_weights(Path(sys.argv[2])))
small = {"sections": [0], "roi": (slice(0, 64), slice(0, 64))}
drain(predictor.run(stack, settings=settings, **small))
held = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (held + 500 * 2**20,) * 2)
result = drain(predictor.run(stack, settings=settings))
assert any("going on with tiles of" in note for note in result.notes), result.notes
expected = drain(predictor.run(stack, settings=settings, **small)).probabilities
assert np.abs(result.probabilities[:, :64, :64] - expected).max() < 1e-5
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of address space")
@pytest.mark.parametrize(
    "name", ["torch", pytest.param("openvino", marks=needs_openvino)]
)
def test_real_lack_of_memory(make_weights: Callable[..., Weights], name: str) -> None:
    path = make_weights({"base": 8, "levels": 4}).path
    subprocess.run([sys.executable, "-c", LITTLE_MEMORY, name, str(path)], check=True)


@pytest.mark.gpu
class TestCuda:
    def test_half_precision_changes_little(
        self, make_weights: Callable[..., Weights]
    ) -> None:
        network = make_weights({"base": 16, "levels": 4}).network()
        batch = np.random.default_rng(0).random((4, 1, 256, 256), dtype=np.float32)
        expected = TorchRuntime(network, CPU)(batch)
        for half, most in ((True, 1e-2), (False, 1e-3)):
            found = TorchRuntime(network, torch.device("cuda"), half=half)(batch)
            np.testing.assert_allclose(found, expected, atol=most)

    def test_real_lack_of_memory(self, make_weights: Callable[..., Weights]) -> None:
        weights = make_weights({"base": 16, "levels": 4})
        values = np.random.default_rng(0).integers(0, 255, (2, 3000, 3000), np.uint8)
        expected = drain(
            Predictor(weights).run(
                Stack(values), settings=PredictSettings(precision="float32")
            )
        )
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1, 8e8 / total))
        try:
            settings = PredictSettings(tile=4096, precision="float32")
            found = drain(Predictor(weights).run(Stack(values), settings=settings))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert any("going on with tiles" in note for note in found.notes)
        assert expected.probabilities is not None
        np.testing.assert_allclose(
            found.probabilities, expected.probabilities, atol=1e-3
        )
