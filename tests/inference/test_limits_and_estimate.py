from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from blur import Blur

from napari_emseg.core.card import Card
from napari_emseg.core.records import TileDone, drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.inference import Predictor, RunEstimate, estimate, throughput
from napari_emseg.inference.plan import CPU_SIDE, Limits, choose_limits
from napari_emseg.inference.scope import scope_of
from napari_emseg.models.weights import Weights

CARD = Card(name="tiny", architecture="unet", pixel_size_nm=(4, 4))
UNET = Geometry(16, 94)
GB = 10**9


def limits(shape: tuple[int, ...], free: int, *, gpu: bool, **settings: Any) -> Limits:
    stack = Stack(np.broadcast_to(np.uint8(0), (50, *shape)))
    wanted = PredictSettings(**settings)
    scope = scope_of(stack, CARD, wanted)
    return choose_limits(scope, UNET, wanted, bytes_per_pixel=392, free=free, gpu=gpu)


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("side", [16, 512, 1024, 1300])
def test_a_section_that_fits_is_one_tile(side: int, gpu: bool) -> None:
    assert limits((side, side), 8 * GB, gpu=gpu).tile is None


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("gigabytes", [0.1, 0.5, 2, 8])
def test_windows_take_at_most_half_of_what_is_free(gigabytes: float, gpu: bool) -> None:
    free = int(gigabytes * GB)
    made = limits((6000, 5000), free, gpu=gpu)
    assert made.tile is not None
    assert made.batch * made.tile**2 * 392 <= free / 2
    assert made.tile > 224


def test_hardly_any_memory_still_gives_the_smallest_tile() -> None:
    assert limits((6000, 5000), 10**6, gpu=False) == Limits(224, 1)


def test_a_cpu_gets_no_window_that_delays_cancel() -> None:
    """A core works for as long on each, as far as larger ones are worth it."""
    for threads, side in ((1, CPU_SIDE), (2, 2172), (3, 2304), (64, 2304)):
        made = limits((6000, 5000), 100 * GB, gpu=False, threads=threads)
        assert made == Limits(side, 1)
    assert limits((6000, 5000), 100 * GB, gpu=True).tile is None


def test_small_sections_go_to_a_gpu_together() -> None:
    assert limits((512, 512), 8 * GB, gpu=True).batch == 8
    assert limits((512, 512), 8 * GB, gpu=False).batch == 1


def test_settings_win() -> None:
    assert limits((999, 999), 8 * GB, gpu=True, tile=300, batch=2) == Limits(300, 2)
    with pytest.raises(ValueError, match="at least 224"):
        limits((999, 999), 8 * GB, gpu=True, tile=100)


@pytest.mark.usefixtures("blur")
def test_estimate_counts_what_the_run_does(weights: Weights) -> None:
    stack = Stack(np.zeros((4, 300, 200), np.uint16), voxel_size_nm=(50, 4.6, 4.6))
    stack.data[:] = np.arange(200)  # type: ignore[index]
    settings = PredictSettings(tile=120)
    options: dict[str, Any] = {
        "settings": settings,
        "sections": [1, 3],
        "roi": (slice(0, 250), slice(10, 200)),
    }
    before = estimate(stack, weights, **options)
    assert before.sections == 2
    assert before.notes == ("rescaled 4.6 → 4 nm/px (1.15×)",)
    # the network's own geometry, not the one of the runtime in this test
    predictor = Predictor(weights)
    runtime = predictor.runtime(settings)
    runtime.geometry = weights.network().geometry  # type: ignore[assignment]
    assert isinstance(runtime, Blur)
    records: list[Any] = []
    drain(predictor.run(stack, **options), records.append)
    tiles = [r for r in records if isinstance(r, TileDone)]
    assert before.tiles == len(tiles)
    pixels = sum(np.prod(shape) for shape in runtime.calls)
    assert before.megapixels == pytest.approx(pixels / 1e6)


@pytest.mark.usefixtures("blur")
def test_time_is_known_once_measured(weights: Weights) -> None:
    throughput._MS_PER_MEGAPIXEL.clear()
    stack = Stack(np.zeros((30, 1024, 1024), np.uint8))
    assert estimate(stack, weights).seconds is None
    ms = Predictor(weights).measure()
    after = estimate(stack, weights)
    assert after.seconds == pytest.approx(ms * after.megapixels / 1000)
    assert ms == Predictor(weights).measure()  # not timed again
    other = PredictSettings(runtime="torch")
    assert estimate(stack, weights, settings=other).seconds is None


@pytest.mark.usefixtures("blur")
def test_a_run_tells_its_speed_too(weights: Weights) -> None:
    throughput._MS_PER_MEGAPIXEL.clear()
    values = np.random.default_rng(0).integers(0, 255, (2, 600, 600), dtype=np.uint8)
    drain(Predictor(weights).run(Stack(values)))
    assert estimate(Stack(values), weights).seconds is not None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (40.2, "12 tiles · 30 sections · about 40 s · peak 0.6 GB on cpu"),
        (0.3, "12 tiles · 30 sections · under 1 s · peak 0.6 GB on cpu"),
        (600, "12 tiles · 30 sections · about 10 min · peak 0.6 GB on cpu"),
        (9000, "12 tiles · 30 sections · about 2.5 h · peak 0.6 GB on cpu"),
        (None, "12 tiles · 30 sections · peak 0.6 GB on cpu"),
    ],
)
def test_words(seconds: float | None, words: str) -> None:
    made = RunEstimate(30, 12, 40.0, 600_000_000, seconds, "cpu", ())
    assert made.words == words


def test_one_of_each_is_singular() -> None:
    made = RunEstimate(1, 1, 1.0, 10**8, None, "cuda", ())
    assert made.words == "1 tile · 1 section · peak 0.1 GB on cuda"


def test_a_kept_result_counts_as_memory(weights: Weights) -> None:
    stack = Stack(np.broadcast_to(np.uint8(0), (500, 1000, 1000)))
    kept = estimate(stack, weights, keep=True).peak_bytes
    written = estimate(stack, weights).peak_bytes
    assert kept - written == (500 - 3) * 1000 * 1000 * 4


def test_estimating_imports_no_torch(weights: Weights) -> None:
    script = f"""
import sys, numpy as np
from pathlib import Path
from napari_emseg.core.stack import Stack
from napari_emseg.inference import estimate
from napari_emseg.models.weights import read_weights
stack = Stack(np.zeros((2, 99, 99), np.uint8))
print(estimate(stack, read_weights(Path({str(weights.path)!r}))).words)
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 tiles · 2 sections · peak 0.0 GB on ")
