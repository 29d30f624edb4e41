"""A classifier of edges that learns from cells."""

import json

import numpy as np
import pytest
from drawn_edges import drawn, ended

from napari_emseg.api import learn_edges, segment
from napari_emseg.core.records import Note, drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.metrics import overlap_scores
from napari_emseg.segmentation.edge_classifier import (
    SAID,
    SEEN,
    EdgeClassifier,
    read_edges,
)
from napari_emseg.training.edges import KnownEdges, iter_known_edges


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> tuple[EdgeClassifier, object, list[str]]:
    path = tmp_path_factory.mktemp("edges") / "edges.json"
    notes: list[str] = []
    p, cells = drawn(1)
    found = learn_edges(
        p,
        ended(cells),
        threshold=0.5,
        output=path,
        on_record=lambda r: notes.append(r.message) if isinstance(r, Note) else None,
    )
    return found, path, notes


def test_known_edges_are_those_between_known_cells() -> None:
    p, cells = drawn(2)
    some = np.where(cells % 2 == 0, cells, 0)
    all_, half = (
        drain(iter_known_edges(p, ids, CellSettings())) for ids in (cells, some)
    )
    for kind, seen in SEEN.items():
        assert all_[kind].features.shape == (len(all_[kind].join), seen + SAID[kind])
        assert np.isnan(all_[kind].features[:, seen:]).all()
        assert 0 < len(half[kind].join) < len(all_[kind].join)
        assert set(np.unique(all_[kind].section)) <= set(range(6))
    # a membrane that is nowhere joins nothing that is one cell: shown by the truth
    assert 0 < all_["within"].join.mean() < 1


@pytest.mark.usefixtures("without_data")
def test_it_is_better_than_membrane_and_size_on_another_stack(learnt) -> None:
    _, path, notes = learnt
    p, cells = drawn(5)
    scores = []
    for edges in (None, path):
        found = segment(p, through="graph", threshold=0.5, edges=edges)
        known = cells > 0
        score = overlap_scores(found[known][None] + 1, cells[known][None])
        scores.append(score.variation_of_information)
    assert scores[1] < scores[0]
    assert [note.split(" are right")[0].split()[-2] for note in notes] == (
        ["within", "between"]
    )


def test_what_is_written_is_what_was_learnt_and_plain_numbers(learnt) -> None:
    found, path, _ = learnt
    again = read_edges(path)
    x = np.random.default_rng(0).normal(size=(20, SEEN["between"])).astype(np.float32)
    np.testing.assert_allclose(
        again.log_odds("between", x), found.log_odds("between", x)
    )
    told = json.loads(path.read_text())
    assert told["edges"]["within"] > 50
    assert told["about"] == "cells of cells"


def test_it_learns_on_from_one_that_is_there(learnt) -> None:
    first, path, _ = learnt
    p, cells = drawn(3)
    notes: list[str] = []
    on = learn_edges(
        p,
        ended(cells),
        start=path,
        on_record=lambda r: notes.append(r.message) if isinstance(r, Note) else None,
    )
    assert on.kinds["within"]["mean"] == first.kinds["within"]["mean"]
    assert on.kinds["within"]["networks"] != first.kinds["within"]["networks"]
    assert all("were before" in note for note in notes)


