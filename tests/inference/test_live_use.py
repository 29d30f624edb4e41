"""Many runs over parts of one section: networks at hand, the section remembered."""

from __future__ import annotations

import numpy as np
from nested import nested_weights

from napari_emseg.core.records import drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import Predictor, throughput

FAST = PredictSettings(runtime="torch", device="cpu", threads=1)
PART = (slice(0, 32), slice(0, 32))


def at(depth: int) -> PredictSettings:
    return FAST.model_copy(update={"depth": depth})


def test_so_many_networks_stay_loaded(tmp_path) -> None:
    predictor = Predictor(nested_weights(tmp_path), at_hand=2)
    first, second = (predictor.runtime(at(depth)) for depth in (1, 2))
    assert predictor.runtime(at(1)) is first
    assert predictor.runtime(at(2)) is second
    predictor.runtime(at(3))
    assert predictor.runtime(at(2)) is second
    assert predictor.runtime(at(1)) is not first


class Counted:
    """Sections that are read from somewhere."""

    def __init__(self) -> None:
        self.values = np.random.default_rng(0).integers(0, 255, (2, 64, 64), np.uint8)
        self.shape, self.dtype = self.values.shape, self.values.dtype
        self.read: list[int] = []

    def __getitem__(self, key) -> np.ndarray:
        self.read.append(key)
        return self.values[key].copy()


def test_a_section_is_remembered_only_if_asked(tmp_path) -> None:
    weights = nested_weights(tmp_path)
    way = FAST.model_copy(update={"invert": "no"})
    for remember, read in ((True, [0, 1, 0]), (False, [0, 0, 1, 0])):
        data = Counted()
        predictor = Predictor(weights, remember=remember)
        for z in (0, 0, 1, 0):
            work = predictor.run(Stack(data), settings=way, sections=[z], roi=PART)
            drain(work)
        assert data.read == read


def test_the_first_window_of_a_shape_does_not_tell_the_speed(
    tmp_path, monkeypatch
) -> None:
    throughput._MS_PER_MEGAPIXEL.clear()
    weights = nested_weights(tmp_path)
    noted: list[float] = []
    keep = throughput.remember
    monkeypatch.setattr(
        throughput, "remember", lambda *a: (noted.append(a[2]), keep(*a))
    )
    stack = Stack(np.random.default_rng(0).integers(0, 255, (1, 700, 700), np.uint8))
    predictor = Predictor(weights)
    for _ in range(3):
        drain(predictor.run(stack, settings=at(1), roi=(slice(0, 700), slice(0, 640))))
    assert len(noted) == 3  # the very first time is better than none
    drain(predictor.run(stack, settings=at(1)))
    assert len(noted) == 3  # another shape: the time that is known is better
