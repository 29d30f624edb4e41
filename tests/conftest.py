"""Fixtures for all rooms: the shared data folder, and drawings with known cells."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import settings
from napari.settings import get_settings
from numpy.typing import NDArray
from pytestqt.qtbot import QtBot

from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import predictor, throughput, user_cache
from napari_emseg.inference.runtime import Runtime, load_runtime
from napari_emseg.models.weights import Weights
from napari_emseg.sample import synthetic

# Tests that run side by side (pytest-xdist) share the cores: one thread each, set
# before torch and OpenMP are loaded. napari has loaded numba already, which would look
# at it when it compiles next, and fail if its threads run by then.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    numba.core.config.reload_config()

# On a busy machine any example may take long. Few are tried each time; whoever changes
# what they are about tries more, such as EMSEG_EXAMPLES=300.
EXAMPLES = int(os.environ.get("EMSEG_EXAMPLES", "20"))
settings.register_profile("busy", deadline=None, max_examples=EXAMPLES)
settings.load_profile("busy")

# pytest-qt waits for 5 seconds, unless told otherwise: a busy machine needs longer.
for wait in (QtBot.waitUntil, QtBot.waitSignal, QtBot.waitSignals, QtBot.waitExposed):
    wait.__kwdefaults__["timeout"] = 60_000

# Neither read nor write what whoever runs the tests has set in napari, how fast
# networks were on this machine, or what was kept of them.
get_settings(path=None)
throughput.speeds_file = lambda: None
user_cache.cache_folder = lambda: None


def pytest_configure(config: pytest.Config) -> None:
    """Make warnings of the modules that help tests errors, as those of tests are."""
    ours = "|".join(sorted(path.stem for path in Path(__file__).parent.rglob("*.py")))
    config.addinivalue_line("filterwarnings", f"error:::({ours})$")
    # Showing the arguments of a generator crashes CPython before 3.13.6, and so would
    # hide the failure: https://github.com/python/cpython/issues/125723
    if (3, 13) <= sys.version_info < (3, 13, 6) and config.option.tbstyle == "auto":
        config.option.tbstyle = "native"


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real EM data beside the project; skips where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data folder at {SHARED}")
    return SHARED


@pytest.fixture
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide napari-emseg-data, as where only napari-emseg is installed."""
    monkeypatch.setattr("napari_emseg._installed.find_spec", lambda name: None)


_loaded: dict[tuple[object, ...], Runtime] = {}


def _load_once(weights: Weights, settings: PredictSettings, *more: object) -> Runtime:
    """Return the runtime of an earlier command that ran the same network alike."""
    way = settings.device, settings.runtime, settings.precision, settings.threads
    key = weights.sha256, weights.depth, weights.heads, *way
    if any(part is not None for part in more):  # another network, or one for int8
        return load_runtime(weights, settings, *more)
    if key not in _loaded:
        if len(_loaded) > 8:
            _loaded.clear()
        _loaded[key] = load_runtime(weights, settings)
    return _loaded[key]


@pytest.fixture
def networks_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO takes half a second to load what is run in a tenth of it."""
    monkeypatch.setattr(predictor, "load_runtime", _load_once)


@pytest.fixture(scope="session")
def drawn_stack() -> tuple[Stack, NDArray[np.uint32]]:
    """Four drawn sections of 96 × 112 px, and their cells; don't write into them."""
    stack, cells = synthetic((4, 96, 112), seed=1)
    np.asarray(stack.data).flags.writeable = False
    cells.flags.writeable = False
    return stack, cells


@dataclass(frozen=True)
class Drawing:
    """A section drawn by hand.

    `membrane` are probabilities `(y, x)` float32; `cells` `(y, x)` uint32 are what a
    person sees in it, numbered as drawn, 0 on membranes.
    """

    membrane: NDArray[np.float32]
    cells: NDArray[np.uint32]


# One character is 3 × 3 px; # is membrane, a digit the cell it belongs to. Cells 1 and
# 2 meet at a gap in their membrane; 5 is a speck inside the wall; 4 is thin and touches
# the border.
PICTURE = """
##################
#111111#222222#44#
#111111#222222#44#
#1111111222222#44#
#111111#222222#44#
#111111#222222#44#
###############44#
########5######44#
###############44#
#3333333333333#444
#3333333333333#44#
##################
"""


@pytest.fixture(scope="session")
def drawing() -> Drawing:
    """Five cells drawn by hand; see the picture in this file."""
    rows = PICTURE.split()
    digits = [[0 if c == "#" else int(c) for c in row] for row in rows]
    cells = np.kron(np.array(digits, np.uint32), np.ones((3, 3), np.uint32))
    membrane = np.where(cells == 0, np.float32(0.95), np.float32(0.1))
    return Drawing(membrane, cells)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Files and folders that are open or mapped as on Windows: nobody renames them."""
    held: set[Path] = set()
    for name in ("rename", "replace"):
        as_here = getattr(os, name)

        def move(source: Any, target: Any, *more: Any, _move: Any = as_here) -> None:
            if {Path(source), Path(target)} & held:
                words = "The process cannot access the file because it is being used"
                raise PermissionError(13, words, str(source))
            _move(source, target, *more)

        monkeypatch.setattr(os, name, move)
    return held