def test_too_little_and_what_doesnt_fit_is_refused(tmp_path) -> None:
    p, cells = drawn(1)
    with pytest.raises(ValueError, match="at least 50 are needed"):
        learn_edges(p, np.where(cells == cells[0, 64, 64], cells, 0))
    with pytest.raises(ValueError, match="but the cells"):
        learn_edges(p, cells[:3])
    path = tmp_path / "edges.json"
    kinds = {
        name: {
            "mean": [0.0] * n,
            "scale": [1.0] * n,
            "networks": [[[[[1.0] * 4] * n, [0.0] * 4]]],  # four outputs, not one
        }
        for name, n in SEEN.items()
    }
    path.write_text(json.dumps(kinds))
    with pytest.raises(ValueError, match="is damaged, or learnt of other features"):
        segment(p, through="graph", edges=path)
    for way in ("sections", "3-d"):
        with pytest.raises(ValueError, match="asks no classifier"):
            segment(p, through=way, edges=path)
    path.write_text("not json")
    with pytest.raises(ValueError, match="holds no classifier of edges"):
        segment(p, through="graph", edges=path)
    kind = {"mean": [0.0], "scale": [1.0], "networks": [[[[[1.0]], [0.0]]]]}
    path.write_text(json.dumps({"within": kind, "between": kind}))
    with pytest.raises(ValueError, match="learnt of other features"):
        segment(p, through="graph", edges=path)


def test_it_learns_what_affinities_are_worth_and_serves_without_them() -> None:
    def said(cells: np.ndarray) -> dict[str, np.ndarray]:
        """Affinities along z alone, of which only half the confidence is right."""
        same = cells == np.roll(cells, 1, 0)
        return {"affinity z1": np.where(same, 0.9, 0.6).astype(np.float32)}

    p, cells = drawn(1)
    cells = ended(cells)
    found = learn_edges(p, cells, threshold=0.5, affinities=said(cells))
    assert found.knows_affinities("between")
    assert not found.knows_affinities("within")
    p, cells = drawn(5)
    cells = ended(cells)

    def across(affinities: dict[str, np.ndarray] | None) -> float:
        """Share of the true ends, between sections 2 and 3, that are found."""
        made = segment(
            p, through="graph", threshold=0.5, edges=found, affinities=affinities
        )
        ends = (made[2] > 0) & (made[3] > 0) & (cells[2] != cells[3])
        return float((made[2] != made[3])[ends].mean())

    # nothing but the affinities shows that cells end there, and 0.6 is no sure sign
    assert across(said(cells)) > 0.9
    assert across(None) < 0.5


@pytest.mark.parametrize("damage", ["nan", "1e39", "no networks", "scale", "layers"])
def test_numbers_that_say_nothing_are_refused(learnt, tmp_path, damage) -> None:
    """Whoever made the file: JSON as Python reads it may hold NaN and more."""
    told = json.loads(learnt[1].read_text())
    within = told["within"]
    if damage == "nan":
        within["networks"][0][0][1][0] = float("nan")
    elif damage == "1e39":
        within["mean"][0] = 1e39
    elif damage == "no networks":
        within["networks"] = []
    elif damage == "scale":
        within["scale"][3] = 0
    else:
        within["networks"][0].pop(0)
    path = tmp_path / "edges.json"
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="is damaged, or learnt of other features"):
        read_edges(path)


def test_a_checksum_is_of_the_numbers(learnt, tmp_path) -> None:
    found, path, _ = learnt
    told = json.loads(path.read_text())
    again = tmp_path / "again.json"
    again.write_text(json.dumps(told | {"about": "x\n<b>y</b>"}, indent=2))
    assert read_edges(again).sha256 == found.sha256
    assert read_edges(again).name == f"x <b>y</b> ({found.sha256[:8]})"
    told["between"]["mean"][0] += 1
    again.write_text(json.dumps(told))
    assert read_edges(again).sha256 != found.sha256


def test_sections_are_left_out_whichever_have_known_edges() -> None:
    def of(*sections: int) -> KnownEdges:
        n = len(sections)
        return KnownEdges(
            np.zeros((n, 1), np.float32),
            np.ones(n, bool),
            np.array(sections),
            np.zeros(n),
        )

    for sections, apart in (
        ((7, 7), set()),
        ((7, 30), {30}),
        ((3, 4, 5), {5}),
        ((0, 1, 2, 3, 4, 5, 6, 9), {2, 9}),
    ):
        edges = of(*sections)
        assert set(edges.section[edges.left_out].tolist()) == apart
