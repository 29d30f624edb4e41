from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.metrics import adapted_rand_error
from skimage.morphology import skeletonize
from skimage.segmentation import watershed

from napari_emseg import sample
from napari_emseg.core.labels import touching
from napari_emseg.core.settings import CellMethod, CellSettings
from napari_emseg.segmentation import section_fragments, segment_section
from napari_emseg.segmentation.section import nothing_predicted

METHODS = get_args(CellMethod)


def ids_of(cells: np.ndarray, drawn: np.ndarray, number: int) -> set[int]:
    """Ids that a drawn cell got where it is well inside."""
    well_inside = ndi.binary_erosion(drawn == number, iterations=2)
    return set(cells[well_inside].tolist())


def blurred(membrane: np.ndarray, *, noise: float, seed: int = 0) -> np.ndarray:
    """What a network might say: membranes out of focus, with noise."""
    rng = np.random.default_rng(seed)
    p = ndi.gaussian_filter(membrane.astype(np.float32), 1)
    return np.clip(p + rng.normal(0, noise, p.shape), 0, 1).astype(np.float32)


def test_drawn_cells_are_found(drawing) -> None:
    cells = segment_section(drawing.membrane, CellSettings(grow=0))
    found = [ids_of(cells, drawing.cells, number) for number in (1, 2, 3, 4)]
    assert all(len(ids) == 1 and 0 not in ids for ids in found)
    assert len(set.union(*found)) == 4
    assert cells.dtype == np.uint32
    assert cells.max() == 4
    assert not cells[drawing.membrane > 0.5].any()


def test_probabilities_a_little_outside_of_0_to_1_are_taken_as_0_and_1(
    drawing,
) -> None:
    blurry = ndi.gaussian_filter((drawing.cells == 0).astype(np.float32), 1)
    rounded = (blurry / blurry.max() * 1.0016 - 0.0008).astype(np.float32)
    assert rounded.min() < 0 < 1 < rounded.max()
    cells = segment_section(rounded)
    np.testing.assert_array_equal(cells, segment_section(np.clip(rounded, 0, 1)))


@pytest.mark.parametrize("method", METHODS)
def test_a_membrane_with_a_gap_parts_two_cells_unless_all_is_joined(
    drawing, method: CellMethod
) -> None:
    parted = segment_section(drawing.membrane, CellSettings(method=method))
    assert ids_of(parted, drawing.cells, 1) != ids_of(parted, drawing.cells, 2)
    joined = segment_section(drawing.membrane, CellSettings(method=method, join=0.95))
    assert ids_of(joined, drawing.cells, 1) == ids_of(joined, drawing.cells, 2)


def test_small_cells_are_kept_removed_or_given_away(drawing) -> None:
    speck = drawing.cells == 5
    kept = segment_section(drawing.membrane, CellSettings(minimum_size=9))
    assert kept.max() == 5
    assert len(set(kept[speck].tolist())) == 1
    removed = segment_section(drawing.membrane, CellSettings(small="remove"))
    assert not removed[speck].any()
    assert removed.max() == 4
    merged = segment_section(drawing.membrane)
    assert merged[speck].any()
    assert merged.max() == 4


def test_cells_grow_into_membranes_but_never_meet(drawing) -> None:
    grown = segment_section(drawing.membrane, CellSettings(grow=50, small="remove"))
    assert (grown == 0).mean() < 0.1
    assert not touching(grown).any()
    one = segment_section(drawing.membrane, CellSettings(grow=1, small="remove"))
    reach = ndi.distance_transform_edt(drawing.membrane > 0.5)
    assert one[(reach == 1) & (drawing.cells == 0)].any()
    assert not one[reach > 1].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_what_is_joined_depends_on_the_odds_against_the_threshold(
    method: CellMethod, threshold: float
) -> None:
    """A membrane of p = threshold counts as 0.5, one of 4 times the odds as 0.8."""
    odds = 4 * threshold / (1 - threshold)
    membrane = np.full((40, 60), threshold / 10, np.float32)
    membrane[:, 28:32] = odds / (1 + odds)
    chosen = {"method": method, "threshold": threshold}
    assert segment_section(membrane, CellSettings(**chosen, join=0.79)).max() == 2
    assert segment_section(membrane, CellSettings(**chosen, join=0.81)).max() == 1


def test_a_thin_process_of_uneven_width_stays_one_cell() -> None:
    membrane = np.full((60, 120), 0.1, np.float32)
    membrane[20:36] = 0.9  # walls of 5 px
    membrane[25:31] = 0.1  # around a process of 6 px between two wide cells
    membrane[25, 30:60] = 0.9  # 5 px wide
    membrane[25:27, 80:90] = 0.9  # 4 px
    cells = segment_section(membrane)
    assert cells.max() == 3
    assert len(np.unique(cells[28])) == 1


def test_fragments_are_cut_again_without_the_probabilities(drawing) -> None:
    fragments = section_fragments(drawing.membrane, 0.5)
    for chosen in (
        CellSettings(),
        CellSettings(join=0.95),
        CellSettings(grow=0, small="remove"),
        CellSettings(method="multicut", minimum_size=9),
    ):
        np.testing.assert_array_equal(
            fragments.cells(chosen), segment_section(drawing.membrane, chosen)
        )
    held = (fragments.labels, fragments.reach, fragments.seams.pixels)
    assert sum(a.nbytes for a in held) <= 8 * drawing.membrane.size


