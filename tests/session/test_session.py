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
