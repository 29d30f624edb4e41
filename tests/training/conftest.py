"""Small networks in little time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from napari_emseg.training import validation


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _small_picture_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "SIDE", 64)
