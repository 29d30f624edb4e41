"""Whatever a person does, in any order: no exception, no warning, nothing lost.

Walks have a process of their own: one that crashes doesn't end the other tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WALK = Path(__file__).with_name("random_walk.py")
SHORT = 100
LONG = int(os.environ.get("EMSEG_RANDOM_ACTS", "10000"))
SEED = os.environ.get("EMSEG_RANDOM_SEED", "2")


@pytest.mark.timeout(900)
def test_random_users(tmp_path) -> None:
    walk("1 3 4", SHORT, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_random_user_for_long(tmp_path) -> None:
    walk(SEED, LONG, tmp_path)


def walk(seeds: str, acts: int, folder: Path) -> None:
    """Take acts by each seed in another process, which must end as it should."""
    words = ("-n", "0", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}")
    limit = ("-o", "timeout=0")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env |= {"EMSEG_RANDOM_SEED": seeds, "EMSEG_RANDOM_ACTS": str(acts)}
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
    assert done.returncode == 0, done.stdout
