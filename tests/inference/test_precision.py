"""Arithmetic of runs: as asked, or the fastest that gives the same results."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from blur import Blur
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from napari_emseg.core.errors import OtherPrecisionError
from napari_emseg.core.records import Progress, Record, drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import (
    PredictionResult,
    Predictor,
    estimate,
    openvino_runtime,
    precision,
    predictor,
    throughput,
    user_cache,
)
from napari_emseg.inference import runtime as runtimes
from napari_emseg.inference.openvino_runtime import CpuFacts, QuantisedModel
from napari_emseg.inference.precision import Trial, choose
from napari_emseg.models.weights import Weights

GREY = np.random.default_rng(0).integers(0, 256, (8, 48, 56), dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(user_cache, "cache_folder", lambda: folder)
    precision._SETTLED.clear()
    return folder


class TestSettings:
    def test_half_precision_of_before_is_read(self) -> None:
        assert PredictSettings(half_precision=False).precision == "float32"
        assert PredictSettings(half_precision=True).precision == "auto"
        before = PredictSettings().model_dump() | {"half_precision": False}
        assert PredictSettings.model_validate(before).precision == "float32"
        both = PredictSettings(half_precision=False, precision="int8")
        assert both.precision == "int8"

    def test_others_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="precision"):
            PredictSettings(precision="float64")
        with pytest.raises(ValidationError, match="boolean"):
            PredictSettings(half_precision="perhaps")


class TestChoose:
    """What `auto` takes of what was measured."""

    def test_the_fastest_that_is_safe(self) -> None:
        bf16 = Trial("bf16", speed=2, difference=0.001, cells=0)
        int8 = Trial("int8", speed=3, difference=0.002, cells=0.002)
        assert choose([bf16, int8])[0] == "int8"
        assert choose([int8, bf16])[0] == "int8"

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ({"difference": 0.0021}, "int8 changes probabilities by 0.0021"),
            ({"cells": 0.003}, "int8 changes cells by 0.003"),
            ({"speed": 1.1}, "int8 is only 1.10 times as fast"),
        ],
    )
    def test_else_the_next_one_and_why(self, fault: dict[str, float], words: str):
        good = {"speed": 3.0, "difference": 0.0, "cells": 0.0}
        bad = Trial("int8", **good | fault)
        name, why = choose([bad])
        assert name == "float32"
        assert words in why
        bf16 = Trial("bf16", **good | {"speed": 2.0})
        assert choose([bad, bf16])[0] == "bf16"

    def test_what_is_no_number_is_not_taken(self) -> None:
        nan = float("nan")
        trial = Trial("int8", speed=3, difference=0, cells=0)
        object.__setattr__(trial, "difference", nan)
        assert choose([trial])[0] == "float32"

    def test_nothing_to_try_is_float32_without_a_word(self) -> None:
        assert choose([]) == ("float32", "")


@dataclass
class Other(Blur):
    """Another precision: off by so much everywhere."""

    off: float = 0.0

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        return super().__call__(batch) + np.float32(self.off)


class Machine:
    """A CPU with bf16 and int8, without any network."""

    def __init__(self) -> None:
        self.off = {"float32": 0.0, "bf16": 0.0, "int8": 0.001}
        self.speed = {"bf16": 2.0, "int8": 3.0}
        self.quantised = 0
        self.loaded: list[str] = []

    def cells(self, membrane: NDArray[np.float32]) -> NDArray[np.uint32]:
        return np.ones(membrane.shape, np.uint32)

    def load(
        self,
        weights: Weights,
        settings: PredictSettings,
        network: object = None,
        quantised: QuantisedModel | None = None,
    ) -> Blur:
        name = settings.precision.replace("auto", "float32")
        assert (quantised is not None) == (name == "int8")
        self.loaded.append(name)
        return Other(name="openvino", precision=name, off=self.off[name])

    def quantise(
        self, network: object, windows: list[NDArray[np.float32]], **_: object
    ) -> Generator[Record, None, QuantisedModel]:
        assert len(windows) == 4
        self.quantised += 1
        yield Progress("calibrating int8", 0, 0)
        return QuantisedModel(b"xml", b"values")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(precision, "load_runtime", made.load)
    monkeypatch.setattr(predictor, "load_runtime", made.load)
    monkeypatch.setattr(precision, "iter_quantise", made.quantise)
    monkeypatch.setattr(precision, "find_spec", lambda name: object())
    monkeypatch.setattr(runtimes, "find_spec", lambda name: object())
    monkeypatch.setattr(
        precision, "_speed", lambda exact, other, window: made.speed[other.precision]
    )
    # what is in noise isn't the matter here
    monkeypatch.setattr(precision, "usual_cells", lambda threshold: made.cells)
    cpu = CpuFacts("a CPU", ("FP32", "BF16", "INT8"), "1")
    monkeypatch.setattr(precision, "cpu_facts", lambda: cpu)
    monkeypatch.setattr(precision, "WORTH_MEGAPIXELS", 0.01)
    return made


def run(
    weights: Weights, stack: Stack, *, made: Predictor | None = None, **settings: object
) -> PredictionResult:
    wanted = PredictSettings(**{"device": "cpu", "invert": "no"} | settings)
    return drain((made or Predictor(weights)).run(stack, settings=wanted))


class TestAuto:
    def test_takes_the_fastest_and_says_so(
        self, weights: Weights, machine: Machine
    ) -> None:
        found = run(weights, Stack(GREY))
        said = found.provenance.settings
        assert said["precision"] == "int8"
        assert "3.0 times as fast" in said["precision_reason"]
        assert said["precision_reason"] in found.notes

    def test_takes_the_next_one_where_probabilities_change(
        self, weights: Weights, machine: Machine
    ) -> None:
        machine.off["int8"] = 0.0025
        assert run(weights, Stack(GREY)).provenance.settings["precision"] == "bf16"

    def test_takes_the_next_one_where_cells_of_one_part_change(
        self, weights: Weights, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        errors = iter([0.0, 0.0, 0.0, 0.003])  # two parts in bf16, then in int8

        def scores(*_: object) -> SimpleNamespace:
            return SimpleNamespace(adapted_rand_error=next(errors))

        monkeypatch.setattr(precision, "overlap_scores", scores)
        assert run(weights, Stack(GREY)).provenance.settings["precision"] == "bf16"

    def test_stays_with_float32_where_nothing_is_safe(
        self, weights: Weights, machine: Machine
    ) -> None:
        machine.off |= {"int8": 0.0025, "bf16": 0.01}
        found = run(weights, Stack(GREY))
        plain = run(weights, Stack(GREY), precision="float32")
        np.testing.assert_array_equal(found.probabilities, plain.probabilities)
        said = found.provenance.settings
        assert said["precision"] == "float32"
        assert "int8 changes probabilities by 0.0025" in said["precision_reason"]

    def test_measures_once(self, weights: Weights, machine: Machine) -> None:
        stack = Stack(GREY)
        run(weights, stack)
        run(weights, stack)
        assert machine.quantised == 1
        precision._SETTLED.clear()  # as in another process
        machine.loaded.clear()
        assert run(weights, stack).provenance.settings["precision"] == "int8"
        assert machine.quantised == 1
        assert "bf16" not in machine.loaded  # what was measured is known

    def test_calibrates_anew_for_another_stack(
        self, weights: Weights, machine: Machine
    ) -> None:
        run(weights, Stack(GREY))
        run(weights, Stack(255 - GREY))
        assert machine.quantised == 2

    def test_measures_nothing_for_a_short_run(
        self, weights: Weights, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(precision, "WORTH_MEGAPIXELS", 1)
        found = run(weights, Stack(GREY))
        assert found.provenance.settings["precision"] == "float32"
        assert "precision_reason" not in found.provenance.settings
        assert machine.loaded == ["float32"]

    def test_stays_float32_for_a_short_run_of_a_stack_that_was_measured(
        self, weights: Weights, machine: Machine
    ) -> None:
        stack, made = Stack(GREY), Predictor(weights)
        run(weights, stack, made=made)
        settings = PredictSettings(device="cpu", invert="no")
        area = slice(0, 20), slice(0, 20)
        found = drain(made.run(stack, settings=settings, sections=[1], roi=area))
        assert found.provenance.settings["precision"] == "float32"

    def test_a_preview_takes_what_was_measured_and_measures_nothing(
        self, weights: Weights, machine: Machine
    ) -> None:
        stack = Stack(GREY)
        preview = Predictor(weights, settles="known")
        before = run(weights, stack, made=preview).provenance.settings
        assert before["precision"] == "float32"
        assert machine.quantised == 0
        run(weights, stack)
        after = run(weights, stack, made=preview).provenance.settings
        assert after["precision"] == "int8"

    def test_an_estimate_follows(self, weights: Weights, machine: Machine) -> None:
        stack = Stack(GREY)
        way = PredictSettings(device="cpu", invert="no")
        throughput._MS_PER_MEGAPIXEL.clear()
        throughput.remember(weights, way, 300.0)
        int8 = way.model_copy(update={"precision": "int8"})
        before = estimate(stack, weights, settings=way).seconds
        # as long as it hasn't run, it takes no longer than float32
        assert estimate(stack, weights, settings=int8).seconds == before
        throughput.remember(weights, int8, 100.0)
        run(weights, stack)
        assert estimate(stack, weights, settings=way).seconds == pytest.approx(
            before / 3
        )

    def test_is_not_asked_without_openvino_or_for_torch(
        self, weights: Weights, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = run(weights, Stack(GREY), runtime="torch")
        assert found.provenance.settings["precision"] == "float32"
        monkeypatch.setattr(precision, "find_spec", lambda name: None)
        found = run(weights, Stack(GREY))
        assert found.provenance.settings["precision"] == "float32"
        assert set(machine.loaded) == {"float32"}

    def test_too_little_memory_for_measuring_is_float32(
        self, weights: Weights, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> float:
            raise MemoryError

        monkeypatch.setattr(precision, "_speed", full)
        found = run(weights, Stack(GREY))
        assert found.provenance.settings["precision"] == "float32"
        assert any("too little memory" in note for note in found.notes)

    def test_sections_that_show_nothing_are_not_looked_at(
        self, weights: Weights, machine: Machine
    ) -> None:
        grey = GREY.copy()
        grey[2:] = 7
        found = run(weights, Stack(grey))  # two of six places are left
        assert found.provenance.settings["precision"] == "float32"
        with pytest.raises(OtherPrecisionError, match="no section of the stack shows"):
            run(weights, Stack(np.zeros_like(grey)), precision="int8")

    def test_stops_while_it_measures(self, weights: Weights, machine: Machine) -> None:
        settings = PredictSettings(device="cpu", invert="no")
        work = Predictor(weights).run(Stack(GREY), settings=settings)
        assert next(work).step == "choosing the precision"  # type: ignore[attr-defined]
        work.close()
        assert machine.quantised == 0


class TestCache:
    """What is kept is used only as it was written."""

    def entries(self, cache: Path) -> list[Path]:
        return sorted(cache.iterdir())

    def test_damaged_entries_are_made_anew(
        self, weights: Weights, machine: Machine, cache: Path
    ) -> None:
        run(weights, Stack(GREY))
        for entry in self.entries(cache):
            content = bytearray(entry.read_bytes())
            content[-1] ^= 1
            entry.write_bytes(content)
        precision._SETTLED.clear()
        assert run(weights, Stack(GREY)).provenance.settings["precision"] == "int8"
        assert machine.quantised == 2

    def test_entries_of_another_place_are_ignored(
        self, weights: Weights, machine: Machine, cache: Path
    ) -> None:
        run(weights, Stack(GREY))
        known = self.entries(cache)
        run(weights, Stack(255 - GREY))
        for one, other in zip(
            set(self.entries(cache)) - set(known), known, strict=True
        ):
            one.write_bytes(other.read_bytes())
        precision._SETTLED.clear()
        run(weights, Stack(255 - GREY))
        assert machine.quantised == 3

    @pytest.mark.parametrize("junk", [b"", b"x" * 31, b"x" * 4000])
    def test_junk_is_ignored(
        self, weights: Weights, machine: Machine, cache: Path, junk: bytes
    ) -> None:
        run(weights, Stack(GREY))
        for entry in self.entries(cache):
            entry.write_bytes(junk)
        precision._SETTLED.clear()
        assert run(weights, Stack(GREY)).provenance.settings["precision"] == "int8"

    def test_is_bounded_and_the_oldest_goes(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(user_cache, "MOST_BYTES", 1000)
        monkeypatch.setattr(user_cache, "MOST_OF_ONE", 500)
        for k in range(5):
            user_cache.write_entry([k], bytes(400))
            os.utime(user_cache._place([k]), (k, k))
        there = [False] * 3 + [True] * 2
        assert [bool(user_cache.read_entry([k])) for k in range(5)] == there
        user_cache.write_entry(["too large"], bytes(501))
        assert user_cache.read_entry(["too large"]) == b""
        user_cache.write_entry(["new"], bytes(400))  # 4 was asked for after 3
        assert user_cache.read_entry([4])
        assert not user_cache.read_entry([3])

    def test_that_cannot_be_written_is_none(
        self, weights: Weights, machine: Machine, cache: Path
    ) -> None:
        cache.write_text("a file where the folder should be")
        assert run(weights, Stack(GREY)).provenance.settings["precision"] == "int8"

    def test_a_quantised_network_that_is_not_whole_is_refused(self) -> None:
        packed = QuantisedModel(b"<net/>", b"1234").pack()
        assert QuantisedModel.unpack(packed) == QuantisedModel(b"<net/>", b"1234")
        for bad in (packed[:-1], packed[:20], b"", packed + b"x"):
            with pytest.raises(ValueError, match="damaged"):
                QuantisedModel.unpack(bad)


class TestRefused:
    """What can't be is said in words, with what helps."""

    def test_bf16_on_a_cpu_without(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch, openvino: object
    ) -> None:
        cpu = CpuFacts("Some CPU", ("FP32", "INT8"), "1")
        monkeypatch.setattr(openvino_runtime, "cpu_facts", lambda: cpu)
        words = r"this CPU has no bf16 instructions \(Some CPU: FP32, INT8\)"
        with pytest.raises(OtherPrecisionError, match=words) as error:
            run(weights, Stack(GREY), precision="bf16")
        assert error.value.remedies == {"precision": "float32"}

    def test_int8_that_is_another_network_and_one_that_auto_would_not_take(
        self, weights: Weights, machine: Machine
    ) -> None:
        machine.off["int8"] = 0.16
        words = (
            r"int8 changes probabilities by 0\.16 on average on parts of this stack$"
        )
        with pytest.raises(OtherPrecisionError, match=words) as error:
            run(weights, Stack(GREY), precision="int8")
        assert error.value.remedies == {"precision": "float32"}
        machine.off["int8"] = 0.003
        found = run(weights, Stack(255 - GREY), precision="int8")
        assert found.provenance.settings["precision"] == "int8"
        (note,) = (note for note in found.notes if "int8" in note)
        assert note == (
            "precision int8 changes probabilities by 0.003, more than auto would take"
        )

    def test_int8_without_nncf(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch, openvino: object
    ) -> None:
        monkeypatch.setattr(openvino_runtime, "find_spec", lambda name: None)
        with pytest.raises(OtherPrecisionError, match=r"pip install .*\[nncf\]"):
            run(weights, Stack(GREY), precision="int8")

    @pytest.mark.parametrize("name", ["bf16", "int8"])
    @pytest.mark.parametrize(
        ("settings", "words"),
        [({"runtime": "torch"}, "by OpenVINO"), ({"device": "cuda"}, "not on 'cuda'")],
    )
    def test_elsewhere_than_by_openvino_on_a_cpu(
        self, weights: Weights, name: str, settings: dict[str, str], words: str
    ) -> None:
        with pytest.raises(OtherPrecisionError, match=words):
            run(weights, Stack(GREY), precision=name, **settings)

    def test_without_openvino(
        self, weights: Weights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
        with pytest.raises(OtherPrecisionError, match=r"pip install .*\[openvino\]"):
            run(weights, Stack(GREY), precision="bf16")

    def test_too_little_memory_goes_on_in_float32_and_says_so(
        self, weights: Weights, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(predictor, "load_runtime", runtimes.load_runtime)
        monkeypatch.setattr(runtimes, "free_ram", lambda: 400_000_000)
        found = run(weights, Stack(GREY), precision="int8")
        assert found.provenance.settings["precision"] == "float32"
        assert any("running on PyTorch in float32" in note for note in found.notes)


def test_memory_that_runs_out_says_which_precision_goes_on(
    weights: Weights, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def load(part: Weights, settings: PredictSettings, *rest: Any) -> Blur:
        made = machine.load(part, settings, *rest)
        if settings.precision == "int8":
            made.fails = lambda shape: (
                calls.append(1) or (MemoryError() if len(calls) > 3 else None)
            )
        return made

    monkeypatch.setattr(predictor, "load_runtime", load)
    found = run(weights, Stack(GREY), precision="int8", tile=48)
    assert any("in float32; finished tiles" in note for note in found.notes)
    assert found.provenance.settings["precision"] == "int8, then float32"


def test_layers_too_small_for_nncf_are_named(openvino: Any) -> None:
    ops = openvino.opset13
    rng = np.random.default_rng(0)
    x = ops.parameter([1, 2, 8, 8], np.float32)
    grouped, pads = rng.standard_normal((2, 2, 1, 3, 3), np.float32), [1, 1]
    same = {"strides": [1, 1], "pads_begin": pads, "pads_end": pads}
    ones = {"dilations": [1, 1]}
    usual = ops.convolution(
        x, rng.standard_normal((2, 2, 3, 3), np.float32), **same, **ones, name="usual"
    )
    tiny = ops.convolution(
        usual, np.full((2, 2, 3, 3), -1e-8, np.float32), **same, **ones, name="tiny"
    )
    up = ops.convolution_backprop_data(
        tiny, np.full((2, 2, 1, 1), 4e-5, np.float32), strides=[2, 2], name="up"
    )
    last = ops.group_convolution(
        up, grouped[:, :1].copy(), **same, **ones, name="grouped"
    )
    model = openvino.Model([last], [x], "some")
    assert openvino_runtime.small_layers(model) == ["tiny", "up"]


needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="NNCF isn't there")


@pytest.fixture(scope="module")
def made_int8(make_weights: Callable[..., Weights]) -> Weights:
    return make_weights({"base": 8, "levels": 3})


@needs_nncf
@pytest.mark.slow
@pytest.mark.usefixtures("openvino")
class TestInt8:
    """The real thing, on a small network."""

    def test_tiled_is_one_pass_near_float32_and_reports_nothing(
        self, made_int8: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spy = tmp_path / "openvino_telemetry.py"
        spy.write_text(f"open({str(tmp_path / 'asked')!r}, 'w')\nTelemetry = None\n")
        path = os.environ.get("PYTHONPATH", "")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{path}")
        stack = Stack(
            np.random.default_rng(1).integers(0, 256, (6, 200, 260), np.uint8)
        )
        work = Predictor(made_int8)
        whole = run(made_int8, stack, made=work, precision="int8", threads=1)
        assert whole.provenance.settings["precision"] == "int8"
        tiled = run(made_int8, stack, made=work, precision="int8", threads=1, tile=128)
        np.testing.assert_array_equal(tiled.probabilities, whole.probabilities)
        exact = run(made_int8, stack, precision="float32", threads=1)
        difference = np.abs(whole.probabilities - exact.probabilities).mean()
        assert 0 < difference < 0.02
        assert not (tmp_path / "asked").exists()

    def test_large_values_in_the_midst_leave_it_the_same_network(
        self, made_int8: Weights
    ) -> None:
        """As those of a CE-Net before its pooling, and tiny weights after them."""
        network = made_int8.network()
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        with torch.no_grad():
            norms[0].weight *= 1e8
            norms[0].bias *= 1e8
            layers[1].weight *= 1e-8
        rng = np.random.default_rng(2)
        windows = [rng.random((1, 1, 176, 176), np.float32) for _ in range(3)]
        made = drain(openvino_runtime.iter_quantise(network, windows[:2], threads=1))
        exact = openvino_runtime.OpenVinoRuntime(network, threads=1)
        int8 = openvino_runtime.OpenVinoRuntime(
            network, threads=1, precision="int8", quantised=made
        )
        expected = exact(windows[2])
        with torch.no_grad():
            layers[1].weight.zero_()
        without = openvino_runtime.OpenVinoRuntime(network, threads=1)(windows[2])
        lost = np.abs(expected - without).mean()
        assert 0 < np.abs(expected - int8(windows[2])).mean() < lost / 5

    def test_calibrating_stops_at_once(self, made_int8: Weights) -> None:
        stack = Stack(
            np.random.default_rng(1).integers(0, 256, (6, 200, 260), np.uint8)
        )
        settings = PredictSettings(precision="int8", device="cpu", invert="no")
        work = Predictor(made_int8).run(stack, settings=settings)
        steps = [next(work).step for _ in range(3)]  # type: ignore[attr-defined]
        assert steps[-1] == "calibrating int8"
        work.close()
        # the network as it was converted, which int8 was to be made of
        assert len(list(user_cache.cache_folder().iterdir())) == 1
