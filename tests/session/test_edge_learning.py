"""Cells that a person is done with teach which fragments are one cell."""

from __future__ import annotations

import json
import re
from functools import cache

import numpy as np
import pytest
import torch
from drawn_edges import drawn, ended
from finetuning import QUICK, finetune_by_torch

from napari_emseg.core.card import Card
from napari_emseg.core.records import ClassifierRef, drain
from napari_emseg.core.regions import Area, Region, RunScope
from napari_emseg.core.settings import CellSettings, Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import AugmentSettings, FinetuneSettings
from napari_emseg.inference.sections import SectionReader
from napari_emseg.models.weights import save_weights
from napari_emseg.models.zoo import build
from napari_emseg.proofreading import lock, merge_through, split_through
from napari_emseg.segmentation.edge_classifier import default_classifier
from napari_emseg.session import Session
from napari_emseg.session.annotations import ManualCorrections, as_labels
from napari_emseg.session.edge_learning import (
    NO_MEMBRANES,
    NOT_LINKED,
    NOTHING_KNOWN,
    EdgesLearnt,
    ProofreadCells,
)
from napari_emseg.session.projects import open_project, save_project
from napari_emseg.session.round_preview import THROUGH_ONLY, RoundPreview
from napari_emseg.session.run_factory import RunFactory
from napari_emseg.session.training_inputs import TrainingInputs
from napari_emseg.training.crops import cut_crops
from napari_emseg.training.edges import iter_known_edges
from napari_emseg.training.losses import IGNORE
from napari_emseg.training.patches import CorrectionPatches
from napari_emseg.training.sparse_labels import RUN, SparseIds

STILL = AugmentSettings(
    warp=0, artefacts=0, shifted=0, missing_neighbour=0, blank_neighbour=0
)

GRAPH = CellSettings(through="graph", minimum_size=0)


def with_cells(
    p: np.ndarray,
    cells: np.ndarray,
    *runs: tuple[range, Area],
    linked: bool = True,
    key: str = "em",
) -> Session:
    """Return a session with membranes and cells through the stack, as after runs."""
    rng = np.random.default_rng(0)
    session = Session(cell_settings=GRAPH)
    session.select(key, Stack(rng.integers(20, 230, p.shape, np.uint8), name=key))
    editor, whole = session.correcting(), (slice(0, p.shape[1]), slice(0, p.shape[2]))
    for z in range(len(p)):
        editor.put_prediction(z, whole, p[z], 0.5)
        editor.results.settle(z)
    for sections, area in runs or [(range(len(p)), whole)]:
        for z in sections:
            editor.put_cells(z, area, cells[z][area].astype(np.uint32))
        editor.results.note_links(sections, linked=linked)
        editor.finish_run()
    return session


def squares(linked: bool = True) -> Session:
    """Four cells of 8 × 8 px in each of three sections."""
    cells = np.zeros((3, 20, 20), np.uint32)
    for nth, (y, x) in enumerate(((1, 1), (1, 11), (11, 1), (11, 11)), start=1):
        cells[:, y : y + 8, x : x + 8] = nth
    p = np.where(cells == 0, np.float32(0.9), np.float32(0.1))
    return with_cells(p, cells, linked=linked)


def known(session: Session) -> ProofreadCells:
    found = ProofreadCells.of(session.source)
    assert found is not None
    return found


def ids(found: ProofreadCells) -> list[set[int]]:
    return [set(np.unique(found[z]).tolist()) - {0} for z in range(3)]


def test_what_is_reviewed_locked_or_merged_in_3d_is_known() -> None:
    session = squares()
    assert ProofreadCells.of(session.source) is None
    editor = session.correcting()
    editor.review(Region(1, 0, 0, 10, 20))
    assert ids(known(session)) == [set(), {1, 2}, set()]
    editor.do(lock(editor.sheet(0), (14.0, 4.0)))
    assert ids(known(session)) == [{3}, {1, 2, 3}, {3}]
    # ids that are changed through the stack wait for their sections to be looked at
    editor.do(merge_through(editor.linked, (0, (2.0, 2.0)), (0, (2.0, 12.0))))
    assert ids(known(session)) == [{1, 3}, {1, 3}, {1, 3}]
    session.exclude(2)
    assert ids(known(session)) == [{1, 3}, {1, 3}, set()]


