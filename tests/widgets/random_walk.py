"""The walk itself; `test_random_user.py` runs this file in a process of its own."""

from __future__ import annotations

import os

from random_user import RandomUser


def test_walk(make_napari_viewer, qtbot, weights, tmp_path) -> None:
    seed = int(os.environ["EMSEG_RANDOM_SEED"])
    user = RandomUser(make_napari_viewer(show=True), qtbot, seed, tmp_path)
    user.go_on(int(os.environ["EMSEG_RANDOM_ACTS"]))
    user.end()
