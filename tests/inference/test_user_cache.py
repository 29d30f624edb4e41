"""Networks that were converted are kept, and used only as they were written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from thin import thin_weights

from napari_emseg.core.settings import PredictSettings
from napari_emseg.inference import openvino_runtime, user_cache
from napari_emseg.inference.runtime import Runtime, load_runtime
from napari_emseg.models.weights import Weights

pytestmark = pytest.mark.skipif(
    find_spec("openvino") is None, reason="OpenVINO isn't there"
)

CPU = PredictSettings(device="cpu", threads=1)
WINDOW = np.random.default_rng(3).random((1, 1, 96, 64), dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where entries are kept."""
    found = tmp_path / "cache"
    monkeypatch.setattr(user_cache, "cache_folder", lambda: found)
    return found


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often a network is traced."""
    counted: list[int] = []
    convert = openvino_runtime._convert

    def counting(*given: object) -> object:
        counted.append(1)
        return convert(*given)

    monkeypatch.setattr(openvino_runtime, "_convert", counting)
    return counted


def test_a_second_run_traces_and_builds_nothing(
    weights: Weights,
    folder: Path,
    conversions: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = load_runtime(weights, CPU)
    expected = first(WINDOW)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(Weights, "network", lambda _: pytest.fail("built"))
    again = load_runtime(weights, CPU)
    assert (again.name, len(conversions)) == ("openvino", 1)
    facts = ("context", "geometry", "bytes_per_pixel", "precision", "notes")
    for name in facts:
        assert getattr(again, name) == getattr(first, name)
    np.testing.assert_array_equal(again(WINDOW), expected)


def flip(entry: bytes) -> bytes:
    return entry[:-1] + bytes([entry[-1] ^ 1])


@pytest.mark.parametrize("harm", [flip, lambda entry: entry[:40]])
def test_entries_that_are_damaged_are_made_anew(
    weights: Weights,
    folder: Path,
    conversions: list[int],
    harm: Callable[[bytes], bytes],
) -> None:
    expected = load_runtime(weights, CPU)(WINDOW)
    (entry,) = folder.iterdir()
    entry.write_bytes(harm(entry.read_bytes()))
    np.testing.assert_array_equal(load_runtime(weights, CPU)(WINDOW), expected)
    assert len(conversions) == 2
    load_runtime(weights, CPU)
    assert len(conversions) == 2


def test_a_whole_entry_of_something_else_is_made_anew(
    weights: Weights, folder: Path, conversions: list[int]
) -> None:
    key = user_cache._key(weights)
    assert key is not None
    facts = '{"context":1,"geometry":{"stride":4,"context":1},"bytes_per_pixel":1,'
    facts += '"expected":[1,1,1,1],"xml":4,"values":4}'
    model = len(facts).to_bytes(8, "big") + facts.encode() + b"<x/>1234" + bytes(4)
    for content in (b"\xff" * 64, model):
        user_cache.write_entry(key, content)
        conversions.clear()
        assert load_runtime(weights, CPU).name == "openvino"
        assert len(conversions) == 1


def test_one_that_gives_other_numbers_here_is_made_anew(
    weights: Weights, folder: Path, conversions: list[int]
) -> None:
    load_runtime(weights, CPU)
    known = user_cache.read_model(weights)
    key = user_cache._key(weights)
    assert known is not None
    assert key is not None
    known.expected[:] = 1 - known.expected
    user_cache.write_entry(key, known.pack())
    assert load_runtime(weights, CPU).name == "openvino"
    assert len(conversions) == 2


def test_networks_of_other_packages_are_not_kept(tmp_path: Path, folder: Path) -> None:
    def load() -> Runtime:
        return load_runtime(thin_weights(tmp_path), CPU)

    assert load().name == "openvino"
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_to_is_none(
    weights: Weights, folder: Path, conversions: list[int]
) -> None:
    folder.write_text("a file where the folder should be")
    for _ in range(2):
        assert load_runtime(weights, CPU).name == "openvino"
    assert len(conversions) == 2


@pytest.mark.slow
def test_another_process_loads_no_pytorch(weights: Weights, folder: Path) -> None:
    load_runtime(weights, CPU)
    code = f"""
import sys
from pathlib import Path
import numpy as np
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.records import drain
from napari_emseg.inference import predict_stack, user_cache
from napari_emseg.models.weights import read_weights
user_cache.cache_folder = lambda: Path({str(folder)!r})
stack = Stack(np.random.default_rng(0).integers(0, 255, (1, 80, 80), np.uint8))
weights = read_weights(Path({str(weights.path)!r}))
settings = PredictSettings(device="cpu", threads=1)
found = drain(predict_stack(stack, weights, settings=settings))
assert found.runtime == "openvino"
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
