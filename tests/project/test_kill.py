"""A program that saves, killed at any moment: little is missing, nothing is broken."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import zarr
from drawing import SHAPE, Person, saved_in, state_of
from killing import killed_after, must_be_there

from napari_emseg.core.stack import Stack
from napari_emseg.project import Project

SCRIPT = Path(__file__).with_name("drawing.py")


def check_killed(folder: Path, seed: int) -> None:
    stack = Stack(np.zeros(SHAPE, np.uint8), name="em")
    Project.create(folder, stack).close()
    seconds = float(np.random.default_rng(seed).uniform(0.2, 3.5))
    said, killed = killed_after(SCRIPT, folder, seed, seconds)
    with Project(folder) as project:
        assert not project.read_only  # the dead program's lock is no lock
        lines = project.edits()
        assert must_be_there(said, killed) <= len(lines) <= len(said)
        person = Person(seed)
        steps = list(islice(person.steps(), len(lines)))
        assert [line.undone for line in lines] == [step.undone for step in steps]
        expected = state_of(person.linked)
        np.testing.assert_equal(saved_in(project), expected)
        assert project.locked == person.linked.locked
    for name, values in expected.items():  # and other programs can read it
        array = zarr.open_array(folder / f"{name}.zarr", mode="r")
        assert array.shape == values.shape
        array[:]


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_program_loses_two_seconds_at_most(tmp_path, seed) -> None:
    check_killed(tmp_path / "killed.emseg", seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_killed_programs(tmp_path) -> None:
    for seed in range(100, 150):
        check_killed(tmp_path / f"{seed}.emseg", seed)
