"""Three views: the mean of planes along z, y and x, by bands of sections."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from blur import Blur
from numpy.typing import NDArray

from napari_emseg.core.card import affinity_names
from napari_emseg.core.intensity import GreyRange
from napari_emseg.core.records import (
    TILES,
    Note,
    Progress,
    SectionDone,
    TileDone,
    drain,
)
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.inference import (
    PredictionResult,
    Predictor,
    estimate,
    sections,
    views,
)
from napari_emseg.models.weights import Weights

# of the whole stack, so that planes are normalised as sections are
ONE = PredictSettings(invert="no", statistics="stack")
THREE = ONE.model_copy(update={"views": 3})
CUBES = (4, 4, 4)
SHAPE = (13, 12, 16)


@pytest.fixture(autouse=True)
def _thin_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    # of noise it is about that, but a section less would change it
    monkeypatch.setattr(sections, "stack_range", lambda *_, **__: GreyRange(4, 246))
    monkeypatch.setattr(views, "BAND", 5)
    monkeypatch.setattr(views, "STRIP_VOXELS", 500)


def grey(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 250, shape).astype(np.uint8)


def run(stack: Stack, weights: Weights, **options: Any) -> PredictionResult:
    settings = options.pop("settings", THREE)
    return drain(Predictor(weights).run(stack, settings=settings, **options))


def array(result: PredictionResult) -> NDArray[np.float32]:
    assert result.probabilities is not None
    return result.probabilities


def one_view(
    stack: Stack, weights: Weights, axes: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Run over the stack turned in memory, and turn the result back."""
    assert stack.voxel_size_nm is not None
    size = tuple(stack.voxel_size_nm[axis] for axis in axes)
    turned = Stack(np.asarray(stack.data[:]).transpose(axes), voxel_size_nm=size)
    return array(run(turned, weights, settings=ONE)).transpose(np.argsort(axes))


def mean_of_views(stack: Stack, weights: Weights) -> NDArray[np.float32]:
    ways = ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    return np.mean([one_view(stack, weights, axes) for axes in ways], axis=0)


@pytest.mark.usefixtures("blur")
class TestMean:
    @pytest.mark.parametrize("size", [CUBES, (5, 4, 4), (4, 4, 6), (8, 8, 8)])
    def test_of_the_stack_and_its_turned_copies(
        self, weights: Weights, size: tuple[float, ...]
    ) -> None:
        stack = Stack(grey(), voxel_size_nm=size)
        found = array(run(stack, weights))
        np.testing.assert_allclose(found, mean_of_views(stack, weights), atol=1e-6)

    def test_of_a_part_is_that_part_of_the_whole(self, weights: Weights) -> None:
        stack = Stack(grey(), voxel_size_nm=(5, 4, 4))
        whole, roi = array(run(stack, weights)), (slice(2, 9), slice(5, 6))
        part = array(run(stack, weights, sections=[9, 2, 3], roi=roi))
        np.testing.assert_allclose(part, whole[[2, 3, 9], 2:9, 5:6], atol=1e-6)

    def test_of_all_classes(self, weights: Weights) -> None:
        stack = Stack(grey(), voxel_size_nm=CUBES)
        both = array(run(stack, weights, classes=("inside", "membrane")))
        assert both.shape == (2, *SHAPE)
        np.testing.assert_allclose(both[1], array(run(stack, weights)), atol=1e-6)
        np.testing.assert_allclose(both.sum(axis=0), 1, atol=1e-6)

    def test_goes_to_a_sink_in_order(self, weights: Weights) -> None:
        stack, sink = Stack(grey(), voxel_size_nm=CUBES), Sink()
        records = list(Predictor(weights).run(stack, settings=THREE, sink=sink))
        assert list(sink.got) == list(range(SHAPE[0]))
        expected = array(run(stack, weights))
        np.testing.assert_array_equal(np.stack(list(sink.got.values())), expected)
        done = [r.z for r in records if isinstance(r, SectionDone)]
        assert done == list(range(SHAPE[0]))


