from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_emseg.core.lock import OutputBusyError
from napari_emseg.io import OUTPUT_KINDS, OutputFormat, open_sink, open_stack
from tests.io import write_and_die
from tests.io.write_and_die import SHAPE, begin, place, sections, write

PROGRAM = Path(write_and_die.__file__)
NAMES = [kind.name for kind in OUTPUT_KINDS]
every = pytest.mark.parametrize("name", NAMES)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder where a killed process was writing every format."""
    folder = tmp_path_factory.mktemp("killed")
    words = [sys.executable, str(PROGRAM), str(folder)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return folder


def values(path: Path) -> set[int]:
    """Return what is in an output."""
    found = sections(path)
    assert found.shape == SHAPE
    return {int(value) for value in np.unique(found)}


@every
def test_a_kill_leaves_nothing_that_looks_whole_and_the_next_run_tidies_up(
    killed: Path, name: OutputFormat
) -> None:
    path = place(killed, name)
    left = [p for p in killed.iterdir() if path.name in p.name]
    assert left
    assert all(p.suffix in (".part", ".emseg-lock") for p in left)
    theirs = path.with_name(f"{path.name}.part")
    theirs.write_text("theirs")
    with begin(killed, name) as sink:
        write(sink, 7)
    assert values(path) == {7}
    assert theirs.read_text() == "theirs"
    left = {p for p in killed.iterdir() if path.name in p.name}
    assert left == {path, theirs}


@every
def test_a_second_run_is_refused_with_who_has_it(
    tmp_path: Path, name: OutputFormat
) -> None:
    with begin(tmp_path, name) as first:
        write(first, 1)
        with pytest.raises(
            OutputBusyError, match=r"is being written by process \d+ on"
        ):
            begin(tmp_path, name)
    assert values(place(tmp_path, name)) == {1}
    with begin(tmp_path, name) as second:
        write(second, 2)
    assert values(place(tmp_path, name)) == {2}
    assert [p.name for p in tmp_path.iterdir()] == [place(tmp_path, name).name]


def test_what_took_the_name_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    sink = open_sink(path, SHAPE, np.uint8)
    path.write_text("theirs")
    with pytest.raises(FileExistsError, match="exists already"), sink:
        sink.write(0, np.ones(SHAPE[1:], np.uint8))
    assert path.read_text() == "theirs"
    (part,) = tmp_path.glob("*.part")
    assert open_stack(part).section(0).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_has_its_name_is_whole_whenever_it_is_killed(
    tmp_path: Path, seed: int
) -> None:
    words = [sys.executable, str(PROGRAM), str(tmp_path), "forever"]
    chance = random.Random(seed)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        finished = int(program.stdout.readline())
        time.sleep(chance.uniform(0, 1.5))  # the moment is what is tried
        program.kill()
        finished = max([finished, *(int(line) for line in program.stdout)])
    for name in NAMES:
        with begin(tmp_path, name) as sink:  # gives back what was being replaced
            assert len(values(place(tmp_path, name))) == 1
            write(sink, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        place(tmp_path, name).name for name in NAMES
    )
