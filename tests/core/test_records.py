from __future__ import annotations

from collections.abc import Generator
from dataclasses import FrozenInstanceError

import pytest

from napari_emseg.core.records import (
    Note,
    Progress,
    Provenance,
    Record,
    SectionDone,
    drain,
)


def work(fail: bool = False) -> Generator[Record, None, str]:
    yield Progress("counting", 1, 2)
    if fail:
        msg = "out of numbers"
        raise RuntimeError(msg)
    yield SectionDone(0, 2, 2)
    return "done"


def test_drain_runs_to_the_end_and_tells_of_every_record() -> None:
    seen: list[Record] = []
    assert drain(work(), seen.append) == "done"
    assert seen == [Progress("counting", 1, 2), SectionDone(0, 2, 2)]
    assert drain(work()) == "done"


def test_drain_lets_errors_through() -> None:
    with pytest.raises(RuntimeError, match="out of numbers"):
        drain(work(fail=True))


def test_an_error_of_the_listener_stops_the_work() -> None:
    def refuse(record: Record) -> None:
        msg = f"won't hear of {record}"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="won't hear of"):
        drain(work(), refuse)


def test_records_are_values() -> None:
    assert Note("a") == Note("a") != Note("b")
    with pytest.raises(FrozenInstanceError):
        Note("a").message = "b"  # type: ignore[misc]


def test_provenance_survives_json_and_later_versions() -> None:
    made = Provenance(kind="membrane", source="a.tif", scale=255, settings={"tile": 64})
    assert Provenance.model_validate_json(made.model_dump_json()) == made
    later = {**made.model_dump(), "invented_later": 3}
    assert Provenance.model_validate(later) == made
