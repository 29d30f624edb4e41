"""Whatever a person does, in any order: no exception, no warning, nothing lost."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from random_user import RandomUser

SHORT = 250
"""More ends the program at act 296 of this seed where GL is computed in software.

It happens in vispy, as it draws the box behind one of napari's own overlays."""
LONG = int(os.environ.get("EMSEG_RANDOM_ACTS", "10000"))
SEED = int(os.environ.get("EMSEG_RANDOM_SEED", "2"))


@pytest.fixture
def sit_down(make_napari_viewer, qtbot, weights, tmp_path) -> Callable[..., RandomUser]:
    def sit_down(seed: int) -> RandomUser:
        return RandomUser(make_napari_viewer(show=True), qtbot, seed, tmp_path)

    return sit_down


@pytest.mark.xdist_group("shown")
def test_a_random_user(sit_down) -> None:
    user = sit_down(seed=1)
    user.go_on(SHORT)
    user.end()


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_random_user_for_long(sit_down) -> None:
    user = sit_down(SEED)
    user.go_on(LONG)
    user.end()
