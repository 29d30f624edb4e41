from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from napari_emseg.core.settings import PredictSettings
from napari_emseg.inference import throughput
from napari_emseg.models.weights import Weights

CPU = PredictSettings(device="cpu", runtime="torch")
MIRRORS = CPU.model_copy(update={"tta": True})


@pytest.fixture
def another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Path]:
    """Forget all but what is on disk, as a new program; return where that is."""
    path = tmp_path / "cache" / "speeds.json"
    monkeypatch.setattr(throughput, "speeds_file", lambda: path)

    def begin() -> Path:
        throughput._MS_PER_MEGAPIXEL.clear()
        throughput._kept_before.cache_clear()
        return path

    begin()
    yield begin
    begin()


def test_the_next_program_knows_the_speed(
    weights: Weights, another_start: Callable[[], Path]
) -> None:
    assert throughput.known(weights, CPU) is None
    throughput.remember(weights, CPU, 50.0)
    another_start()
    assert throughput.known(weights, CPU) == 50
    assert throughput.known(weights, MIRRORS) == 8 * 50
    assert throughput.known(weights, CPU.model_copy(update={"threads": 3})) is None


@pytest.mark.parametrize(
    "content", ["", "[1]", "{", '{"a": -1}', '{"a": NaN}', " " * 200_000]
)
def test_what_is_damaged_counts_for_nothing(
    weights: Weights, another_start: Callable[[], Path], content: str
) -> None:
    path = another_start()
    path.parent.mkdir()
    path.write_text(content)
    assert throughput.known(weights, CPU) is None
    throughput.remember(weights, CPU, 50.0)
    another_start()
    assert throughput.known(weights, CPU) == 50


def test_the_file_is_small_and_seldom_written(
    weights: Weights,
    another_start: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = another_start()
    monkeypatch.setattr(throughput, "MOST", 2)
    for threads in (1, 2, 3):
        throughput.remember(weights, CPU.model_copy(update={"threads": threads}), 50.0)
    before = path.stat().st_mtime_ns, path.read_text()
    throughput.remember(weights, CPU.model_copy(update={"threads": 3}), 51.0)
    assert (path.stat().st_mtime_ns, path.read_text()) == before
    throughput.remember(weights, CPU.model_copy(update={"threads": 3}), 90.0)
    assert list(json.loads(path.read_text()).values()) == [50, 90]


def test_where_nothing_can_be_written_nothing_is_kept(
    weights: Weights, another_start: Callable[[], Path]
) -> None:
    path = another_start()
    path.parent.write_text("a file in place of the folder")
    throughput.remember(weights, CPU, 50.0)
    assert throughput.known(weights, CPU) == 50
    another_start()
    assert throughput.known(weights, CPU) is None
