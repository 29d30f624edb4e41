"""A program that saves while it works, and is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from threading import Thread

LOST = 2.0
"""Seconds of work that may be missing."""


def must_be_there(said: list[float], killed: float) -> int:
    """Return how many steps, by when they were handed over, a kill mustn't lose.

    On a busy machine a program stands still at times, and so does what it saves by.
    """
    stood = max(after - before for before, after in pairwise([*said, killed]))
    return sum(moment < killed - LOST - 3 * stood for moment in said)


def killed_after(
    script: Path, folder: Path, seed: int, seconds: float
) -> tuple[list[float], float]:
    """Run `script FOLDER SEED`, which writes the number and time of each step.

    Return when each step was handed over, and when the program was killed, `seconds`
    after the first of them.
    """
    words = [sys.executable, str(script), str(folder), str(seed)]
    said: list[float] = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        said.append(float(program.stdout.readline().split()[1]))
        lines = program.stdout
        reader = Thread(
            target=lambda: said.extend(float(line.split()[1]) for line in lines)
        )
        reader.start()
        time.sleep(seconds)
        program.kill()
        killed = time.monotonic()
        reader.join()
    return said, killed
