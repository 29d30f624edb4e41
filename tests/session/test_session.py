from __future__ import annotations

import numpy as np

from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.session import Session


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
