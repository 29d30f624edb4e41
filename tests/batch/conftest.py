"""A tiny network that any process may load, and stacks to run it on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batching import CPU, run, values

from napari_emseg.batch import BatchConfig, BatchSettings, ClusterSettings, find_inputs
from napari_emseg.core.card import Card
from napari_emseg.core.settings import CellSettings
from napari_emseg.io import save_stack
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import build
from napari_emseg.sample import synthetic


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A network of a few weights: what is dark is membrane, around it a little too."""
    import torch

    torch.manual_seed(0)
    config = {"base": 2, "levels": 1, "n_classes": 2, "normalisation": "none"}
    state = build("unet", config).state_dict()
    for parameters in state.values():
        parameters.normal_(0, 0.02)
    for name in ("down.0.0", "down.0.2", "up.0.2"):
        state[f"{name}.weight"][0, 0, 1, 1] = 1
    state["down.0.0.bias"][0] = 1
    state["up.0.0.weight"][0, [0, 2], 1, 1] = 1  # what was skipped, wherever it is
    state["head.weight"][0, 0] = -12
    state["head.bias"][0] = 12 * 1.5
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    card = Card(name="tiny", architecture="unet", config=config)
    return save_weights(path, state, card, half=False)


@pytest.fixture(scope="session")
def _drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stack, _ = synthetic((6, 200, 180), seed=1)
    path = tmp_path_factory.mktemp("drawn") / "em.tif"
    return save_stack(path, stack, voxel_size_nm=(50, 4, 4))


@pytest.fixture
def em(_drawn: Path, tmp_path: Path) -> Path:
    """Six drawn sections of 200 × 180 px; a file of each test's own."""
    return Path(shutil.copyfile(_drawn, tmp_path / "em.tif"))


CHOSEN = {"predict": CPU, "cells": CellSettings(minimum_size=5)}


@pytest.fixture(scope="session")
def whole(weights: Weights, _drawn: Path) -> list[np.ndarray]:
    """Results of a batch on `em` that nothing disturbs; don't write into them."""
    job = BatchConfig(
        find_inputs((str(_drawn),)),
        _drawn.with_name("whole"),
        weights,
        BatchSettings(**CHOSEN),
    )
    found = [values(path) for path in run(job).rows[0].outputs]
    for each in found:
        each.flags.writeable = False
    return found


MakeJob = Callable[..., BatchConfig]


@pytest.fixture
def make_job(weights: Weights, em: Path, tmp_path: Path) -> MakeJob:
    """A job on `em` by threads, unless told otherwise."""

    def make(
        *words: str,
        out: str = "out",
        resume: bool = False,
        overwrite: bool = False,
        where: ClusterSettings | None = None,
        use: Weights | None = weights,
        **settings: Any,
    ) -> BatchConfig:
        return BatchConfig(
            find_inputs(words or (str(em),)),
            tmp_path / out,
            use,
            BatchSettings(**CHOSEN | settings),
            where=where or ClusterSettings(),
            resume=resume,
            overwrite=overwrite,
        )

    return make
