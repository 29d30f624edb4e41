"""Where to look next in a sitting."""

from __future__ import annotations

import pytest
from nested import nested_weights

from napari_emseg.active_learning import Suggestion
from napari_emseg.core.records import Progress, drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.training import SuggestSettings
from napari_emseg.inference.region import DoubtPredictor
from napari_emseg.session import RunScope as Run
from napari_emseg.session import Session
from napari_emseg.session.review_queue import (
    is_done,
    iter_suggest,
    next_region,
    sections_to_do,
)

SMALL = SuggestSettings(places=4, side=32)


@pytest.fixture
def session(drawn_stack, tmp_path) -> Session:
    session = Session(predict_settings=PredictSettings(runtime="torch", device="cpu"))
    session.select("a", drawn_stack[0])
    session.choose_weights(nested_weights(tmp_path))
    return session


def place(z: int, left: int) -> Suggestion:
    return Suggestion(Region(z, 0, left, 20, left + 20), 10, left + 10, 1.0, "why")


def test_sections_to_do_near_first(session) -> None:
    assert sections_to_do(session.source, 2, "whole stack") == (2, 1, 3, 0)
    session.exclude(2)
    session.review(3)
    assert sections_to_do(session.source, 2, "near this section") == (1, 0)
    session.exclude(0)
    session.exclude(1)
    with pytest.raises(ValueError, match="nothing is left"):
        sections_to_do(session.source, 2, "whole stack")


def test_sections_with_membranes_are_preferred(session, runs) -> None:
    drain(runs.predict(Run((3,))).work)
    assert sections_to_do(session.source, 0, "near this section") == (3,)


def test_places_are_looked_for_as_runs_are_made(session, monkeypatch) -> None:
    seen = []

    class Recorded(DoubtPredictor):
        def __init__(self, weights, settings) -> None:
            seen.append(settings)
            super().__init__(weights, settings)

    monkeypatch.setattr("napari_emseg.active_learning.DoubtPredictor", Recorded)
    session.choose_settings(session.predict_settings.model_copy(update={"depth": 1}))
    assert drain(iter_suggest(session, [1], SMALL))
    assert seen == [session.predict_settings]


def test_places_are_found_where_they_are_asked_for(session) -> None:
    session.review(1)
    records: list[object] = []
    found = drain(iter_suggest(session, [1, 2], SMALL), records.append)
    assert found
    assert {p.region.z for p in found} == {2}
    steps = [r.step for r in records if isinstance(r, Progress)]
    assert steps[-1] == "looking for regions"


def test_it_says_what_is_missing(session) -> None:
    session.choose_weights(None)
    with pytest.raises(ValueError, match="no weights are chosen"):
        iter_suggest(session, [0])
    session.deselect()
    with pytest.raises(ValueError, match="no stack is chosen"):
        iter_suggest(session, [0])


def test_a_place_is_done_when_all_of_it_is_reviewed(session, runs) -> None:
    drain(runs.predict(Run((0, 1))).work)
    places = (place(0, 0), place(0, 40), place(1, 0))
    source = session.source
    hand = session.correcting()
    hand.corrections[0, ::3] = 1  # so that something is shown
    hand.linked.arrays["membranes"][:2, ::3] = 1
    assert next_region(source, places, None) == 0
    assert next_region(source, places, 0) == 1
    hand.review(Region(0, 0, 35, 30, 70))
    assert [is_done(source, p.region) for p in places] == [False, True, False]
    assert next_region(source, places, 0) == 2
    assert next_region(source, places, 2) == 0
    hand.undo()
    assert not is_done(source, places[1].region)
    session.review(0)
    session.exclude(1)
    assert next_region(session.source, places, 0) is None
    assert next_region(session.source, (), None) is None
