"""Running commands in this process, on small real files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_emseg.cli import main
from napari_emseg.core.card import Card
from napari_emseg.core.stack import Stack
from napari_emseg.io import save_stack
from napari_emseg.models.weights import save_weights
from napari_emseg.models.zoo import build


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Emseg = Callable[..., Outcome]


@pytest.fixture
def emseg(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Emseg:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> Outcome:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(autouse=True)
def _once(networks_are_loaded_once: None) -> None:
    """Each command would load its network anew."""


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a very small U-Net that has learnt nothing, made for 4 nm/px."""
    torch.manual_seed(0)
    config = {"base": 2, "levels": 2}
    card = Card(
        name="tiny",
        architecture="unet",
        config=config,
        pixel_size_nm=(4.0, 4.0),
        threshold=0.4,
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, build("unet", config).state_dict(), card)
    return path


@pytest.fixture
def em_file(drawn_stack: tuple[Stack, NDArray[np.uint32]], tmp_path: Path) -> Path:
    """Write four drawn sections of 96 × 112 px, 4 nm/px."""
    return save_stack(tmp_path / "em.tif", drawn_stack[0])


@pytest.fixture
def cells_file(drawn_stack: tuple[Stack, NDArray[np.uint32]], tmp_path: Path) -> Path:
    """Write the cells of `em_file`, uint32."""
    return save_stack(tmp_path / "cells_truth.tif", Stack(drawn_stack[1]))
