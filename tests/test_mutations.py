"""Damaged and lying files of every kind: an error in a line, or none."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import mutating
import pytest

from napari_emseg.io import open_stack

TRIES = 6
"""Of each kind in the fast test; the slow one has more, and commands."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, and needs limits")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    mutating.write_pictures(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # of libraries, about what is damaged
def test_no_damaged_picture_ends_in_more_than_a_line(
    tmp_path: Path, whole: Path
) -> None:
    chance = random.Random(13)
    told = 0
    for path in sorted(whole.iterdir()) * TRIES:
        copy = tmp_path / path.name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
        damaged = mutating.victim_of(copy, chance)
        damaged.write_bytes(mutating.mutate(damaged.read_bytes(), chance))
        try:
            stack = open_stack(copy)
            for z in (0, stack.shape[0] - 1):
                assert stack.section(z).shape == stack.shape[1:]
        except (OSError, ValueError) as e:
            told += 1
            assert str(e).startswith(path.name.split(".")[0])  # noqa: PT017
            assert "\n" not in str(e)  # noqa: PT017
        (shutil.rmtree if copy.is_dir() else Path.unlink)(copy)
    assert told > TRIES


@linux
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_command_ends_in_a_traceback_hangs_or_takes_the_memory(
    tmp_path: Path, seed: int
) -> None:
    script = Path(mutating.__file__)
    words = ["--seed", str(seed), "--tries", "300", "--folder", tmp_path / "tries"]
    done = subprocess.run(
        [sys.executable, script, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
