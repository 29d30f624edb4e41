"""Whatever a person does, in any order: no exception, no warning, nothing lost.

Each walk has a process of its own, since drawing by software GL may end the process:
that is no fault of the plugin, and mustn't end the other tests.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

WALK = Path(__file__).with_name("random_walk.py")
SHORT = 250
LONG = int(os.environ.get("EMSEG_RANDOM_ACTS", "10000"))
SEED = int(os.environ.get("EMSEG_RANDOM_SEED", "2"))
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE, -signal.SIGILL}


@pytest.mark.timeout(900)
def test_a_random_user(tmp_path) -> None:
    walk_on(1, SHORT, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_random_user_for_long(tmp_path) -> None:
    walk_on(SEED, LONG, tmp_path)


@pytest.mark.parametrize(
    ("code", "innermost", "drawing"),
    [
        (-11, "site-packages/vispy/gloo/gl/_gl2.py", True),
        (-6, "site-packages/vispy/gloo/gl/_gl2.py", True),
        (-11, "src/napari_emseg/widgets/controller.py", False),
        (-11, "site-packages/numpy/_core/numeric.py", False),
        (-9, "site-packages/vispy/gloo/gl/_gl2.py", False),
        (1, "site-packages/vispy/gloo/gl/_gl2.py", False),
    ],
)
def test_only_crashes_in_drawing_are_not_ours(code, innermost, drawing) -> None:
    report = (
        'Thread 0x1 (most recent call first):\n  File "threading.py", line 1 in wait\n'
        "Current thread 0x2 (most recent call first):\n"
        f'  File "/env/{innermost}", line 414 in f\n'
        '  File "/env/site-packages/vispy/gloo/gl/_gl2.py", line 3 in g\n'
    )
    assert crashed_in_drawing(code, report) is drawing


def walk_on(seed: int, acts: int, folder: Path) -> None:
    """Take acts; once more, otherwise, if drawing ended the process."""
    code, said = walk(seed, acts, folder / "walk")
    if crashed_in_drawing(code, said):
        words = f"GL ended the walk of seed {seed} as it drew; seed {seed + 1} walks"
        warnings.warn_explicit(words, RuntimeWarning, "GL", 1, module="vispy.gloo.gl")
        code, said = walk(seed + 1, acts, folder / "again")
    assert code == 0, said


def walk(seed: int, acts: int, folder: Path) -> tuple[int, str]:
    """Return the exit code of a walk, and all that it said."""
    words = ("-n", "0", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}")
    limit = ("-o", "timeout=0")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env |= {"EMSEG_RANDOM_SEED": str(seed), "EMSEG_RANDOM_ACTS": str(acts)}
    # napari writes its icons anew as it starts, also under a process that reads them
    env["XDG_CACHE_HOME"] = str(folder.with_name("cache"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *limit, str(WALK)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def crashed_in_drawing(code: int, said: str) -> bool:
    """Tell if a signal ended a process inside a call of GL."""
    found = re.search(r'Current thread .*\n  File "([^"]*)"', said)
    inside = found is not None and "/vispy/gloo/gl/" in found[1].replace("\\", "/")
    return code in CRASHES and inside
