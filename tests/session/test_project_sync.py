"""A session and a project in step: what is done is on the disk, and there again."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from time import monotonic, sleep

import numpy as np
import pytest
from thin import thin_weights

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region as Part
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, save_stack
from napari_emseg.models.weights import load_weights
from napari_emseg.project import Project, StackNotFoundError, autosave
from napari_emseg.project import journal as journals
from napari_emseg.project.store import ProjectStore
from napari_emseg.proofreading import cut, lock, merge_through, paint
from napari_emseg.proofreading.painted import Stroke, take_back
from napari_emseg.sample import vnc
from napari_emseg.session import RunScope, Session
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.projects import open_project, save_project

FAST = PredictSettings(runtime="torch", tile=64)
WHOLE = slice(0, 96), slice(0, 112)


@pytest.fixture
def session(drawn_stack, tmp_path) -> Session:
    """Cells of all sections, of a stack in a file."""
    (tmp_path / "data").mkdir()
    stack, cells = drawn_stack
    path = save_stack(tmp_path / "data" / "em.tif", stack)
    session = Session(predict_settings=FAST)
    session.select("a", open_stack(path, voxel_size_nm=(50, 4, 4)))
    session.choose_weights(thin_weights(tmp_path, threshold=0.4))
    session.cell_settings = CellSettings(threshold=0.4)
    editor = session.source.editor
    for z in range(4):
        editor.put_cells(z, WHOLE, cells[z], cells[z] == 0)
    editor.results.note_links(range(4), linked=True)
    editor.finish_run()
    return session


def kept(session: Session) -> dict[str, np.ndarray]:
    hand = session.correcting()
    hand.linked.settle_all()
    arrays = hand.linked.arrays
    return {name: np.array(arrays[name]) for name in ("cells", "corrections")}


def on_disk(folder: Path) -> dict[str, np.ndarray]:
    with Project(folder, read_only=True) as project:
        depth = project.info.source.shape[0]
        return {
            name: np.stack([project.section(name, z) for z in range(depth)])
            for name in ("cells", "corrections")
        }


def draw(hand: AnnotationEditor, z: int, at: int = 10, value: int = 1) -> None:
    where, area = np.ones((6, 6), bool), (slice(at, at + 6), slice(at, at + 6))
    hand.do(paint(hand.sheet(z), "membranes", where, area, value))


def cells_by_size(hand: AnnotationEditor, z: int) -> list[np.ndarray]:
    """Pixels of each cell of a section, the largest first."""
    cells = np.asarray(hand.linked.arrays["cells"][z])
    found = [np.argwhere(cells == cell) for cell in np.unique(cells[cells > 0])]
    return sorted(found, key=len, reverse=True)


def test_every_step_is_told_in_order(session, runs) -> None:
    hand = session.correcting()
    told: list[tuple[str, str]] = []
    hand.edited.connect(lambda step, edit: told.append((step, edit.tool)))
    draw(hand, 0)
    area = slice(40, 44), slice(40, 44)
    stroke = Stroke(1, area, np.ones((4, 4), bool), np.zeros(16, np.uint8), 1)
    take_back(hand.corrections, [stroke])
    hand.repaint("corrections", [stroke])
    hand.undo()
    hand.redo()
    session.exclude(2)
    drain(runs.predict(RunScope((3,))).work)
    drain(runs.segment(RunScope((3,))).work)
    assert [step for step, _ in told] == [
        "made", "made", "undone", "redone", "made", "made", "made",
    ]  # fmt: skip
    assert [tool for _, tool in told][-3:] == ["review", "run", "run"]
    assert [edit.tool for edit in hand.history.undoable][:2] == ["run", "run"]


def test_a_project_has_what_was_there_and_what_is_done_since(
    session, runs, tmp_path
) -> None:
    hand = session.correcting()
    draw(hand, 0)
    session.review(3)
    keeping = save_project(session, tmp_path / "a", author="Ada")
    assert keeping.path == tmp_path / "a.emseg"
    assert session.project is keeping
    np.testing.assert_equal(on_disk(keeping.path), kept(session))

    pixels = cells_by_size(hand, 1)[0]
    row = int(np.median(pixels[:, 0]))
    hand.do(
        cut(hand.sheet(1), np.array([[row, 0], [row, 111]]), settings=hand.settings)
    )
    hand.do(lock(hand.sheet(2), cells_by_size(hand, 2)[-1][0]))
    hand.review(Part(0, 8, 8, 40, 40))
    session.exclude(1)
    drain(runs.predict(RunScope((0,))).work)
    keeping.flush()
    np.testing.assert_equal(on_disk(keeping.path), kept(session))
    left = np.unique(kept(session)["cells"][1])
    assert set(left.tolist()) <= {0, *hand.linked.locked}
    with Project(keeping.path, read_only=True) as project:
        assert project.review.sections == {3: "reviewed", 1: "excluded"}
        assert project.locked == hand.linked.locked != frozenset()
        assert project.regions == hand.regions != ()
        assert [line.author for line in project.edits()][-1] == "Ada"
    keeping.close()


def test_open_again_as_it_was_left(session, tmp_path) -> None:
    hand = session.correcting()
    draw(hand, 0)
    save_project(session, tmp_path / "a.emseg", author="Ada")
    draw(hand, 2)
    draw(hand, 2, at=30)
    hand.undo()
    session.review(3)
    session.exclude(1)
    session.cell_settings = CellSettings(threshold=0.4, minimum_size=77)
    hand.do(lock(hand.sheet(0), cells_by_size(hand, 0)[-1][0]))
    before, last = kept(session), hand.linked.last_id
    linked = session.source.results.linked
    session.forget("a")

    again = Session()
    source = open_project(again, tmp_path / "a.emseg", author="Ada")
    work = again.correcting()
    assert source is again.source
    np.testing.assert_equal(kept(again), before)
    assert work.linked.locked == hand.linked.locked
    assert work.linked.last_id == last
    assert source.reviewed == {3} == work.reviewed
    assert source.excluded == {1}
    assert source.stack.voxel_size_nm == (50, 4, 4)
    assert source.results.linked == linked
    assert again.weights.sha256 == session.weights.sha256
    assert again.weights.path.parent == again.project.weights_folder
    assert again.cell_settings == session.cell_settings
    assert again.predict_settings == PredictSettings()  # of the machine, not the stack
    made = [correction.what for correction in work.history.corrections()]
    assert made == ["paint", "review", "review", "lock"]
    assert not work.history.undoable
    # where there are no cells there is membrane, and what was drawn
    membranes = np.asarray(work.linked.arrays["membranes"])
    assert membranes[0, 10:16, 10:16].all()
    assert (membranes[3] == (before["cells"][3] == 0)).all()
    draw(work, 0, at=50)
    work.undo()
    again.project.flush()
    np.testing.assert_equal(on_disk(tmp_path / "a.emseg"), before)
    again.forget(source.key)


def test_saved_by_itself_and_nobody_waits(session, tmp_path, monkeypatch) -> None:
    keeping = save_project(session, tmp_path / "a")
    gate, save = Event(), ProjectStore.save

    def held(disk: ProjectStore) -> None:
        assert gate.wait(60)
        save(disk)

    monkeypatch.setattr(ProjectStore, "save", held)
    draw(session.correcting(), 0)
    assert keeping.state.kind == "saving"
    gate.set()
    until = monotonic() + 60
    while keeping.state.kind != "saved" and monotonic() < until:
        sleep(0.01)
    np.testing.assert_equal(on_disk(keeping.path), kept(session))
    assert keeping.state.words.startswith("saved ")
    keeping.close()


def test_changes_of_ids_that_are_older_than_the_project(session, tmp_path) -> None:
    hand = session.correcting()
    first, second, *_ = cells_by_size(hand, 0)
    hand.do(merge_through(hand.linked, (0, first[0]), (0, second[0])))
    hand.settle(0)
    keeping = save_project(session, tmp_path / "a")
    draw(hand, 1)
    for _ in range(2):
        hand.undo()
    keeping.flush()
    np.testing.assert_equal(on_disk(keeping.path), kept(session))
    hand.redo()
    hand.redo()
    hand.undo()
    keeping.flush()
    np.testing.assert_equal(on_disk(keeping.path), kept(session))
    keeping.close()


def test_merges_by_hand_are_constraints_again_after_opening(session, tmp_path) -> None:
    hand = session.correcting()
    first, second, third, fourth, *_ = cells_by_size(hand, 0)
    hand.do(merge_through(hand.linked, (0, first[0]), (0, second[0])))
    keeping = save_project(session, tmp_path / "a")
    hand.do(merge_through(hand.linked, (0, first[0]), (0, third[0])))
    hand.do(merge_through(hand.linked, (0, first[0]), (0, fourth[0])))
    said = hand.constraints
    hand.undo()
    keeping.close()
    assert len(said) == 3
    again = Session()
    open_project(again, keeping.path)
    assert again.correcting().constraints == said[:2]
    assert all(c.same for c in said)


def test_the_second_window_shows_and_refuses(session, tmp_path) -> None:
    keeping = save_project(session, tmp_path / "a", author="Ada")
    second = Session()
    open_project(second, keeping.path)
    assert second.project.read_only
    assert "Ada" in second.project.state.words
    np.testing.assert_equal(kept(second), kept(session))
    hand = second.correcting()
    with pytest.raises(ValueError, match=r"read-only.*Ada"):
        draw(hand, 0)
    with pytest.raises(ValueError, match="read-only"):
        hand.undo()
    for mark in (second.review, second.exclude):
        with pytest.raises(ValueError, match="read-only"):
            mark(0)
    # a copy of one's own can be edited
    own = save_project(second, tmp_path / "b")
    draw(hand, 0)
    own.flush()
    np.testing.assert_equal(on_disk(own.path), kept(second))
    np.testing.assert_equal(on_disk(keeping.path), kept(session))
    own.close()
    keeping.close()


def test_a_stack_that_was_moved_or_changed(session, tmp_path) -> None:
    save_project(session, tmp_path / "a")
    session.forget("a")
    data = tmp_path / "data"
    (tmp_path / "elsewhere").mkdir()
    moved = (data / "em.tif").rename(tmp_path / "elsewhere" / "other.tif")
    with pytest.raises(
        StackNotFoundError, match=r"4 sections of 96 × 112.*SHA-256"
    ) as asked:
        open_project(Session(), tmp_path / "a.emseg")
    assert asked.value.reference.name == "em"
    again = Session()
    source = open_project(again, tmp_path / "a.emseg", source=moved)
    assert not again.project.read_only  # nothing was left locked by the failure
    assert again.project.notes == ()
    again.forget(source.key)
    stack = Stack(np.zeros((4, 96, 112), np.uint8), name="black")
    source = open_project(again, tmp_path / "a.emseg", stack=stack)
    assert "has changed since" in again.project.notes[0]
    again.forget(source.key)


@pytest.fixture
def of_the_sample(tmp_path) -> Path:
    """A project of the bundled EM and weights, as 0.1.0 in another environment made."""
    session = Session()
    session.select("a", vnc())
    session.choose_weights(load_weights("em-membranes"))
    keeping = save_project(session, tmp_path / "a", author="Ada")
    keeping.close()
    info = keeping.path / "project.json"
    known = json.loads(info.read_text())
    known["source"] |= {
        "absolute": "/env/lib/site-packages/napari_emseg/sample/vnc_raw.tif",
        "path": "../env/lib/site-packages/napari_emseg/sample/vnc_raw.tif",
    }
    info.write_text(json.dumps(known))
    return keeping.path


def test_a_project_of_the_bundled_em_opens_in_another_environment(of_the_sample):
    session = Session()
    source = open_project(session, of_the_sample, author="Ada")
    assert source.stack.source == vnc().source
    assert session.weights.card.name == "em-membranes"
    assert session.project.notes == ()
    session.forget(source.key)


def test_bundled_weights_of_another_version_stand_in(of_the_sample):
    info = of_the_sample / "project.json"
    known = json.loads(info.read_text())
    known |= {"weights": "isbi2012-unet", "weights_sha256": "0" * 64}
    info.write_text(json.dumps(known))
    session = Session()
    source = open_project(session, of_the_sample, author="Ada")
    here = load_weights("isbi2012-unet")
    assert session.weights.sha256 == here.sha256
    (note,) = session.project.notes
    assert note.startswith("the weights isbi2012-unet that were used are another file")
    session.forget(source.key)


def test_a_project_says_how_to_get_what_is_not_installed(of_the_sample, without_data):
    with pytest.raises(StackNotFoundError, match=r"pip install napari-emseg-data$"):
        open_project(Session(), of_the_sample, author="Ada")
    session = Session()
    values = Stack(np.zeros((6, 512, 512), np.uint8), name="copied")
    source = open_project(session, of_the_sample, author="Ada", stack=values)
    (note,) = (n for n in session.project.notes if "weights" in n)
    assert note == (
        "the weights em-membranes that were used are not here; em-membranes is in "
        "napari-emseg-data (not for commercial use): pip install napari-emseg-data"
    )
    session.forget(source.key)


def test_a_full_disk_is_said_and_nothing_lost(session, tmp_path, monkeypatch) -> None:
    keeping = save_project(session, tmp_path / "a")

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        keeping.flush()
        patch.setattr(journals, "write", full)
        draw(session.correcting(), 0)
        with pytest.raises(OSError, match="No space"):
            keeping.flush()
        assert keeping.state.words == (
            "saving failed: No space left on device; 1 change waits, it is tried again"
        )
    keeping.close()
    np.testing.assert_equal(on_disk(keeping.path), kept(session))


def test_a_fault_of_the_program_is_said_and_saving_goes_on(
    session, tmp_path, monkeypatch
) -> None:
    """It must neither look as if all were saved, nor end saving."""
    keeping = save_project(session, tmp_path / "a")
    keeping.flush()

    def fault(disk: ProjectStore) -> None:
        raise LookupError("no such place")

    with monkeypatch.context() as context:
        context.setattr(ProjectStore, "save", fault)
        draw(session.correcting(), 0)
        with pytest.raises(OSError, match="LookupError: no such place"):
            keeping.flush()
        assert keeping.state.words == (
            "saving failed: LookupError: no such place; 1 change waits, it is tried "
            "again"
        )
    keeping.close()
    np.testing.assert_equal(on_disk(keeping.path), kept(session))


def test_nothing_changes_while_a_project_is_made(session) -> None:
    hand = session.correcting()
    with hand.held("not now"):
        with pytest.raises(ValueError, match="not now"):
            draw(hand, 0)
        hand.sheet(0)
    draw(hand, 0)


def test_candidates_are_kept_beside_their_parents(session, tmp_path) -> None:
    keeping = save_project(session, tmp_path / "a")
    (tmp_path / "new").mkdir()
    kept_one = keeping.keep(thin_weights(tmp_path / "new", "candidate", threshold=0.3))
    keeping.flush()
    assert kept_one.path.parent == keeping.weights_folder == keeping.path / "weights"
    assert {w.card.name for w in keeping.lineage()} == {"thin", "candidate"}
    keeping.close()


def test_marks_of_sections_are_saved_as_they_are_undone(session, tmp_path) -> None:
    hand = session.correcting()
    session.review(2)  # older than the project
    keeping = save_project(session, tmp_path / "a.emseg", author="Ada")
    session.review(3)
    session.exclude(1)
    session.review(1)
    draw(hand, 0)

    def saved() -> dict[int, str]:
        keeping.flush()
        with Project(keeping.path, read_only=True) as project:
            np.testing.assert_equal(on_disk(keeping.path), kept(session))
            return dict(project.review.sections)

    everything = {1: "excluded", 2: "reviewed", 3: "reviewed"}
    assert saved() == everything
    for wanted in (
        everything,
        everything,
        {2: "reviewed", 3: "reviewed"},
        {2: "reviewed"},
        {},
    ):
        hand.undo()
        assert saved() == wanted
    for _ in range(5):
        hand.redo()
    assert saved() == everything
    assert (session.source.excluded, session.source.reviewed) == ({1}, {1, 2, 3})
    with Project(keeping.path, read_only=True) as project:
        lines = [line for line in project.edits() if line.what == "review"]
    assert [line.words for line in lines if line.undone][
        -1
    ] == "marked section 2 as reviewed"
    keeping.close()
    other = Session()
    open_project(other, keeping.path)
    assert other.source.reviewed == {2, 3}
    assert other.source.editor.reviewed == {2, 3}
    other.project.close()


def test_another_stack_leaves_what_a_project_chose_alone(session, tmp_path) -> None:
    """Its weights and threshold were overwritten as soon as its stack came back."""
    stack = session.source.stack
    session.cell_settings = CellSettings(threshold=0.35)
    keeping = save_project(session, tmp_path / "a.emseg", author="Ada")
    keeping.flush()
    info = keeping.path / "project.json"
    before = info.read_bytes()
    (tmp_path / "new").mkdir()
    other = thin_weights(tmp_path / "new", "other", threshold=0.7)
    session.select("b", Stack(np.zeros((1, 8, 8), np.uint8), name="black"))
    session.choose_weights(other)
    session.predict_settings = PredictSettings(runtime="torch", tile=64, invert="yes")
    for _ in range(2):
        session.select("a", stack)
        assert session.weights.card.name == "thin"
        assert session.cell_settings.threshold == 0.35
        assert session.predict_settings == FAST
        session.select("b", Stack(np.zeros((1, 8, 8), np.uint8), name="black"))
        assert (session.weights, session.cell_settings.threshold) == (other, 0.7)
    keeping.flush()
    assert info.read_bytes() == before
    session.select("a", stack)
    session.choose_weights(other)  # on purpose
    keeping.flush()
    assert json.loads(info.read_text())["weights"] == "other"
    session.forget("a")


def test_a_project_leaves_what_was_chosen_for_others_alone(session, tmp_path) -> None:
    keeping = save_project(session, tmp_path / "a.emseg", author="Ada")
    session.forget("a")
    black = Stack(np.zeros((1, 8, 8), np.uint8), name="black")
    session.select("b", black)
    (tmp_path / "new").mkdir()
    other = thin_weights(tmp_path / "new", "other", threshold=0.7)
    session.choose_weights(other)
    source = open_project(session, keeping.path)
    assert (session.weights.card.name, session.cell_settings.threshold) == ("thin", 0.4)
    session.select("b", black)
    assert (session.weights, session.cell_settings.threshold) == (other, 0.7)
    session.forget(source.key)


def test_what_was_just_made_is_whole_for_others(session, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(autosave, "DELAY", 300.0)  # nothing is saved by itself
    made = session.source.results
    assert made.segmented
    save_project(session, tmp_path / "work")
    other = Session()
    open_project(other, tmp_path / "work.emseg", read_only=True)
    found = other.source.results
    assert found.segmented == made.segmented
    assert found.linked_sections == made.linked_sections
