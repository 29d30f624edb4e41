"""Questions to a thread: only the latest one's answer is told."""

from __future__ import annotations

from functools import partial
from threading import Event

import pytest

from napari_emseg.widgets.background import LatestOnlyWorker


@pytest.fixture
def latest(qtbot) -> LatestOnlyWorker:
    made = LatestOnlyWorker()
    made.told = []
    made.found.connect(made.told.append)
    made.failed.connect(lambda error: made.told.append(str(error)))
    return made


def slow(answer: int, gate: Event, asked: list[int]) -> int:
    asked.append(answer)
    gate.wait(60)
    return answer


def test_an_answer_is_told(latest, qtbot) -> None:
    latest.ask(lambda: 3)
    assert latest.waiting
    qtbot.waitUntil(lambda: latest.told == [3])
    assert not latest.waiting


def test_only_the_latest_question_is_answered(latest, qtbot) -> None:
    gate, asked = Event(), []
    for i in range(50):
        latest.ask(partial(slow, i, gate, asked))
    gate.set()
    qtbot.waitUntil(lambda: latest.told == [49])
    assert asked == [0, 49], "those in between cost nothing"


def test_what_was_dropped_is_not_told(latest, qtbot) -> None:
    gate, asked = Event(), []
    latest.ask(partial(slow, 1, gate, asked))
    latest.drop()
    assert not latest.waiting
    gate.set()
    latest.ask(lambda: 2)
    qtbot.waitUntil(lambda: latest.told == [2])


def test_an_error_is_told_and_the_next_question_answered(latest, qtbot) -> None:
    latest.ask(lambda: int("three"))
    qtbot.waitUntil(lambda: len(latest.told) == 1)
    assert "invalid literal" in latest.told[0]
    latest.ask(lambda: 4)
    qtbot.waitUntil(lambda: latest.told[1:] == [4])
