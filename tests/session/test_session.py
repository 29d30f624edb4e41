from __future__ import annotations

import numpy as np
from thin import thin_weights

from napari_emseg.core.records import drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.session import RunScope, Session


def test_choosing_weights_takes_the_threshold_of_their_card(session) -> None:
    assert session.cell_settings.threshold == 0.4


def test_every_change_is_told_once(drawn_stack) -> None:
    session = Session()
    told: list[str] = []
    session.events.connect(lambda info: told.append(info.signal.name))
    session.select("a", drawn_stack[0])
    session.cell_settings = CellSettings(threshold=0.3)
    session.cell_settings = CellSettings(threshold=0.3)
    session.deselect("it is a colour picture")
    assert told == ["source", "cell_settings", "refusal", "source"]


def test_a_stack_comes_back_with_what_was_said_of_it(session, drawn_stack) -> None:
    session.exclude(2)
    before = session.source.results
    session.select("b", Stack(np.zeros((1, 8, 8), np.uint8)))
    assert session.source.excluded == frozenset()
    source = session.select("a", drawn_stack[0])
    assert source.excluded == {2}
    assert source.results is before


def test_a_stack_of_another_shape_starts_afresh(session) -> None:
    session.exclude(2)
    source = session.select("a", Stack(np.zeros((3, 8, 8), np.uint8)))
    assert source.excluded == frozenset()
    assert source.results.shape == (3, 8, 8)


BLACK = Stack(np.zeros((1, 8, 8), np.uint8), name="black")


def chosen(session: Session) -> tuple[str, float | None, int]:
    settings = session.predict_settings
    return session.weights.card.name, session.cell_settings.threshold, settings.tile


def test_weights_and_settings_come_back_with_what_was_made_by_them(
    session, runs, drawn_stack, tmp_path
) -> None:
    drain(runs.predict(RunScope((0,))).work)
    (tmp_path / "other").mkdir()
    other = thin_weights(tmp_path / "other", "other", threshold=0.7)
    session.select("b", BLACK)
    assert chosen(session) == ("thin", 0.4, 64)  # as it was: b has nothing of its own
    session.choose_weights(other)
    session.choose_settings(session.predict_settings.model_copy(update={"tile": 96}))
    seen: list[tuple[str, str]] = []
    note = session.events.connect(
        lambda _: seen.append((session.source.key, session.weights.card.name))
    )
    session.select("a", drawn_stack[0])
    assert chosen(session) == ("thin", 0.4, 96)  # what suits the machine stays
    session.select("b", BLACK)
    assert chosen(session) == ("other", 0.7, 96)
    assert set(seen) == {("a", "thin"), ("b", "other")}
    session.events.disconnect(note)
    session.deselect()
    session.choose_weights(None)
    session.select("a", drawn_stack[0])
    assert chosen(session) == ("thin", 0.4, 96)


def test_without_results_weights_and_settings_follow_the_session(
    session, drawn_stack, tmp_path
) -> None:
    session.select("b", BLACK)
    (tmp_path / "other").mkdir()
    session.choose_weights(thin_weights(tmp_path / "other", "other", threshold=0.7))
    session.select("a", drawn_stack[0])
    assert chosen(session) == ("other", 0.7, 64)


def test_data_of_the_same_shape_are_told_from_those_that_results_are_of(
    session, drawn_stack
) -> None:
    stack = drawn_stack[0]
    values = np.array(stack.data)
    assert session.select("a", Stack(values, name="em")).warning == ""
    session.take_data("a", Stack(255 - values, name="em"))
    assert session.source.warning == ""  # nothing was made of the others
    session.take_data("a", Stack(values, name="em"))
    session.review(1)
    session.note_findings("a", [])
    session.take_data("a", Stack(values.copy(), name="new name"))
    assert (session.source.warning, session.source.findings) == ("", ())
    session.take_data("a", Stack(values, name="em"))
    for other in (values[:, ::-1].copy(), 255 - values):
        session.take_data("a", Stack(other, name="em"))
        assert session.source.warning == (
            "The data of em were replaced; results and corrections made before are of "
            "the earlier data."
        )
    assert session.source.findings is None
    assert session.source.reviewed == {1}  # nothing is lost
    session.select("a", Stack(values, name="em"))
    assert session.source.warning == ""


def test_a_picture_that_is_wrapped_anew_is_the_same(session) -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    session.select("b", Stack(picture[None], name="flat"))
    session.review(0)
    assert session.select("b", Stack(picture[None], name="renamed")).warning == ""
    assert session.select("b", Stack(255 - picture[None])).warning != ""