def test_no_cells_where_there_is_no_picture(drawing) -> None:
    exclude = np.zeros(drawing.membrane.shape, bool)
    exclude[:, :6] = True
    cells = segment_section(drawing.membrane, exclude=exclude)
    assert not cells[exclude].any()
    assert cells.max() == 4
    holes = drawing.membrane.copy()
    holes[:, :6] = np.nan
    np.testing.assert_array_equal(segment_section(holes), cells)
    assert not segment_section(drawing.membrane, exclude=~exclude | exclude).any()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, np.nan])
def test_blank_sections_have_no_cells(value: float) -> None:
    assert not segment_section(np.full((30, 40), value, np.float32)).any()


def test_all_membrane_and_all_small_give_no_cells() -> None:
    membrane = np.linspace(0.6, 0.9, 1200, dtype=np.float32).reshape(30, 40)
    assert not segment_section(membrane).any()
    membrane[4:7, 4:7] = 0.1
    assert not segment_section(membrane).any()


def test_8_bit_and_boolean_probabilities(drawing) -> None:
    inside = (drawing.cells > 0) & (drawing.cells != 5)  # 5 may go either way
    wanted = segment_section(drawing.membrane)[inside]
    as_bytes = np.round(drawing.membrane * 255).astype(np.uint8)
    np.testing.assert_array_equal(segment_section(as_bytes)[inside], wanted)
    as_mask = segment_section(drawing.cells == 0)
    np.testing.assert_array_equal(as_mask[inside], wanted)


def test_padding_is_told_from_small_probabilities(drawing) -> None:
    rng = np.random.default_rng(0)
    p = (drawing.membrane + rng.uniform(0, 0.05, drawing.membrane.shape)).astype("f4")
    assert nothing_predicted(p) is None
    p[:, :9] = 0
    found = nothing_predicted(p)
    assert found is not None
    np.testing.assert_array_equal(found, p == 0)
    from_8_bits = np.round(p * 255).astype(np.float32) / np.float32(255)
    assert nothing_predicted(from_8_bits) is None


@pytest.mark.parametrize(
    ("membrane", "message"),
    [
        (np.zeros((2, 5, 5), np.float32), r"\(y, x\)"),
        (np.zeros((5, 5), np.uint16), "not uint16"),
        (np.linspace(0, 200, 25, dtype=np.float32).reshape(5, 5), "from 0 to 1"),
    ],
)
def test_what_is_no_probability_is_refused(membrane, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment_section(membrane)


def test_exclude_must_fit(drawing) -> None:
    with pytest.raises(ValueError, match="exclude is"):
        segment_section(drawing.membrane, exclude=np.zeros((3, 3), bool))


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    method=st.sampled_from(METHODS),
    join=st.floats(0, 1),
    grow=st.integers(0, 4),
    small=st.sampled_from(["merge", "remove"]),
)
def test_what_holds_for_all_pictures(seed, shape, method, join, grow, small) -> None:
    rng = np.random.default_rng(seed)
    rough = ndi.gaussian_filter(rng.normal(size=shape), 2)
    p = (1 / (1 + np.exp(-20 * rough))).astype(np.float32)
    chosen = CellSettings(
        method=method, join=join, grow=grow, small=small, minimum_size=20
    )
    cells = segment_section(p, chosen)
    ids = np.unique(cells[cells > 0])
    assert ids.tolist() == list(range(1, len(ids) + 1))
    assert not touching(cells).any()
    if grow == 0:
        assert not cells[p > 0.5].any()
    np.testing.assert_array_equal(segment_section(p, chosen), cells)


def score(cells: np.ndarray, truth: np.ndarray) -> float:
    error, _, _ = adapted_rand_error(truth, cells, ignore_labels=(0,))
    return float(1 - error)


def plainly(p: np.ndarray, *, min_distance: int) -> np.ndarray:
    """scikit-image's watershed of the distance to membranes, from its peaks."""
    inside = p <= 0.5
    depth = ndi.distance_transform_edt(inside)
    peaks = peak_local_max(depth, min_distance=min_distance, labels=inside.astype(int))
    markers = np.zeros(p.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, markers)


def test_known_cells_are_found_better_than_by_a_plain_watershed(drawn_stack) -> None:
    _, known = drawn_stack
    p = blurred(known[0] == 0, noise=0.1)
    ours = score(segment_section(p, CellSettings(grow=4)), known[0])
    assert ours > 0.95
    assert ours > score(plainly(p, min_distance=5), known[0]) + 0.01


def test_real_membranes_with_holes_give_the_cells_they_enclose() -> None:
    """Drawn membranes of the bundled EM, out of focus and noisy, thin ones pierced."""
    drawn = sample.vnc_membranes().section(0) > 0
    truth, _ = ndi.label(~drawn)
    thin = skeletonize(drawn) & (ndi.distance_transform_edt(drawn) <= 3)
    y, x = np.nonzero(thin)
    holes = np.zeros(drawn.shape, bool)
    for k in np.random.default_rng(1).choice(len(y), 60, replace=False):
        holes[max(0, y[k] - 1) : y[k] + 2, max(0, x[k] - 1) : x[k] + 2] = True
    p = blurred(drawn & ~holes, noise=0.1)
    ours = score(segment_section(p), truth)
    assert ours > 0.95
    areas, _ = ndi.label(p <= 0.5)
    assert ours > score(watershed(p, areas), truth) + 0.1
    assert ours > score(plainly(p, min_distance=10), truth) + 0.05
