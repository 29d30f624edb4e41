"""Networks that see neighbouring sections: which ones, at ends, gaps and in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import Normalisation, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import Predictor
from napari_emseg.inference.region import DoubtPredictor, RegionPredictor
from napari_emseg.inference.sections import SectionReader, reach, stand_in
from napari_emseg.models.weights import Weights
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.sparse_labels import MEMBRANE, SparseLabels
from napari_emseg.training.training_data import completed

MakeWeights = Callable[..., Weights]

ALL = slice(None), slice(None)
WHOLE = slice(0, 24), slice(0, 32)
FIVE = {"context": 5, "affinities": [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]}
NAMES = ("affinity z1", "affinity y1", "affinity x1")


class Counting:
    """An array that counts how often each section is read; some can't be."""

    def __init__(self, values: NDArray[Any], damaged: tuple[int, ...] = ()) -> None:
        self.values, self.damaged = values, damaged
        self.shape, self.dtype = values.shape, values.dtype
        self.read: list[int] = []

    def __getitem__(self, key: Any) -> NDArray[Any]:
        z = key[0] if isinstance(key, tuple) else key
        self.read.append(int(z))
        if z in self.damaged:
            msg = "the disk is broken"
            raise OSError(msg)
        return np.asarray(self.values[key])


def grey(depth: int, shape: tuple[int, int] = (24, 32), seed: int = 0) -> NDArray[Any]:
    """Sections that can be told apart: noise, from 20 to 230."""
    rng = np.random.default_rng(seed)
    return rng.integers(20, 230, (depth, *shape), dtype=np.uint8)


def seen(reader: SectionReader, z: int, values: NDArray[Any]) -> list[int]:
    """Return which sections a network is shown beside `z`, by what they hold."""
    alone = SectionReader(Stack(values), Normalisation(), invert=False)
    planes = {k: alone.open(k).window(*WHOLE) for k in range(len(values))}
    return [
        next(k for k, plane in planes.items() if np.array_equal(plane, window))
        for window in reader.open(z).windows(*WHOLE)
    ]


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        (0, [0, 0, 0, 1, 2]),  # nothing below the first
        (1, [0, 0, 1, 2, 3]),
        (2, [0, 1, 2, 3, 5]),  # 4 is blank
        (3, [1, 2, 3, 5, 7]),  # 6 is excluded
        (5, [2, 3, 5, 7, 8]),
        (7, [3, 5, 7, 8, 10]),  # 9 can't be read
        (11, [8, 10, 11, 11, 11]),  # nothing above the last
    ],
)
def test_the_nearest_good_section_stands_in(z: int, expected: list[int]) -> None:
    values = grey(12)
    values[4] = 7
    stack = Stack(Counting(values, damaged=(9,)))
    reader = SectionReader(
        stack, Normalisation(), invert=False, context=5, excluded=(6,)
    )
    assert seen(reader, z, values) == expected


def test_beyond_a_wide_gap_nothing_is_a_neighbour() -> None:
    values = grey(9)
    values[2:5] = 0
    reader = SectionReader(Stack(values), Normalisation(), invert=False, context=3)
    assert seen(reader, 5, values) == [5, 5, 6]
    assert reach(1) == 0
    assert stand_in([], "own", 2) == ["own", "own"]


def test_a_neighbour_without_picture_shows_the_one_before_it() -> None:
    values = grey(3, (40, 40))
    values[0, :, :12] = 0  # alignment padding
    reader = SectionReader(Stack(values), Normalisation(), invert=False, context=3)
    below, own, _ = reader.open(1).windows(*ALL)
    np.testing.assert_array_equal(below[:, :12], own[:, :12])
    assert not np.array_equal(below[:, 12:], own[:, 12:])


def test_each_section_of_a_run_is_read_once(make_weights: MakeWeights) -> None:
    array = Counting(grey(8, (40, 48)))
    settings = PredictSettings(invert="no", runtime="torch", device="cpu")
    drain(Predictor(make_weights(FIVE)).run(Stack(array), settings=settings))
    assert sorted(array.read) == list(range(8))


