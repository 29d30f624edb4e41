"""Whatever a person does, in any order: no exception, no warning, nothing lost."""

from __future__ import annotations

import os

from random_user import RandomUser

ACTS = int(os.environ.get("EMSEG_RANDOM_ACTS", "300"))
SEED = int(os.environ.get("EMSEG_RANDOM_SEED", "1"))


def test_a_random_user(make_napari_viewer, qtbot, weights, tmp_path) -> None:
    user = RandomUser(make_napari_viewer(show=True), qtbot, SEED, tmp_path)
    user.go_on(ACTS)
    user.end()
