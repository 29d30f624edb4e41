"""One graph over all sections: its edges, its classifier, its cells."""

import json

import numpy as np
import pytest
from scipy import ndimage as ndi

from napari_emseg.core.records import drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.metrics import overlap_scores
from napari_emseg.sample import synthetic
from napari_emseg.segmentation import segment_stack
from napari_emseg.segmentation.edge_classifier import SAID, SEEN, EdgeClassifier
from napari_emseg.segmentation.edge_features import (
    SectionGraph,
    edges_between,
    shift_of,
)
from napari_emseg.segmentation.stack_graph import (
    StackGraph,
    iter_segment_graph,
    strength_of_odds,
)

BY_GRAPH = CellSettings(through="graph", minimum_size=20)


def membranes(shape: tuple[int, int, int] = (5, 96, 96), seed: int = 1) -> tuple:
    """What a network might say of drawn cells, and the cells."""
    _, cells = synthetic(shape, seed=seed, drift=0.5)
    p = ndi.gaussian_filter((cells == 0).astype(np.float32), (0, 1, 1)) * 1.3
    return np.clip(p, 0, 1).astype(np.float32), cells


def error(found: np.ndarray, cells: np.ndarray) -> float:
    scores = overlap_scores(found[cells > 0][None], cells[cells > 0][None])
    return scores.adapted_rand_error


@pytest.mark.parametrize("method", ["agglomeration", "multicut", "mutex-watershed"])
def test_drawn_neurites_are_found_without_a_classifier(method) -> None:
    p, cells = membranes()
    chosen = BY_GRAPH.model_copy(update={"method": method})
    found = drain(iter_segment_graph(p, chosen))
    assert error(found, cells) < 0.03
    assert set(np.unique(found)) == set(range(found.max() + 1))


def test_what_one_section_shows_badly_its_neighbours_mend() -> None:
    """A wall runs through one cell of the middle section, and of no other."""
    z, y, x = np.mgrid[:3, :40, :60]
    p = np.full(z.shape, 0.05, np.float32)
    p[(y < 3) | (y > 36) | (x < 3) | (x > 56)] = 0.95
    p[1, :, 28:31] = 0.85
    alone = drain(segment_stack(p, settings=CellSettings())).cells[1]
    assert alone[20, 15] != alone[20, 45]
    found = drain(iter_segment_graph(p, BY_GRAPH))
    assert found[0, 20, 20] == found[1, 20, 15] == found[1, 20, 45] == 1


def test_a_shifted_section_is_found_again() -> None:
    p, cells = membranes((2, 96, 96))
    moved = np.roll(p[1], (12, -8), (0, 1))
    a, b = (SectionGraph.of(s, 0.5) for s in (p[0], moved))
    shift = shift_of(a, b, 40)
    assert abs(shift[0] + 12) <= 2
    assert abs(shift[1] - 8) <= 2
    assert shift_of(a, b, 0) == (0, 0)
    cross = edges_between(a, b, shift)
    assert len(cross.ends) >= len(np.unique(cells[0])) // 2


@pytest.mark.parametrize("missing", [(2,), (2, 3)])
def test_missing_sections_are_bridged_and_long_gaps_end_cells(missing) -> None:
    p, _ = membranes((6, 64, 64))
    found = drain(segment_stack(p, settings=BY_GRAPH, excluded=missing))
    assert not found.cells[list(missing)].any()
    last, following = found.cells[missing[0] - 1], found.cells[missing[-1] + 1]
    same = (last == following)[(last > 0) & (following > 0)]
    # some end at the gap or move too far in it; without a bridge none is the same
    assert same.mean() > 0.6
    long = drain(segment_stack(p, settings=BY_GRAPH, excluded=(1, 2, 3)))
    before, behind = long.cells[0], long.cells[4]
    assert not np.intersect1d(before[before > 0], behind[behind > 0]).size


def test_a_classifier_is_numbers_from_json_and_says_what_it_says(tmp_path) -> None:
    # one layer of ReLU: odds = 2 max(0, x - y) + 1, after x and y are put on a scale
    kind = {
        "mean": [1.0, 0.0],
        "scale": [2.0, 1.0],
        "networks": [[[[[1.0], [-1.0]], [0.0]], [[[2.0]], [1.0]]]],
    }
    path = tmp_path / "edges.json"
    path.write_text(json.dumps({"within": kind, "between": kind, "about": "drawn"}))
    classifier = EdgeClassifier.load(path)
    x = np.array([[5, 0], [1, 3], [np.nan, -1]], np.float32)
    np.testing.assert_allclose(classifier.log_odds("within", x), [5, 1, 3])
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no classifier"):
        EdgeClassifier.load(path)


def test_features_are_as_many_in_every_section_and_finite() -> None:
    seen: dict[str, list[np.ndarray]] = {"within": [], "between": []}

    class Listening(EdgeClassifier):
        def log_odds(self, kind, features):
            seen[kind].append(features)
            return np.zeros(len(features))

    graph = StackGraph(Listening({}, {}), 40)
    for p in membranes((3, 64, 64))[0]:
        graph.add(SectionGraph.of(p, 0.5))
    regions, first = graph.finish()
    assert [len(v) for v in seen.values()] == [3, 2]
    for kind, columns in SEEN.items():
        features = np.concatenate(seen[kind])
        assert features.shape[1] == columns + SAID[kind]
        assert np.isfinite(features[:, :columns]).all()
        assert np.isnan(features[:, columns:]).all()
    assert first[-1] == len(regions.sizes) - 1
    assert (regions.edges[:, 0] < regions.edges[:, 1]).all()


def test_even_odds_are_neutral_and_stronger_ones_stay_in_bounds() -> None:
    odds = np.array([0.0, 100.0, -100.0, 2.0])
    strength = strength_of_odds(odds)
    assert strength[0] == CellSettings().join
    assert ((strength > 0) & (strength < 1)).all()
    assert list(np.argsort(strength)) == [1, 3, 0, 2]


def test_nothing_seen_has_no_cells() -> None:
    p = np.full((3, 32, 32), np.nan, np.float32)
    found = drain(segment_stack(p, settings=BY_GRAPH))
    assert found.linked == 0
    assert not drain(iter_segment_graph(p, BY_GRAPH)).any()
