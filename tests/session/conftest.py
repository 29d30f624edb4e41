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
from napari_emseg.session.learning import Learning
from napari_emseg.session.run_factory import RunFactory


@pytest.fixture
def session(drawn_stack: tuple[Stack, NDArray[np.uint32]], tmp_path: Path) -> Session:
    session = Session(predict_settings=PredictSettings(runtime="torch", tile=64))
    session.select("a", drawn_stack[0])
    session.choose_weights(thin_weights(tmp_path, threshold=0.4))
    return session


@pytest.fixture
def runs(session: Session) -> RunFactory:
    """What can be run in the session."""
    return RunFactory(session)


@pytest.fixture
def learning(session: Session) -> Learning:
    """What is learnt in the session."""
    return Learning(session)
