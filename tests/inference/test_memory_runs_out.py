from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest
from blur import Blur
from numpy.typing import NDArray

from napari_emseg.core.records import Note, Record, SectionDone, TileDone, drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.inference import Predictor
from napari_emseg.inference.plan import Limits, lowered
from napari_emseg.inference.runtime import is_device_lost, is_out_of_memory
from napari_emseg.inference.sections import Section, SectionReader
from napari_emseg.models.weights import Weights

CUDA = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total")
MESSAGES = [
    CUDA,
    MemoryError(),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 134217728 bytes."
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 B"),
    RuntimeError(
        "Caught exception: Exception from src/plugins/intel_cpu/src/node.cpp:794:\n"
        "Check 'ptr' failed at src/plugins/intel_cpu/src/cpu_memory.cpp:257:\n"
        "Failed to allocate 33554432 bytes of memory"
    ),
    RuntimeError("std::bad_alloc"),
    # oneDNN in PyTorch 2.13.0, with `ulimit -v 950000`
    RuntimeError("could not create a primitive"),
    # OpenVINO 2026.4.1, with `ulimit -v` between 1000000 and 1200000
    RuntimeError(
        "Exception from src/inference/src/cpp/infer_request.cpp:246:\n"
        "Exception from src/bindings/python/src/pyopenvino/core/infer_request.hpp:55:\n"
        "Caught exception: Exception from src/plugins/intel_cpu/src/node.cpp:823:\n"
        "[CPU] Convolution node with name 'Multiply_43642' can't alloc"
    ),
    RuntimeError(
        "Exception from src/inference/src/cpp/core.cpp:117:\n"
        "Exception from src/inference/src/dev/plugin.cpp:54:\n"
        "Resource temporarily unavailable"
    ),
    RuntimeError("can't start new thread"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
OTHERS = [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    RuntimeError("Given groups=1, weight of size [2, 1, 3, 3], expected input to have"),
    OSError(errno.ENOENT, "No such file or directory"),
    ValueError("not enough memory of the past"),
]
LOST = [
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]


def more_than(pixels: int, error: BaseException = CUDA) -> Callable[..., object]:
    return lambda shape: error if np.prod(shape) > pixels else None


@pytest.fixture
def stack() -> Stack:
    values = np.random.default_rng(0).integers(0, 255, (3, 150, 130), dtype=np.uint8)
    return Stack(values, voxel_size_nm=(50, 4.6, 4.6))


@pytest.fixture
def expected(weights: Weights, stack: Stack, blur: Blur) -> NDArray[np.float32]:
    probabilities = drain(Predictor(weights).run(stack)).probabilities
    assert probabilities is not None
    blur.calls.clear()
    return probabilities


CORNER = slice(0, 40), slice(90, 130)


def run(
    weights: Weights,
    stack: Stack,
    settings: PredictSettings | None = None,
    roi: tuple[slice, slice] | None = None,
) -> tuple[list[Record], NDArray[np.float32]]:
    records: list[Record] = []
    work = Predictor(weights).run(stack, settings=settings, roi=roi)
    probabilities = drain(work, records.append).probabilities
    assert probabilities is not None
    return records, probabilities


def notes(records: list[Record]) -> list[str]:
    said = [r.message for r in records if isinstance(r, Note)]
    return [message for message in said if "going on" in message]


def test_tiles_are_halved_and_the_result_is_the_same(
    weights: Weights, stack: Stack, blur: Blur, expected: NDArray[np.float32]
) -> None:
    blur.fails = more_than(64 * 64)
    records, found = run(weights, stack)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    said = notes(records)
    assert len(said) == 2  # 192 → 96 → 48
    assert "out of memory on cpu: going on with tiles of 96 px instead" in said[0]
    failures = [shape for shape in blur.calls if np.prod(shape) > 64 * 64]
    assert len(failures) == 2  # later sections know
    tiles = [r for r in records if isinstance(r, TileDone)]
    assert [t.done for t in tiles] == list(range(1, len(tiles) + 1))
    assert tiles[-1].total == len(tiles)
    assert [r.done for r in records if isinstance(r, SectionDone)] == [1, 2, 3]


def test_finished_tiles_are_kept(
    weights: Weights, stack: Stack, blur: Blur, expected: NDArray[np.float32]
) -> None:
    """Memory runs out once, in the middle of a section."""
    settings = PredictSettings(tile=96)
    calls = blur.calls
    blur.fails = lambda shape: CUDA if len(calls) == 4 else None
    records, found = run(weights, stack, settings)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    computed = np.zeros(stack.shape, int)
    for record in records:
        if isinstance(record, TileDone):
            computed[(record.z, *record.core)] += 1
    assert (computed == 1).all()
    large = [shape for shape in calls if shape[2] > 48]
    assert len(large) == 4  # three that were kept and the one that failed


def test_then_the_batch_is_halved(
    weights: Weights, stack: Stack, blur: Blur, expected: NDArray[np.float32]
) -> None:
    blur.fails = more_than(40 * 40 * 2)
    records, found = run(weights, stack, PredictSettings(tile=32, batch=8), CORNER)
    np.testing.assert_allclose(found, expected[:, *CORNER], atol=1e-6)
    first, second = notes(records)
    assert "tiles of 24 px instead of 32" in first
    assert "going on with 4 at once" in second
    assert max(shape[0] for shape in blur.calls[2:]) == 4


def test_at_last_the_cpu_goes_on(
    weights: Weights,
    stack: Stack,
    expected: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Blur(device="cuda", fails=lambda shape: CUDA)
    cpu = Blur()
    monkeypatch.setattr(
        "napari_emseg.inference.predictor.load_runtime",
        lambda _, settings: cpu if settings.device == "cpu" else gpu,
    )
    records, found = run(weights, stack, roi=CORNER)
    np.testing.assert_allclose(found, expected[:, *CORNER], atol=1e-6)
    assert notes(records)[-1].startswith("out of memory on cuda: going on with blur on")
    assert len(cpu.calls) == 3  # one tile a section again: the CPU has its own memory
    assert gpu.released >= 1


@pytest.mark.parametrize("error", LOST, ids=str)
def test_when_the_gpu_is_lost_the_cpu_goes_on_at_once(
    weights: Weights,
    stack: Stack,
    expected: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
) -> None:
    gpu, cpu = Blur(device="cuda"), Blur()
    gpu.fails = lambda shape: error if len(gpu.calls) > 2 else None
    monkeypatch.setattr(
        "napari_emseg.inference.predictor.load_runtime",
        lambda _, settings: cpu if settings.device == "cpu" else gpu,
    )
    predictor = Predictor(weights)
    records: list[Record] = []
    settings = PredictSettings(tile=64, batch=1)
    work = predictor.run(stack, settings=settings)
    found = drain(work, records.append)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    (said,) = notes(records)
    assert "stopped working on cuda" in said
    assert len(gpu.calls) == 3
    assert (found.runtime, found.device) == ("blur", "cpu")


def test_nothing_left_to_lower_is_an_error_that_says_what_to_do(
    weights: Weights, stack: Stack, blur: Blur
) -> None:
    blur.fails = lambda shape: CUDA
    with pytest.raises(MemoryError, match="close other programs or set a smaller tile"):
        run(weights, stack)


@pytest.mark.parametrize("error", MESSAGES, ids=str)
def test_lack_of_memory_is_known_by_its_words(error: BaseException) -> None:
    assert is_out_of_memory(error)
    assert not is_device_lost(error)


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_lost_device_is_known_by_its_words(error: BaseException) -> None:
    assert is_device_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_torch_takes_over_where_openvino_runs_out_of_memory(
    weights: Weights,
    stack: Stack,
    expected: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("[CPU] Convolution node with name 'a' can't alloc")
    first, last = Blur(fails=lambda shape: error), Blur()
    first.name, last.name = "openvino", "torch"
    monkeypatch.setattr(
        "napari_emseg.inference.predictor.load_runtime",
        lambda _, settings: last if settings.runtime == "torch" else first,
    )
    records, found = run(weights, stack, roi=CORNER)
    np.testing.assert_allclose(found, expected[:, *CORNER], atol=1e-6)
    said = notes(records)
    assert "tiles of" in said[0]
    assert said[-1].startswith("out of memory on cpu (openvino): going on with torch")


def test_a_section_that_finds_no_memory_is_opened_again(
    weights: Weights,
    stack: Stack,
    blur: Blur,
    expected: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_section, tried = SectionReader.open, []

    def opening(self: SectionReader, z: int) -> Section:
        tried.append(z)
        if tried.count(1) == 1 and z == 1:
            raise MemoryError
        return open_section(self, z)

    monkeypatch.setattr(SectionReader, "open", opening)
    _, found = run(weights, stack)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert tried == [0, 1, 1, 2]
    assert blur.released >= 1


def test_torchs_own_error_is_known() -> None:
    torch = pytest.importorskip("torch")
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match"))


def test_limits_go_down_to_an_end() -> None:
    geometry, limits, steps = Geometry(16, 94), Limits(None, 4), []
    side, batch = 3000, 4
    while True:
        lower = lowered(limits, geometry, (side, side // 2), batch)
        if lower is None:
            break
        assert lower.tile is not None
        limits, side, batch = lower, min(side, lower.tile), lower.batch
        steps.append((lower.tile, lower.batch))
    assert steps == [
        (1500, 4),
        (750, 4),
        (375, 4),
        (288, 4),
        (288, 2),
        (288, 1),
    ]
