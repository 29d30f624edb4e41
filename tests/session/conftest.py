"""A session with a stack at work, and weights that load in no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from thin import thin_weights

from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.session import Session


@pytest.fixture
def session(drawn_stack: tuple[Stack, NDArray[np.uint32]], tmp_path: Path) -> Session:
    session = Session(predict_settings=PredictSettings(runtime="torch", tile=64))
    session.select("a", drawn_stack[0])
    session.choose_weights(thin_weights(tmp_path, threshold=0.4))
    return session
