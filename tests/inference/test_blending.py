"""Tiles of networks whose result depends on the window: no seams, whatever the region.

`Offset` is the extreme of such a network: every window has a brightness of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from blur import Blur
from numpy.typing import NDArray

from napari_emseg.core.card import Card
from napari_emseg.core.records import Note, Record, SectionDone, TileDone, drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry, TilePlan
from napari_emseg.inference import Predictor, estimate, predictor
from napari_emseg.inference.plan import BLENDED_SIDE, Limits, choose_limits
from napari_emseg.inference.scope import scope_of
from napari_emseg.models.cenet import CENet
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import build
from napari_emseg.sample import vnc

CARD = Card(name="tiny", architecture="cenet")

FIXED: dict[str, Any] = {"device": "cpu", "invert": "no"}


@dataclass
class Offset(Blur):
    """Blur, and half of the probability is the mean of the whole window."""

    geometry: Geometry = field(default_factory=lambda: Geometry(4, 16, blend=8))
    share: float = 0.5

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        whole = batch.mean((2, 3), keepdims=True)
        return (1 - self.share) * super().__call__(batch) + self.share * whole


@pytest.fixture
def offset(monkeypatch: pytest.MonkeyPatch) -> Offset:
    runtime = Offset()
    monkeypatch.setattr(predictor, "load_runtime", lambda *_: runtime)
    return runtime


@pytest.fixture
def stack() -> Stack:
    """Brighter to the right and below, so that windows differ."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, (2, 150, 130)) + np.arange(150)[:, None] // 2
    return Stack((values + np.arange(130) // 2).astype(np.uint8))


def run(
    weights: Weights,
    stack: Stack,
    roi: tuple[slice, slice] | None = None,
    on_record: Callable[[Record], None] | None = None,
    **settings: Any,
) -> NDArray[np.float32]:
    wanted = PredictSettings.model_validate({**FIXED, **settings})
    work = Predictor(weights).run(stack, settings=wanted, roi=roi)
    found = drain(work, on_record).probabilities
    assert found is not None
    return found


def test_a_network_that_depends_on_nothing_gives_one_picture(
    weights: Weights, stack: Stack, offset: Offset
) -> None:
    offset.share = 0
    expected = run(weights, stack)
    assert len(set(offset.calls)) == 1
    np.testing.assert_allclose(run(weights, stack, tile=64), expected, atol=1e-6)


def test_no_step_where_tiles_meet(
    weights: Weights, stack: Stack, offset: Offset
) -> None:
    offset.share = 1
    found = run(weights, stack, tile=64)[0]
    steps = [np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1)]
    offset.geometry = Geometry(4, 16)  # the same halo, cropped
    cropped = run(weights, stack, tile=64)[0]
    hard = [np.abs(np.diff(cropped, axis=axis)).max() for axis in (0, 1)]
    assert max(steps) < 0.2 * min(hard)


@pytest.mark.parametrize("tile", [64, 80])
@pytest.mark.parametrize(
    "roi",
    [
        (slice(0, 150), slice(0, 130)),
        (slice(30, 33), slice(20, 130)),
        (slice(149, 150), slice(0, 1)),
        (slice(37, 111), slice(41, 90)),
    ],
)
def test_a_region_is_a_crop_of_the_whole_whatever_the_batch(
    weights: Weights,
    stack: Stack,
    offset: Offset,
    roi: tuple[slice, slice],
    tile: int,
) -> None:
    whole = run(weights, stack, tile=tile)
    for batch in (1, 3):
        part = run(weights, stack, roi, tile=tile, batch=batch)
        np.testing.assert_array_equal(part, whole[:, roi[0], roi[1]])


def test_records_end_with_the_result(
    weights: Weights, stack: Stack, offset: Offset
) -> None:
    """Each tile brings what is blended by then; the last of a pixel is final."""
    followed = np.full(stack.shape, np.nan, np.float32)
    sections: list[int] = []
    covered: list[bool] = []

    def follow(record: Record) -> None:
        if isinstance(record, TileDone):
            followed[(record.z, *record.core)] = record.values[0]
        if isinstance(record, SectionDone):
            sections.append(record.z)
            covered.append(bool(np.isfinite(followed[record.z]).all()))

    found = run(weights, stack, None, follow, tile=64, batch=5)
    np.testing.assert_array_equal(followed, found)
    assert sections == [0, 1]
    assert covered == [True, True]


def test_stopped_in_mid_section_earlier_tiles_stand(
    weights: Weights, stack: Stack, offset: Offset
) -> None:
    whole = run(weights, stack, tile=64)
    plan = TilePlan(stack.shape[1:], offset.geometry, tile=64)
    work = Predictor(weights).run(
        stack, settings=PredictSettings(tile=64, **FIXED), keep=False
    )
    tiles = [r for r in (next(work) for _ in range(9)) if isinstance(r, TileDone)]
    work.close()
    first, own = tiles[0], plan.tiles[0]
    assert first.core == own.core
    assert own.weights is not None
    alone = own.weights == 1
    np.testing.assert_array_equal(first.values[0][alone], whole[0][own.core][alone])
    assert not alone.all()


def test_memory_runs_out_in_the_middle_and_no_seam_is_left(
    weights: Weights, stack: Stack, offset: Offset
) -> None:
    offset.share = 0
    expected = run(weights, stack)
    offset.calls.clear()
    calls = offset.calls
    error = RuntimeError("CUDA out of memory.")
    # in the second tile, and again in the middle of what that is cut into
    offset.fails = lambda shape: error if len(calls) in (2, 6) else None
    records: list[Record] = []
    found = run(weights, stack, None, records.append, tile=128)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    said = [r.message for r in records if isinstance(r, Note)]
    assert sum("out of memory" in message for message in said) == 2
    sides = [max(shape[2:]) for shape in calls]
    assert sides[:2] == [max(sides)] * 2
    assert max(sides) > max(sides[2:6]) > max(sides[6:])
    tiles = [r for r in records if isinstance(r, TileDone)]
    assert tiles[-1].done == tiles[-1].total == len(tiles)
    assert [r.z for r in records if isinstance(r, SectionDone)] == [0, 1]


def test_windows_follow_from_the_section_not_from_what_is_free() -> None:
    def limits(
        side: int, free: float, *, gpu: bool, batch: int | None = None
    ) -> Limits:
        stack = Stack(np.broadcast_to(np.uint8(0), (3, side, side)))
        settings = PredictSettings(batch=batch)
        roi = slice(0, 9), slice(7, 99)
        return choose_limits(
            scope_of(stack, CARD, settings, roi=roi),
            CENet.geometry,
            settings,
            bytes_per_pixel=152,
            free=int(free * 1e9),
            gpu=gpu,
        )

    for gpu in (False, True):
        for free in (1, 4, 400):
            for batch in (None, 1, 16):
                assert limits(4000, free, gpu=gpu, batch=batch).tile == BLENDED_SIDE
                assert limits(1024, free, gpu=gpu, batch=batch).tile is None
    tight = limits(4000, 0.1, gpu=False, batch=4)
    assert tight.tile is not None
    assert tight.batch * tight.tile**2 * 152 <= 0.05e9


@pytest.fixture(scope="module")
def cenet(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Random weights whose normalisation fits the sample, strong in what is pooled."""
    torch.manual_seed(0)
    network = build("cenet", {"base": 8})
    assert isinstance(network, CENet)
    network.rmp.mix.weight.data *= 10
    picture = torch.from_numpy(_picture().astype(np.float32) / 255)[None, None]
    with torch.no_grad():
        for k in range(12):  # so that running means settle
            y, x = 64 * (k // 4), 64 * (k % 4)
            network.train()(picture[..., y : y + 256, x : x + 256])
    path = tmp_path_factory.mktemp("weights") / "cenet.safetensors"
    card = Card(name="cenet", architecture="cenet", config={"base": 8})
    return save_weights(path, network.state_dict(), card, half=False)


def _picture() -> NDArray[np.uint8]:
    return np.asarray(vnc().data)[0]


def seam(
    tiled: NDArray[np.float32], untiled: NDArray[np.float32], borders: list[int]
) -> float:
    """Steps of the difference at borders of tiles, relative to those elsewhere."""
    difference = tiled.astype(float) - untiled
    lines = [
        np.abs(np.diff(difference, axis=axis)).mean(axis=1 - axis) for axis in (0, 1)
    ]
    at = np.mean([line[[border - 1 for border in borders]] for line in lines])
    return float(at / np.mean(lines))


def test_cenets_tiles_leave_no_seam(
    cenet: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(_picture()[None])
    assert stack.shape == (1, 512, 512)
    options: dict[str, Any] = {"runtime": "torch", "threads": 1}
    untiled = run(cenet, stack, **options)[0]
    tiled = run(cenet, stack, tile=256, **options)[0]
    borders = [128, 256, 384]
    ends = [t.core[1].stop for t in TilePlan((1, 512), CENet.geometry, tile=256)]
    assert ends == [*(border + 32 for border in borders), 512]
    assert untiled.std() > 0.05
    error = np.abs(tiled - untiled)
    assert error.mean() > 1e-3  # the result does depend on the tile
    assert seam(tiled, untiled, borders) < 1.1
    near = np.zeros(512, bool)
    for border in borders:
        near[border - 16 : border + 16] = True
    assert error[near].mean() < 1.25 * error[~near][:, ~near].mean()
    # as a control that a seam would be seen: cropped, and without halo
    monkeypatch.setattr(CENet, "geometry", Geometry(32, 0, smallest=192))
    plain = run(cenet, stack, tile=192, **options)[0]
    assert seam(plain, untiled, [171, 341]) > 1.3


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_cenet_gives_the_same_on_every_runtime(
    cenet: Weights, runtime: str, request: pytest.FixtureRequest
) -> None:
    from one_pass import predict_picture

    from napari_emseg.core.intensity import normalise, section_range

    if runtime == "openvino":
        request.getfixturevalue("openvino")
    picture = _picture()[:70, :333]
    grey = section_range(picture, cenet.card.normalisation)
    expected = predict_picture(cenet.network(), normalise(picture, grey))[0]
    found = run(cenet, Stack(picture[None]), runtime=runtime, threads=1)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_estimate_counts_overlaps_and_weights(cenet: Weights) -> None:
    stack = Stack(_picture()[None])
    tiled = estimate(stack, cenet, settings=PredictSettings(tile=256, device="cpu"))
    assert tiled.tiles == 16
    assert tiled.megapixels == pytest.approx(16 * 256**2 / 1e6)
    corner = estimate(
        stack,
        cenet,
        settings=PredictSettings(tile=256, device="cpu"),
        roi=(slice(0, 20), slice(0, 150)),
    )
    assert corner.tiles == 2  # the second tile reaches to 32 px before its border
    one = prod((256, 256)) * (cenet.card.bytes_per_pixel or 0)
    sections = 2 * 512**2 + 3 * 4 * 512**2
    assert tiled.peak_bytes == pytest.approx(one + sections + 4 * 512**2)


def test_the_card_knows_of_blending(cenet: Weights) -> None:
    assert cenet.card.geometry == CENet.geometry
    assert not CENet.geometry.exact