def test_networks_learn_how_known_cells_go_on() -> None:
    session = squares()
    editor = session.correcting()
    editor.review(Region(0, 0, 0, 10, 20))
    editor.review(Region(1, 0, 0, 10, 20))
    found = drain(ManualCorrections.of(session.source).read("no")).ids
    assert found is not None
    assert found.sections == {0, 1}
    row = found.window(Region(1, 5, 0, 6, 20))[0]
    assert row.tolist() == [0, *[1] * 8, 0, 0, *[2] * 8, 0]
    assert (found.window(Region(1, 10, 0, 20, 20)) == SparseIds.UNKNOWN).all()
    # as it is kept for a round that goes on
    again = SparseIds.of(found.shape, found.blocks, found.as_array())
    assert again.fingerprint == found.fingerprint


SIDE = 80
WHOLE: Area = (slice(0, SIDE), slice(0, SIDE))
LEFT, RIGHT = ((slice(0, SIDE), slice(x, x + SIDE // 2)) for x in (0, SIDE // 2))
FIRST, SECOND, ALL = range(2), range(2, 4), range(4)


@cache
def half_ended() -> tuple[np.ndarray, np.ndarray]:
    """Return membranes and cells; half of the cells end before section 2."""
    p, cells = drawn(1)
    part = slice(1, 5), slice(SIDE), slice(SIDE)
    return p[part], ended(cells)[part]


def reviewed(*runs: tuple[range, Area]) -> Session:
    """Return a session in which all cells of some runs are reviewed."""
    return all_reviewed(with_cells(*half_ended(), *runs))


def all_reviewed(session: Session) -> Session:
    for z in ALL:
        session.review(z)
    return session


def across(cells: Session | np.ndarray, z: int = 2) -> list[bool]:
    """Return if each edge that is known between a section and the one before joins."""
    origin = known(cells) if isinstance(cells, Session) else None
    work = iter_known_edges(half_ended()[0], origin or cells, GRAPH, origin=origin)
    edges = drain(work)["between"]
    return edges.join[edges.section == z].tolist()


@pytest.mark.parametrize("older", [False, True])
def test_the_border_of_two_runs_says_only_what_a_person_said(older: bool) -> None:
    session, one = reviewed((FIRST, WHOLE), (SECOND, WHOLE)), reviewed((ALL, WHOLE))
    editor, (_, cells) = session.correcting(), half_ended()
    if older:  # a project of before doesn't tell of runs
        editor.results.remember(editor.results.segmented, ALL)
    assert across(session) == []
    assert across(session, 1) == across(one, 1)
    assert set(across(one)) == {False, True}
    # a cell is merged by hand, in all sections; that others are apart stays unknown
    y, x = np.argwhere((cells[1] == cells[2]) & (cells[1] > 0))[0].tolist()
    alone = across(np.where(cells == cells[1, y, x], cells, 0))
    editor.do(merge_through(editor.linked, (1, (y, x)), (2, (y, x))))
    assert across(session) == alone
    assert set(alone) == {True}
    editor.do(split_through(editor.linked, (2, (y, x))))
    assert across(session) == [False] * len(alone)


def test_cells_found_again_from_a_section_on_join_where_ids_went_on() -> None:
    one, again = reviewed((ALL, WHOLE)), reviewed((ALL, WHOLE), (SECOND, WHOLE))
    assert across(again) == [True] * sum(across(one))
    assert across(again, 3) == across(one, 3)
    undone = with_cells(*half_ended(), (ALL, WHOLE))
    editor = undone.correcting()
    editor.put_cells(2, WHOLE, np.zeros((SIDE, SIDE), np.uint32))
    editor.finish_run()
    editor.undo()
    assert across(all_reviewed(undone)) == across(one)


def test_cells_of_two_parts_say_nothing_of_each_other() -> None:
    cells = half_ended()[1]
    session, apart = reviewed((ALL, LEFT), (ALL, RIGHT)), []
    for area in (LEFT, RIGHT):
        half = np.zeros_like(cells)
        half[:, *area] = cells[:, *area]
        apart += across(half)
    assert sorted(across(session)) == sorted(apart)
    assert len(apart) < len(across(reviewed((ALL, WHOLE))))


def test_networks_learn_nothing_between_two_runs_but_merges() -> None:
    session = reviewed((FIRST, WHOLE), (SECOND, WHOLE))
    learnt = drain(ManualCorrections.of(session.source).read("no"))
    found, shown = learnt.ids, session.source.results.cells
    assert found is not None
    for z, run in ((1, 0), (2, 1)):
        ids = found.window(Region.whole(z, (SIDE, SIDE)))
        assert set(np.unique(ids[ids > 0] // RUN).tolist()) == {run}
    labels = as_labels(learnt, through=True).data
    assert set(np.unique(labels[2])) - {0, -1} == set(np.unique(shown[2])) - {0}
    for ids in (found, SparseIds.of(found.shape, found.blocks, found.as_array())):
        assert [ids.are_together(z, z + 1) for z in range(3)] == [True, False, True]
    assert [labels.are_together(z, 2) for z in (1, 3)] == [False, True]


def ended_and_run_together() -> Session:
    """Cell 1 goes on as 5, which was split off; cell 2 is two cells; 3 and 4 are right.

    The first is merged again in 3-D, the second split between sections 0 and 1.
    """
    cells = np.zeros((3, 20, 20), np.uint32)
    for nth, (y, x) in enumerate(((1, 1), (1, 11), (11, 1), (11, 11)), start=1):
        cells[:, y : y + 8, x : x + 8] = nth
    cells[1:][cells[1:] == 1] = 5
    p = np.where(cells == 0, np.float32(0.9), np.float32(0.1))
    session = with_cells(p, cells)
    editor = session.correcting()
    editor.do(merge_through(editor.linked, (0, (4.0, 4.0)), (1, (4.0, 4.0))))
    editor.do(split_through(editor.linked, (1, (4.0, 14.0))))
    return session


def test_merges_and_splits_in_3d_teach_how_cells_go_on_and_nothing_else() -> None:
    session = ended_and_run_together()
    found = drain(ManualCorrections.of(session.source).read("no"))
    assert found.opinions.pixels == 0
    assert found.is_something
    stack, rule = session.source.stack, Normalisation()
    sections = SectionReader(stack, rule, invert=False, context=3)
    crops = list(
        cut_crops(
            sections, found.opinions, margin=4, ids=found.ids, through=found.through
        )
    )
    assert [crop.region.z for crop in crops] == [0, 1, 2]
    patches = CorrectionPatches(
        crops[1:2],
        FinetuneSettings(patch=32, batch=1, rehearsal=0, augment=STILL),
        device=torch.device("cpu"),
        affinities=((-1, 0, 0), (1, 0, 0), (0, -1, 0)),
    )
    _, target, weight = patches.batch(0)
    classes, before, after, beside = target[0]
    assert (classes == IGNORE).all()
    assert (weight == 0).all()
    assert (beside == IGNORE).all()
    assert set(before.unique().tolist()) == {0, 1, IGNORE}
    assert set(after.unique().tolist()) == {1, IGNORE}
    # cell 1 goes on from the section before, cell 2 doesn't; both go on into the next,
    # and what nobody spoke of says nothing
    here, (below,), (above,) = crops[1].through, crops[1].below, crops[1].above
    merged, split = (slice(1, 9), slice(1, 9)), (slice(1, 9), slice(11, 19))
    spoken = np.zeros((20, 20), bool)
    spoken[merged] = spoken[split] = True
    for ids_of in (here, below, above):
        np.testing.assert_array_equal(ids_of > 0, spoken)
    np.testing.assert_array_equal(here[spoken], above[spoken])
    assert (here[merged] == below[merged]).all()
    assert (here[split] != below[split]).all()


def test_what_was_undone_or_contradicted_teaches_nothing() -> None:
    session = ended_and_run_together()
    editor = session.correcting()
    assert ManualCorrections.of(session.source).told() == 2
    # later split at the same place: that it was merged isn't so any more
    editor.do(split_through(editor.linked, (1, (4.0, 4.0))))
    assert ManualCorrections.of(session.source).told() == 2
    for _ in range(3):
        editor.undo()
    teacher = ManualCorrections.of(session.source)
    assert teacher.told() == 0
    assert not drain(teacher.read("no")).is_something


def test_what_merges_in_3d_teach_is_said_before_a_round(tmp_path) -> None:
    session = ended_and_run_together()
    material = TrainingInputs(session)
    assert material.ask()() == RoundPreview(THROUGH_ONLY, ready=False)
    plain = Card(name="plain", architecture="unet", config={"base": 2, "levels": 1})
    config = {"base": 2, "levels": 1, "context": 3, "affinities": [[-1, 0, 0]]}
    card = plain.model_copy(update={"config": config})
    for name, each in (("plain", plain), ("seeing", card)):
        state = build("unet", each.config).state_dict()
        weights = save_weights(tmp_path / f"{name}.safetensors", state, each)
        session.choose_weights(weights)
        said = material.ask()()
        assert said.ready is (name == "seeing")
    assert said.learns == "Training data: 2 merges and splits in 3-D of em."
    # a round is learnt from them alone
    known = drain(ManualCorrections.of(session.source).read("no"))
    quick = QUICK.model_copy(update={"rehearsal": 0.5})
    found = drain(
        finetune_by_torch(
            weights, [known], tmp_path / "out.safetensors", settings=quick
        )
    )
    assert found.comparison.pixels == 0
    before, after = (w.network().state_dict() for w in (weights, found.weights))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_cells_of_single_sections_teach_nothing_of_the_next() -> None:
    session = squares(linked=False)
    session.review(0)
    assert ProofreadCells.of(session.source) is None
    with pytest.raises(ValueError, match=re.escape(NOT_LINKED)):
        RunFactory(session).learn_edges()


def test_too_little_is_refused_with_what_is_needed() -> None:
    session = squares()
    with pytest.raises(ValueError, match=re.escape(NOTHING_KNOWN)):
        RunFactory(session).learn_edges()
    for z in range(3):
        session.review(z)
    work = RunFactory(session).learn_edges().work
    # four walls in each of three sections
    needed = r"^12 edges .* within sections are known: 0 join .* at least 50 are"
    with pytest.raises(ValueError, match=needed):
        drain(work)
    session.source.results.forget(range(3))
    with pytest.raises(ValueError, match=re.escape(NO_MEMBRANES)):
        RunFactory(session).learn_edges()


@pytest.fixture(scope="module")
def taught() -> tuple[Session, EdgesLearnt]:
    """A session in which all was reviewed, and what it learnt of it in a few steps."""
    p, cells = drawn(1)
    session = with_cells(p, ended(cells))
    for z in range(len(p)):
        session.review(z)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "napari_emseg.segmentation.edge_classifier.default_classifier", _nothing
        )
        for name, few in (("STEPS", 10), ("EPOCHS", 1), ("NETWORKS", 1)):
            patch.setattr(f"napari_emseg.training.edges.{name}", few)
        found = drain(RunFactory(session).learn_edges().work)
    return session, found


def _nothing() -> None:
    """Return no classifier, as without napari-emseg-data."""


def test_it_learns_and_is_measured_by_what_was_left_out(taught) -> None:
    session, found = taught
    p, _ = drawn(1)
    edges = drain(iter_known_edges(p, session.source.results.cells, GRAPH))
    assert (found.within, found.between) == tuple(len(k.join) for k in edges.values())
    apart = [k.where(k.left_out) for k in edges.values()]
    assert found.held_out == sum(len(k.join) for k in apart)
    usual = sum(((k.usual > 0) == k.join).sum() for k in apart)
    assert found.before == pytest.approx(usual / found.held_out)
    assert found.classifier.about["about"] == "corrected cells of em"


@pytest.mark.parametrize(
    ("n", "right", "words"),
    [
        (
            20,
            0.5,
            "Of 20 held-out edges 50.0% are right, 75.0% were before: not taken.",
        ),
        (20, 0.75, "Of 20 held-out edges 75.0% are right, 75.0% were before: as good."),
        (20, 1.0, "Of 20 held-out edges 100.0% are right, 75.0% were before: better."),
        (0, 0.0, "All are of one section, so nothing was held out."),
    ],
)
def test_it_says_if_that_is_better(taught, n: int, right: float, words: str) -> None:
    found = EdgesLearnt(taught[1].classifier, "em", 60, 70, n, right, 0.75)
    learnt = "Learnt from 60 edges within sections and 70 between them."
    assert found.words == f"{learnt} {words}"
    assert found.is_worse is (n > 0 and right < 0.75)


def test_runs_and_sliders_go_by_it_and_cells_name_it(taught) -> None:
    _, found = taught
    edges = found.classifier
    p, cells = drawn(5)
    session = with_cells(p, cells)
    runs, results = RunFactory(session), session.source.results
    usual, by_it = default_classifier(), []
    for chosen in (None, edges):
        session.edges = chosen
        drain(runs.segment(RunScope(tuple(range(len(p))))).work)
        by_it.append(results.cells > 0)
        made = session.source.cells_provenance(GRAPH, len(p)).settings
        used = chosen or usual
        assert made.get("edges") == (used and used.name)
        assert made.get("edges_sha256") == (used and used.sha256)
    n_by_run = len(np.unique(results.cells))
    recuts = runs.recuts()
    drain(recuts.find(0, GRAPH))
    assert recuts.knows(0, GRAPH)
    recuts.show(0, GRAPH)
    recuts.keep()
    assert len(np.unique(results.cells)) == n_by_run
    session.edges = None  # fragments are found anew, by the usual one
    assert not recuts.knows(0, GRAPH)
    session.correcting().undo()
    session.correcting().undo()
    assert session.source.results.edges is None


def test_it_is_kept_for_its_stack_and_with_its_project(taught, tmp_path) -> None:
    edges = taught[1].classifier
    session = squares()
    save_project(session, tmp_path / "a")
    # learnt while another stack is at work
    session.select("other", Stack(np.zeros((2, 8, 8), np.uint8)))
    session.choose_edges(edges, "em")
    assert session.edges is None
    session.select("em", session.sources[0].stack)
    assert session.edges is edges
    session.forget("em")

    again = Session(edges=edges)
    source = open_project(again, tmp_path / "a.emseg", stack=session_stack())
    assert source.results.runs == dict.fromkeys(range(3), (1,))
    assert again.edges is not edges
    assert again.edges.sha256 == edges.sha256
    again.edges = None
    again.forget(source.key)
    again = Session(edges=edges)
    source = open_project(again, tmp_path / "a.emseg", stack=session_stack())
    assert again.edges is None
    again.edges = edges
    again.project.flush()
    (kept,) = (tmp_path / "a.emseg" / "weights").glob("edges-*.json")
    whole = kept.read_text()
    told = json.loads(whole)
    told["between"]["mean"][0] += 1
    kept.write_text(json.dumps(told))
    again.forget(source.key)

    damaged = Session()
    source = open_project(damaged, tmp_path / "a.emseg", stack=session_stack())
    assert damaged.edges is None
    assert any("classifier of edges" in note for note in damaged.project.notes)
    damaged.cell_settings = CellSettings(threshold=0.4)
    damaged.forget(source.key)
    # put back, it is the one that was chosen; another choice is one
    kept.write_text(whole)
    again = Session()
    source = open_project(again, tmp_path / "a.emseg", stack=session_stack())
    assert again.edges.sha256 == edges.sha256
    assert again.cell_settings.threshold == 0.4
    again.forget(source.key)


def session_stack() -> Stack:
    """Return the stack of `squares`."""
    return squares().source.stack


def test_a_project_without_one_is_opened_without(taught, tmp_path) -> None:
    session = squares()
    save_project(session, tmp_path / "b")
    session.forget("em")
    other = Session(edges=taught[1].classifier)
    source = open_project(other, tmp_path / "b.emseg", stack=session_stack())
    assert other.edges is None
    other.forget(source.key)


def test_a_project_knows_by_which_its_cells_were_found(taught, tmp_path) -> None:
    session, by = squares(), taught[1].classifier.ref
    session.source.results.edges = by
    save_project(session, tmp_path / "c")
    session.forget("em")

    def found() -> ClassifierRef | None:
        other = Session()
        source = open_project(other, tmp_path / "c.emseg", stack=session_stack())
        other.forget(source.key)
        return source.results.edges

    assert found() == by
    info = tmp_path / "c.emseg" / "project.json"
    told = json.loads(info.read_text())
    assert told.pop("cells_edges_sha256") == by.sha256
    info.write_text(json.dumps(told))  # as earlier versions wrote it
    assert found() == ClassifierRef(by.name)
