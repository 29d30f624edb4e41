"""A small stack whose sections, rows and columns can't be mistaken for each other."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def stack() -> np.ndarray:
    """Five sections of 20 × 33 px, uint8, no two alike."""
    return np.random.default_rng(0).integers(0, 255, (5, 20, 33), dtype=np.uint8)
