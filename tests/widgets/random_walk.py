"""The walk itself; `test_random_user.py` runs this file in a process of its own.

Each of the seeds that `EMSEG_RANDOM_SEED` lists has a window of its own.
"""

from __future__ import annotations

import os

import pytest
from finetuning import untaught
from random_user import RandomUser

SEEDS = [int(seed) for seed in os.environ["EMSEG_RANDOM_SEED"].split()]
SIZE = 860, 560
"""Of the window, px: drawing it anew is what an act takes most time for."""


@pytest.mark.parametrize("seed", SEEDS)
def test_walk(make_napari_viewer, qtbot, weights, tmp_path, seed) -> None:
    weights["net"] = untaught(tmp_path / "net.safetensors")
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(*SIZE)
    user = RandomUser(viewer, qtbot, seed, tmp_path)
    user.go_on(int(os.environ["EMSEG_RANDOM_ACTS"]))
    user.end()