@pytest.mark.parametrize("context", [3, 5])
def test_tiled_is_whole_and_chosen_is_all(
    make_weights: MakeWeights, context: int
) -> None:
    weights = make_weights({**FIVE, "context": context}, pixel_size_nm=(4, 4))
    assert weights.card.context == context
    assert weights.card.classes == ("membrane", "inside", *NAMES)
    assert weights.card.further_classes == ()
    stack = Stack(grey(4, (150, 130)), voxel_size_nm=(30, 4.4, 4.4))
    ways: dict[str, Any] = {"runtime": "torch", "device": "cpu", "invert": "no"}
    predictor, every = Predictor(weights), weights.card.classes

    def run(**options: Any) -> NDArray[np.float32]:
        tile = options.pop("tile", None)
        settings = PredictSettings(**ways, tile=tile)
        found = drain(
            predictor.run(stack, settings=settings, classes=every, **options)
        ).probabilities
        assert found is not None
        return found

    whole = run()
    np.testing.assert_allclose(whole[:2].sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(run(tile=80), whole, atol=1e-5)
    np.testing.assert_allclose(run(sections=(2,))[:, 0], whole[:, 2], atol=1e-5)
    part = slice(30, 90), slice(41, 100)
    np.testing.assert_allclose(
        run(sections=(3, 1), roi=part), whole[:, [1, 3], *part], atol=1e-5
    )
    # another section is seen beside an excluded one
    assert not np.allclose(run(sections=(2,), excluded=(1,))[:, 0], whole[:, 2])


def test_what_learning_asks_for_has_no_affinities(make_weights: MakeWeights) -> None:
    weights = make_weights(FIVE)
    settings = PredictSettings(runtime="torch", device="cpu", tta=True)
    found = RegionPredictor(weights, settings).probabilities(
        Stack(grey(3, (40, 48))), Region(1, 0, 0, 40, 48), invert=False
    )
    assert found is not None
    assert found.shape == (2, 40, 48)


def test_learning_shows_no_excluded_section_beside_others(
    make_weights: MakeWeights,
) -> None:
    """As runs: so regions are completed, compared, and looked at for doubt."""
    weights, stack = make_weights(FIVE), Stack(grey(4, (40, 48)))
    settings = PredictSettings(runtime="torch", device="cpu", invert="no")
    region, threshold = Region(2, 0, 0, 40, 48), weights.card.threshold
    known = TrainingSet(
        stack, SparseLabels(stack.shape), (region,), frozenset({1}), False
    )

    def run(excluded: frozenset[int]) -> NDArray[np.float32]:
        work = Predictor(weights).run(
            stack, settings=settings, sections=(2,), excluded=excluded
        )
        found = drain(work).probabilities
        assert found is not None
        return found[0]

    expected = run(known.excluded)
    assert not np.allclose(expected, run(frozenset()), atol=1e-3)
    whole = drain(completed(known, RegionPredictor(weights, settings)))
    shown = whole.opinions.window(region)
    # 0 beside gaps in walls
    assert (shown > 0).any()
    np.testing.assert_array_equal(
        shown[shown > 0] == MEMBRANE, expected[shown > 0] > threshold
    )
    doubt = DoubtPredictor(weights, settings)
    seen = doubt.membrane_and_doubt(stack, region, **known.seen)
    assert seen is not None
    np.testing.assert_allclose(seen[0], expected, atol=1e-5)


def test_openvino_sees_the_same(make_weights: MakeWeights, openvino: Any) -> None:
    predictor = Predictor(make_weights(FIVE), at_hand=2)
    stack = Stack(grey(3, (60, 48)))
    torch, other = (
        drain(
            predictor.run(
                stack,
                settings=PredictSettings(runtime=name, device="cpu"),
                classes=("membrane", *NAMES),
            )
        ).probabilities
        for name in ("torch", "openvino")
    )
    np.testing.assert_allclose(torch, other, atol=1e-4)


def test_a_card_that_contradicts_its_network_is_refused(
    make_weights: MakeWeights,
) -> None:
    weights = make_weights(FIVE)
    odd = replace(weights, card=weights.card.model_copy(update={"context": 3}))
    with pytest.raises(ValueError, match="its card says 3 sections"):
        odd.network()
