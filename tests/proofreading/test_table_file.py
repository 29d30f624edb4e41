"""The table of cells as CSV, read by the standard library."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_emseg.proofreading.table import COLUMNS, CellRow, write_table

ROW = CellRow(7, 40, 2, 3, 4, 0.5, float("nan"), (3, 5, 6), "tiny, weak membrane")


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("size", "area", "volume"),
    [((50, 5, 4), "400", "40000"), ((None, 5, 4), "400", ""), (None, "", "")],
)
def test_lengths_are_in_nm_or_empty(
    tmp_path: Path, size: Any, area: str, volume: str
) -> None:
    path = write_table(tmp_path / "a.csv", [ROW], voxel_size_nm=size)
    (row,) = _read(path)
    assert tuple(row) == COLUMNS
    assert (row["mean_area_nm2"], row["volume_nm3"]) == (area, volume)
    assert (row["boundary_strength"], row["inner_membrane"]) == ("0.5000", "")
    assert (row["z"], row["y"], row["x"]) == ("3", "5", "6")
    assert row["worth_a_look"] == "tiny, weak membrane"


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ids=st.lists(st.integers(1, 2**64 - 1), unique=True, max_size=5))
def test_rows_come_in_the_order_of_ids(tmp_path: Path, ids: list[int]) -> None:
    rows = [CellRow(i, 1, 1, 0, 0, 0.1, 0.2, (0, 0, 0)) for i in ids]
    path = write_table(tmp_path / "a.csv", rows, overwrite=True)
    assert [int(row["cell"]) for row in _read(path)] == sorted(ids)


def test_an_existing_table_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [])
    with pytest.raises(FileExistsError):
        write_table(tmp_path / "a.csv", [ROW])
    assert np.loadtxt(tmp_path / "a.csv", dtype=str).size == 1  # the heads alone
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