class Sink:
    def __init__(self) -> None:
        self.got: dict[int, NDArray[np.float32]] = {}

    def write(self, z: int, section: NDArray[np.float32]) -> None:
        self.got[z] = section.copy()


def test_where_tiles_are_blended_bands_are(weights: Weights, blur: Blur) -> None:
    """A network that depends on no window gives the same with blending."""
    stack = Stack(grey((30, 12, 16)), voxel_size_nm=(5, 4, 4))
    exact = array(run(stack, weights))
    blur.geometry = Geometry(4, 8, blend=4)
    blended = array(run(stack, weights))
    np.testing.assert_allclose(blended, exact, atol=1e-6)
    part = array(run(stack, weights, sections=[9, 10], roi=(slice(3, 7), slice(2, 9))))
    np.testing.assert_allclose(part, blended[9:11, 3:7, 2:9], atol=1e-6)


def test_no_step_between_bands_of_a_network_that_depends_on_the_window(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says 0 in all windows of the first band, 1 in those of the second."""
    said = iter([0, 0, 0, 1, 1, 1])

    class Moody(Blur):
        def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
            of_a_plane = batch.shape[2] == 20 + 2 * self.geometry.halo
            values = super().__call__(batch)
            return np.full_like(values, next(said) if of_a_plane else 0)

    moody = Moody(geometry=Geometry(4, 12, blend=8))
    monkeypatch.setattr(Predictor, "runtime", lambda *_: moody)
    monkeypatch.setattr(views, "BAND", 20)
    stack = Stack(grey((40, 1, 2)), voxel_size_nm=CUBES)
    found = array(run(stack, weights))[:, 0, 0]
    steps = np.diff(found)
    np.testing.assert_allclose(found[[0, -1]], [0, 2 / 3], atol=1e-6)
    assert 0 <= steps.min() < steps.max() < 0.1


class TestSectionsWithoutAPicture:
    """Planes see the nearest good section; the section gets what one view does."""

    @pytest.fixture
    def seen(self, weights: Weights, blur: Blur) -> NDArray[np.float32]:
        del blur
        stood_in = grey()
        stood_in[6] = stood_in[5]
        stack = Stack(stood_in, voxel_size_nm=CUBES)
        planes = [one_view(stack, weights, axes) for axes in ((1, 0, 2), (2, 0, 1))]
        return np.sum(planes, axis=0) / 3

    def test_that_is_damaged(self, weights: Weights, seen: NDArray[np.float32]) -> None:
        class Damaged:
            shape, dtype = SHAPE, np.dtype("u1")

            def __getitem__(self, key: Any) -> NDArray[np.uint8]:
                if (key[0] if isinstance(key, tuple) else key) == 6:
                    msg = "broken strip"
                    raise OSError(msg)
                return grey()[key]

        stack, sink = Stack(Damaged(), voxel_size_nm=CUBES), Sink()
        found = run(stack, weights, sink=sink)
        assert found.damaged == {6: "broken strip"}
        assert list(sink.got) == [z for z in range(SHAPE[0]) if z != 6]
        own = array(run(stack, weights, settings=ONE)) / 3
        for z, section in sink.got.items():
            np.testing.assert_allclose(section, own[z] + seen[z], atol=1e-6)
        assert not array(run(stack, weights))[6].any()

    def test_that_is_blank(self, weights: Weights, seen: NDArray[np.float32]) -> None:
        data = grey()
        data[6] = 77
        stack = Stack(data, voxel_size_nm=CUBES)
        found = run(stack, weights)
        assert found.blank == (6,)
        own = array(run(stack, weights, settings=ONE)) / 3
        expected = own + seen * (np.arange(SHAPE[0]) != 6)[:, None, None]
        np.testing.assert_allclose(array(found), expected, atol=1e-6)

    def test_that_is_excluded(
        self, weights: Weights, seen: NDArray[np.float32]
    ) -> None:
        data = grey()
        data[6] = 255 - data[6]
        stack = Stack(data, voxel_size_nm=CUBES)
        kept = [z for z in range(SHAPE[0]) if z != 6]
        found = array(run(stack, weights, sections=kept, excluded={6}))
        own = array(run(stack, weights, settings=ONE, sections=kept)) / 3
        np.testing.assert_allclose(found, own + seen[kept], atol=1e-6)

    def test_padding_has_no_membrane(self, weights: Weights, blur: Blur) -> None:
        data = grey((6, 24, 30))
        data[2, :10, :12] = 0
        found = array(run(Stack(data, voxel_size_nm=CUBES), weights))
        assert not found[2, :10, :12].any()
        assert found[2, 10:].all()
        assert found[[0, 1, 3, 4, 5]].all()


@pytest.mark.usefixtures("blur")
class TestProgress:
    def test_counts_tiles_of_all_views(self, weights: Weights) -> None:
        stack = Stack(grey(), voxel_size_nm=CUBES)
        records = list(Predictor(weights).run(stack, settings=THREE))
        told = [r for r in records if isinstance(r, Progress)]
        assert {r.step for r in told} == {TILES}
        # 13 sections, and 12 and 16 planes in each of three bands
        total = 13 + 3 * (12 + 16)
        assert [r.done for r in told] == list(range(1, total + 1))
        assert {r.total for r in told} == {total}
        for axis, of in (("z", 13), ("y", 3 * 12), ("x", 3 * 16)):
            assert [r.view for r in told if r.view[0] == axis] == [
                (axis, done, of) for done in range(1, of + 1)
            ]
        sections = [r for r in records if isinstance(r, TileDone)]
        assert [r.z for r in sections] == list(range(SHAPE[0]))
        assert sections[-1].done == sections[-1].total == total

    def test_notes_are_told_once(self, weights: Weights) -> None:
        stack = Stack(grey(), voxel_size_nm=(8, 8, 8))
        records = list(Predictor(weights).run(stack, settings=THREE))
        notes = [r.message for r in records if isinstance(r, Note)]
        assert len(notes) == len(set(notes)) == 1

    def test_finished_sections_stay_when_it_is_cancelled(
        self, weights: Weights
    ) -> None:
        stack, sink = Stack(grey(), voxel_size_nm=CUBES), Sink()
        with closing(Predictor(weights).run(stack, settings=THREE, sink=sink)) as work:
            for record in work:
                if isinstance(record, SectionDone):
                    break
        assert 0 in sink.got
        assert len(sink.got) < SHAPE[0]

    def test_estimate_counts_what_the_run_does(
        self, weights: Weights, blur: Blur
    ) -> None:
        blur.geometry = weights.network().geometry
        stack = Stack(grey(), voxel_size_nm=(5, 4, 4))
        expected = estimate(stack, weights, settings=THREE, sections=range(2, 9))
        work = Predictor(weights).run(stack, settings=THREE, sections=range(2, 9))
        tiles = [r for r in work if isinstance(r, Progress)]
        assert expected.tiles == len(tiles)
        assert expected.megapixels * 1e6 == sum(np.prod(shape) for shape in blur.calls)


def test_goes_on_with_smaller_tiles_when_memory_runs_out(
    weights: Weights, blur: Blur
) -> None:
    stack = Stack(grey((12, 22, 26)), voxel_size_nm=CUBES)
    whole = array(run(stack, weights))
    blur.fails = lambda shape: MemoryError() if max(shape[2:]) > 40 else None
    np.testing.assert_allclose(array(run(stack, weights)), whole, atol=1e-6)
    blur.geometry = Geometry(4, 12, blend=4)
    np.testing.assert_allclose(array(run(stack, weights)), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (None, "need the voxel size along z, y and x, which is unknown"),
        ((None, 4, 4), r"which is \? × 4 × 4 nm"),
        ((50, 4, 4), r"2 times as long as wide, these are 50 × 4 × 4 nm \(z, y, x\)"),
        ((4, 4, 9), "these are 4 × 4 × 9 nm"),
    ],
)
def test_other_voxels_are_refused_in_words(
    weights: Weights, size: Any, words: str
) -> None:
    stack = Stack(grey(), voxel_size_nm=size)
    with pytest.raises(ValueError, match=words):
        Predictor(weights).run(stack, settings=THREE)
    with pytest.raises(ValueError, match=words):
        estimate(stack, weights, settings=THREE)


def test_a_single_section_has_one_view(weights: Weights) -> None:
    stack = Stack(grey((1, 12, 16)), voxel_size_nm=CUBES)
    with pytest.raises(ValueError, match="a single section"):
        Predictor(weights).run(stack, settings=THREE)


@pytest.mark.parametrize("n", [1, 4, 5, 6, 9, 10, 11, 99])
def test_bands_are_no_deeper_than_said_and_none_is_thin(n: int) -> None:
    edges = views.band_edges(n, zoom=1.0)
    assert (edges[0], edges[-1]) == (0, n)
    deep = np.diff(edges)
    assert deep.max() <= views.BAND
    assert n < views.BAND or deep.min() >= views.BAND // 2


def test_planes_are_seen_with_those_beside_them(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sides(Blur):
        """Says the mean of what is seen, the farthest on one side twice."""

        context = 5

        def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
            assert batch.shape[1] == 5
            mixed = np.average(batch, axis=1, weights=[2, 1, 1, 1, 1], keepdims=True)
            return super().__call__(mixed)

    monkeypatch.setattr(Predictor, "runtime", lambda *_: Sides())
    seen = replace(weights, card=weights.card.model_copy(update={"context": 5}))
    stack = Stack(grey(), voxel_size_nm=CUBES)
    expected = mean_of_views(stack, seen)
    np.testing.assert_allclose(array(run(stack, seen)), expected, atol=1e-6)


OFFSETS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, -3, 0), (-5, 0, 0))


def test_affinities_turn_with_the_view(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What planes along y say of the next plane is said of y, and so on."""
    said = {"membrane": 0.1, "inside": 0.9, "z": 0.2, "y": 0.4, "x": 0.6}
    values = np.array([*said.values(), 0.8, 0.7], np.float32)[:, None, None]

    class Certain(Blur):
        def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
            shape = super().__call__(batch).shape[2:]
            return np.broadcast_to(values, (len(batch), len(values), *shape))

    monkeypatch.setattr(Predictor, "runtime", lambda *_: Certain())
    classes = ("membrane", "inside", *affinity_names(OFFSETS))
    card = weights.card.model_copy(update={"classes": classes, "affinities": OFFSETS})
    stack = Stack(grey(), voxel_size_nm=CUBES)
    found = array(run(stack, replace(weights, card=card), classes=classes))
    expected = {
        "membrane": 0.1,
        "inside": 0.9,
        # of the section's own, of planes along y, of planes along x
        "affinity z1": (0.2 + 0.4 + 0.4) / 3,
        "affinity y1": (0.4 + 0.2 + 0.6) / 3,
        "affinity x1": (0.6 + 0.6 + 0.2) / 3,
        # no other view has a channel for them
        "affinity y3": 0.8,
        "affinity z5": 0.7,
    }
    assert tuple(expected) == classes
    for name, value, channel in zip(expected, expected.values(), found, strict=True):
        np.testing.assert_allclose(channel, value, atol=1e-6, err_msg=name)
    alone = run(stack, replace(weights, card=card), classes=("affinity z5",))
    np.testing.assert_allclose(array(alone), 0.7, atol=1e-6)
