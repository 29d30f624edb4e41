"""Training sets as files, read by PIL and by their own description."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from napari_emseg.core.records import SectionDone, drain
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.pairs import exporting_pairs

SHAPE = (3, 70, 90)


@pytest.fixture
def stack() -> Stack:
    values = np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8)
    return Stack(values, name="em", voxel_size_nm=(50, 5, 4))


def _read(folder: Path, what: str, z: int) -> np.ndarray:
    with Image.open(folder / what / f"z{z:05d}.tif") as picture:
        return np.asarray(picture)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(codes=arrays(np.uint8, SHAPE, elements=st.integers(0, 3), fill=st.just(0)))
def test_pictures_labels_and_masks_belong_together(
    tmp_path_factory: pytest.TempPathFactory, stack: Stack, codes: np.ndarray
) -> None:
    codes[1, 4, 5] = 2
    known = TrainingSet.from_corrections(stack, codes)
    folder = drain(exporting_pairs(known, tmp_path_factory.mktemp("a") / "set"))
    facts = json.loads((folder / "training-set.json").read_text())
    expected = [z for z in range(3) if codes[z].any()]
    assert sorted(facts["sections"].values()) == expected
    for z in expected:
        np.testing.assert_array_equal(_read(folder, "images", z), stack.section(z))
        np.testing.assert_array_equal(_read(folder, "labels", z), codes[z])
        mask = np.where(codes[z] > 0, 255, 0)
        np.testing.assert_array_equal(_read(folder, "masks", z), mask)


def test_what_it_says_of_itself(tmp_path: Path, stack: Stack) -> None:
    codes = np.zeros(SHAPE, np.uint8)
    codes[0, 3, 4], codes[2] = 3, 1
    cells = np.ones(SHAPE, np.uint32)
    reviewed = [Region(1, 2, 3, 12, 23)]
    known = TrainingSet.from_corrections(
        stack, codes, reviewed=reviewed, result=cells, excluded=[2], invert=True
    )
    work = exporting_pairs(known, tmp_path / "set", classes=["membrane", "inside", "m"])
    records = list(work)
    assert [r.z for r in records if isinstance(r, SectionDone)] == [0, 1]
    facts = json.loads((tmp_path / "set" / "training-set.json").read_text())
    assert facts["codes"] == {"0": "unknown", "1": "membrane", "2": "inside", "3": "m"}
    assert facts["voxel_size_nm"] == [50, 5, 4]
    assert facts["reviewed"] == [[1, 2, 3, 12, 23]]
    assert facts["membranes_are_bright"] is True
    labels = _read(tmp_path / "set", "labels", 1)
    assert (labels[2:12, 3:23] == 2).all()
    assert np.count_nonzero(labels) == 200
    readme = (tmp_path / "set" / "README.txt").read_text()
    assert "unknown, not\nbackground" in readme
    assert "5 x 4 nm" in readme
    assert not (tmp_path / "set" / "images" / "z00002.tif").exists()


def test_refusals_leave_nothing(tmp_path: Path, stack: Stack) -> None:
    empty = TrainingSet.from_corrections(stack, np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match="nothing is corrected or reviewed in em"):
        drain(exporting_pairs(empty, tmp_path / "set"))
    assert list(tmp_path.iterdir()) == []
    known = TrainingSet.from_corrections(stack, np.ones(SHAPE, np.uint8))
    (tmp_path / "set").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        drain(exporting_pairs(known, tmp_path / "set"))
    assert list((tmp_path / "set").iterdir()) == []


def test_stopping_leaves_nothing(tmp_path: Path, stack: Stack) -> None:
    known = TrainingSet.from_corrections(stack, np.ones(SHAPE, np.uint8))
    work = exporting_pairs(known, tmp_path / "set")
    next(work)
    work.close()
    assert list(tmp_path.iterdir()) == []
