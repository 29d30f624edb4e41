from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from blur import Blur
from numpy.typing import NDArray

from napari_emseg.core.errors import WorkFailedError
from napari_emseg.core.records import Note, Record, SectionDone, TileDone, drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import (
    PredictionResult,
    Predictor,
    predict_stack,
)
from napari_emseg.inference import predictor as predictor_module
from napari_emseg.models.weights import Weights
from napari_emseg.sample import vnc

SMALL = PredictSettings(tile=48, invert="no")


def grey(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    """Noise with a bright and a dark half, so that percentiles differ by place."""
    values = np.random.default_rng(seed).integers(1, 120, shape)
    values[..., shape[-1] // 2 :] += 100
    return values.astype(np.uint8)


def everything(
    stack: Stack, weights: Weights, **options: Any
) -> tuple[list[Record], PredictionResult]:
    records: list[Record] = []
    result = drain(predict_stack(stack, weights, **options), records.append)
    return records, result


def array(result: PredictionResult) -> NDArray[np.float32]:
    assert result.probabilities is not None
    return result.probabilities


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tile_that_is_no_number_ends_the_run(
    value: float, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason; finished sections stay in the sink."""

    class Broken(Blur):
        def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
            found = super().__call__(batch)
            found[:, 0, 3, 3] = value if len(self.calls) > 4 else 0
            return found

    broken = Broken(geometry=weights.network().geometry)
    monkeypatch.setattr(Predictor, "runtime", lambda *_: broken)
    settings = SMALL.model_copy(update={"tile": 64})
    sink = Sink()
    stack = Stack(grey((3, 40, 60)))
    said = r"result is NaN in section \d, rows \d+ to \d+, columns \d+ to \d+: its we"
    with pytest.raises(WorkFailedError, match=said):
        everything(stack, weights, settings=settings, sink=sink)
    assert all(np.isfinite(section).all() for section in sink.got.values())


class Sink:
    """Keeps copies of what it gets; can fail, or wait, at one of its sections."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.got: dict[int, NDArray[np.float32]] = {}
        self.error = error
        self.wait_for: threading.Event | None = None

    def write(self, z: int, section: NDArray[np.float32]) -> None:
        if self.wait_for is not None:
            assert self.wait_for.wait(60)
        if self.error is not None:
            raise self.error
        self.got[z] = section.copy()


class Lazy:
    """A stack that reads, and counts, one section at a time."""

    def __init__(self, data: NDArray[Any], bad: dict[int, Exception] | None = None):
        self.shape, self.dtype = data.shape, data.dtype
        self.data, self.bad = data, bad or {}
        self.read: list[int] = []

    def __getitem__(self, key: Any) -> NDArray[Any]:
        z = key[0] if isinstance(key, tuple) else key
        self.read.append(z)
        if z in self.bad:
            raise self.bad[z]
        return self.data[key]


@pytest.mark.usefixtures("blur")
class TestResult:
    @pytest.mark.parametrize("voxel", [None, (50, 4, 4), (50, 4.6, 4.6), (50, 2, 7)])
    @pytest.mark.parametrize("shape", [(2, 90, 131), (1, 1, 1), (1, 7, 60)])
    def test_does_not_depend_on_the_tile(
        self, weights: Weights, voxel: Any, shape: tuple[int, ...]
    ) -> None:
        stack = Stack(grey(shape), voxel_size_nm=voxel)
        _, whole = everything(stack, weights)
        records, tiled = everything(stack, weights, settings=SMALL)
        np.testing.assert_allclose(array(tiled), array(whole), atol=1e-6)
        if shape == (2, 90, 131):
            assert sum(isinstance(r, TileDone) for r in records) > 10

    def test_of_a_region_is_that_part_of_the_whole(self, weights: Weights) -> None:
        stack = Stack(grey((1, 80, 90)), voxel_size_nm=(50, 4.6, 4.6))
        roi = slice(11, 70), slice(33, 34)
        _, whole = everything(stack, weights)
        records, part = everything(stack, weights, roi=roi, settings=SMALL)
        assert part.roi == roi
        expected = array(whole)[(slice(None), *roi)]
        np.testing.assert_allclose(array(part), expected, atol=1e-6)
        tiles = [r for r in records if isinstance(r, TileDone)]
        for tile in tiles:
            np.testing.assert_allclose(
                tile.values[0], array(whole)[(tile.z, *tile.core)], atol=1e-6
            )

    def test_tiles_are_the_result(self, weights: Weights) -> None:
        stack = Stack(grey((3, 70, 80)))
        painted = np.full(stack.shape, np.nan, np.float32)
        records, result = everything(stack, weights, settings=SMALL)
        for record in records:
            if isinstance(record, TileDone):
                painted[(record.z, *record.core)] = record.values[0]
        np.testing.assert_array_equal(painted, array(result))

    def test_of_several_classes_has_an_axis_for_them(self, weights: Weights) -> None:
        stack = Stack(grey((2, 40, 50)))
        _, result = everything(stack, weights, classes=("inside", "membrane"))
        assert array(result).shape == (2, 2, 40, 50)
        _, membrane = everything(stack, weights)
        np.testing.assert_array_equal(array(result)[1], array(membrane))
        np.testing.assert_allclose(array(result).sum(0), 1, atol=1e-6)

    @pytest.mark.parametrize(
        ("dtype", "scale", "offset"),
        [("uint16", 200, 5), ("float64", 1e-3, -7), ("int16", 50, -9000)],
    )
    def test_is_the_same_for_any_type_of_grey_values(
        self, weights: Weights, dtype: str, scale: float, offset: float
    ) -> None:
        data = grey((1, 60, 60))
        _, expected = everything(Stack(data), weights)
        other = (data.astype(float) * scale + offset).astype(dtype)
        _, result = everything(Stack(other), weights)
        np.testing.assert_allclose(array(result), array(expected), atol=1e-4)

    def test_of_a_mask_as_picture_is_finite(self, weights: Weights) -> None:
        data = np.random.default_rng(0).random((1, 40, 40)) > 0.5
        _, result = everything(Stack(data), weights)
        assert np.isfinite(array(result)).all()
        assert array(result).std() > 0

    def test_inverts_if_told(self, weights: Weights) -> None:
        data = grey((1, 60, 60))
        _, expected = everything(Stack(data), weights)
        records, result = everything(
            Stack(255 - data), weights, settings=PredictSettings(invert="yes")
        )
        np.testing.assert_allclose(array(result), array(expected), atol=1e-6)
        assert any("inverted" in r.message for r in records if isinstance(r, Note))

    def test_uses_statistics_of_the_stack_if_asked(self, weights: Weights) -> None:
        data = np.stack([grey((60, 60)) // 2, grey((60, 60))])
        _, own = everything(Stack(data), weights)
        _, shared = everything(
            Stack(data), weights, settings=PredictSettings(statistics="stack")
        )
        np.testing.assert_allclose(array(own)[0], array(own)[1], atol=0.02)
        assert array(shared)[0].mean() < array(shared)[1].mean() - 0.1

    def test_says_where_it_comes_from(self, weights: Weights) -> None:
        stack = Stack(grey((1, 40, 40)), source="/a/b.tif")
        _, result = everything(stack, weights)
        made = result.provenance
        assert (made.kind, made.source, made.weights) == (
            "membrane",
            "/a/b.tif",
            "tiny",
        )
        assert made.weights_sha256 == weights.sha256
        assert made.settings["tile"] is None
        assert (result.runtime, result.device) == ("blur", "cpu")


@pytest.mark.usefixtures("blur")
class TestOrder:
    def test_of_work_is_as_asked_and_of_results_ascending(
        self, weights: Weights
    ) -> None:
        data = Lazy(grey((5, 60, 60)))
        sink = Sink()
        records, result = everything(
            Stack(data), weights, sections=[3, 1, 4], sink=sink, settings=SMALL
        )
        assert data.read == [3, 1, 4]
        done = [r for r in records if isinstance(r, SectionDone)]
        assert [(r.z, r.done, r.total) for r in done] == [
            (3, 1, 3),
            (1, 2, 3),
            (4, 3, 3),
        ]
        assert result.sections == (1, 3, 4)
        assert result.probabilities is None
        _, all_of_them = everything(Stack(data), weights)
        for index, z in enumerate(result.sections):
            np.testing.assert_allclose(
                sink.got[index], array(all_of_them)[z], atol=1e-6
            )

    def test_of_tiles_counts_up_to_the_total(self, weights: Weights) -> None:
        records, _ = everything(Stack(grey((3, 90, 90))), weights, settings=SMALL)
        tiles = [r for r in records if isinstance(r, TileDone)]
        assert [t.done for t in tiles] == list(range(1, len(tiles) + 1))
        assert {t.total for t in tiles} == {len(tiles)}

    def test_sections_are_done_when_they_are_written(self, weights: Weights) -> None:
        sink = Sink()
        work = predict_stack(Stack(grey((4, 40, 40))), weights, sink=sink)
        for record in work:
            if isinstance(record, SectionDone):
                assert record.z in sink.got


class TestPictureless:
    """Sections and areas without a picture get probability 0; the run goes on."""

    @pytest.mark.parametrize("error", [OSError("page 1 is cut"), ValueError("broken")])
    def test_a_damaged_section_is_left_out(
        self, weights: Weights, blur: Blur, error: Exception
    ) -> None:
        stack = Stack(Lazy(grey((3, 60, 60)), {1: error}))
        sink = Sink()
        records, result = everything(stack, weights, sink=sink, settings=SMALL)
        assert result.damaged == {1: str(error)}
        assert sorted(sink.got) == [0, 2]
        assert any(str(error) in note for note in result.notes)
        assert [r.z for r in records if isinstance(r, SectionDone)] == [0, 1, 2]
        last = [r for r in records if isinstance(r, TileDone)][-1]
        assert last.done == last.total
        _, kept = everything(stack, weights)
        assert not array(kept)[1].any()
        assert array(kept)[2].any()

    def test_another_error_of_the_reader_ends_the_run(
        self, weights: Weights, blur: Blur
    ) -> None:
        stack = Stack(Lazy(grey((3, 60, 60)), {1: KeyError("bug")}))
        with pytest.raises(KeyError, match="bug"):
            everything(stack, weights)

    @pytest.mark.parametrize("value", [0, 255, 97])
    def test_a_blank_section_is_not_computed(
        self, weights: Weights, blur: Blur, value: int
    ) -> None:
        data = grey((3, 60, 60))
        data[1] = value
        records, result = everything(Stack(data), weights)
        assert result.blank == (1,)
        assert len(blur.calls) == 2
        assert not array(result)[1].any()
        (tile,) = (r for r in records if isinstance(r, TileDone) and r.z == 1)
        assert tile.values.shape == (1, 60, 60)
        assert not tile.values.any()

    def test_missing_values_get_probability_0(
        self, weights: Weights, blur: Blur
    ) -> None:
        data = grey((2, 60, 60)).astype(np.float32)
        data[0, 20:30, 20:30] = np.nan
        data[0, 5, 5] = np.inf
        data[1] = np.nan
        _, result = everything(Stack(data), weights, settings=SMALL)
        empty = ~np.isfinite(data)
        assert np.isfinite(array(result)).all()
        assert not array(result)[empty].any()
        assert (array(result)[~empty] > 0).mean() > 0.9
        assert result.blank == (1,)

    @pytest.mark.parametrize("value", [0, 255])
    def test_padding_gets_probability_0_and_shifts_nothing(
        self, weights: Weights, blur: Blur, value: int
    ) -> None:
        data = grey((1, 80, 80))
        _, bare = everything(Stack(data), weights)
        padded = np.pad(
            data, ((0, 0), (0, 0), (0, 60)), constant_values=np.uint8(value)
        )
        _, result = everything(Stack(padded), weights, settings=SMALL)
        assert not array(result)[..., 80:].any()
        inner = array(result)[..., :72]
        np.testing.assert_allclose(inner, array(bare)[..., :72], atol=0.03)


class TestStopping:
    def test_keeps_finished_sections_and_leaves_no_thread(
        self, weights: Weights, blur: Blur
    ) -> None:
        sink = Sink()
        data = Lazy(grey((50, 60, 60)))
        work = predict_stack(Stack(data), weights, sink=sink, settings=SMALL)
        for record in work:
            if isinstance(record, SectionDone):
                break
        work.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("emseg")]
        assert 0 in sink.got
        assert sink.got[0].any()
        calls = len(blur.calls)
        assert len(data.read) < 6
        assert calls < 100

    def test_gives_large_buffers_back(self, weights: Weights, blur: Blur) -> None:
        stack = Stack(grey((1, 60, 60)))
        drain(predict_stack(stack, weights))
        assert blur.released == 0
        blur.bytes_per_pixel = 1e6
        drain(predict_stack(stack, weights))
        assert blur.released == 1

    def test_before_the_start_does_nothing(self, weights: Weights, blur: Blur) -> None:
        data = Lazy(grey((2, 40, 40)))
        predict_stack(Stack(data), weights).close()
        assert not data.read
        assert not blur.calls

    def test_after_a_run_the_predictor_is_used_again(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loads = []

        def load(*_: object) -> Blur:
            loads.append(1)
            return Blur()

        monkeypatch.setattr("napari_emseg.inference.predictor.load_runtime", load)
        predictor = Predictor(weights)
        stack = Stack(grey((2, 60, 60)))
        work = predictor.run(stack, settings=SMALL)
        next(work)
        work.close()
        drain(predictor.run(stack))
        assert len(loads) == 1
        drain(predictor.run(stack, settings=PredictSettings(threads=1)))
        assert len(loads) == 2


class TestErrors:
    def test_of_the_sink_come_out_as_they_are(
        self, weights: Weights, blur: Blur
    ) -> None:
        full = OSError(28, "No space left on device")
        with pytest.raises(OSError, match="No space left") as caught:
            everything(Stack(grey((9, 40, 40))), weights, sink=Sink(full))
        assert caught.value is full
        assert len(blur.calls) < 9

    def test_of_the_network_come_out_as_they_are(
        self, weights: Weights, blur: Blur
    ) -> None:
        bug = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        blur.fails = lambda shape: bug
        with pytest.raises(RuntimeError) as caught:
            everything(Stack(grey((2, 40, 40))), weights)
        assert caught.value is bug

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"sections": [0, 2]}, "no section 2; sections are 0..1"),
            ({"sections": []}, "no section is asked for"),
            ({"roi": (slice(0, 41), slice(0, 5))}, "y 0:41 .* has 0:40"),
            ({"roi": (slice(0, 9), slice(5, 5))}, "x 5:5 is empty"),
            ({"roi": (slice(0, 9, 2), slice(0, 5))}, "region"),
            ({"classes": ["mitochondria"]}, "classes are: membrane, inside"),
        ],
    )
    def test_of_the_request_come_at_once(
        self, weights: Weights, options: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            predict_stack(Stack(grey((2, 40, 40))), weights, **options)

    def test_of_a_result_beyond_memory(self, weights: Weights) -> None:
        stack = Stack(np.broadcast_to(np.uint8(0), (10**6, 5000, 5000)))
        with pytest.raises(MemoryError, match=r"needs 100000\.0 GB .* `emseg"):
            predict_stack(stack, weights)
        predict_stack(stack, weights, keep=False).close()

    def test_of_a_tile_without_core(self, weights: Weights, blur: Blur) -> None:
        blur.geometry = type(blur.geometry)(4, 30)
        with pytest.raises(ValueError, match="tile must be at least 72 px"):
            everything(
                Stack(grey((1, 99, 99))), weights, settings=PredictSettings(tile=40)
            )


class TestOverlapInTime:
    """Each test would wait for ever if one step waited for the other."""

    def test_the_next_section_is_read_while_one_is_computed(
        self, weights: Weights, blur: Blur
    ) -> None:
        data = Lazy(grey((3, 40, 40)))

        def wait(shape: tuple[int, ...]) -> None:
            until(lambda: len(data.read) > len(blur.calls) or len(blur.calls) == 3)

        blur.fails = wait
        everything(Stack(data), weights)

    def test_the_next_section_is_computed_while_one_is_written(
        self, weights: Weights, blur: Blur
    ) -> None:
        computed = threading.Event()
        sink = Sink()
        sink.wait_for = computed

        def note(shape: tuple[int, ...]) -> None:
            if len(blur.calls) == 2:
                computed.set()

        blur.fails = note
        everything(Stack(grey((4, 40, 40))), weights, sink=sink)
        assert sorted(sink.got) == [0, 1, 2, 3]

    def test_a_slow_sink_holds_the_run_back(self, weights: Weights, blur: Blur) -> None:
        """So that results don't pile up in memory."""
        sink = Sink()
        sink.wait_for = threading.Event()
        work = predict_stack(Stack(grey((20, 40, 40))), weights, sink=sink)
        seen: list[Record] = []
        consumer = threading.Thread(target=lambda: seen.extend(work))
        consumer.start()
        until(lambda: len(blur.calls) >= 4)
        threading.Event().wait(0.1)
        assert len(blur.calls) <= 6
        sink.wait_for.set()
        consumer.join(60)
        assert len(sink.got) == 20


def until(condition: Any) -> None:
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    msg = "waited for a minute"
    raise AssertionError(msg)


@pytest.mark.usefixtures("blur")
def test_a_stack_is_looked_at_once(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    found = predictor_module.polarity
    monkeypatch.setattr(
        predictor_module, "polarity", lambda stack: looked.append(stack) or found(stack)
    )
    predictor = Predictor(weights)
    stack, other = Stack(255 - np.asarray(vnc().data[:1])), Stack(grey((1, 40, 40)))
    for run in (stack, stack.with_voxel_size((50, 4, 4)), other, stack):
        roi = (slice(0, 40), slice(0, 40))
        notes = drain(predictor.run(run, roi=roi)).notes
        assert any("look bright" in note for note in notes) is (run is not other)
    assert len(looked) == 3


@pytest.mark.usefixtures("blur")
@pytest.mark.parametrize("inverted", [False, True])
def test_auto_inverts_real_em_with_bright_membranes_and_says_so(
    weights: Weights, inverted: bool
) -> None:
    data = np.asarray(vnc().data[:2])
    records, result = everything(Stack(255 - data if inverted else data), weights)
    said = [r.message for r in records if isinstance(r, Note)]
    assert any("membranes look bright" in words for words in said) is inverted
    plain = PredictSettings(invert="no")
    _, expected = everything(Stack(data), weights, settings=plain)
    np.testing.assert_allclose(array(result), array(expected), atol=1e-5)
