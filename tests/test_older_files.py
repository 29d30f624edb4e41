"""What an earlier version wrote opens in this one: weights, project, broken-off batch.

`data/version_0_1_0` was written by version 0.1.0 on 2026-11-29 from six drawn sections:
weights that had learnt nothing; a project with two reviewed sections, two strokes,
cells of two sections, an accepted round and a candidate; a batch that was broken off
when its membranes were done.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_emseg.batch import (
    BatchConfig,
    BatchSettings,
    ClusterSettings,
    context,
    find_inputs,
    planning,
    run_batch,
)
from napari_emseg.core.records import Note, Record, drain
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.io import open_stack, read_provenance
from napari_emseg.models.weights import load_weights, read_weights
from napari_emseg.session import Session
from napari_emseg.session.learning import Learning
from napari_emseg.session.projects import open_project

WRITTEN = Path(__file__).with_name("data") / "version_0_1_0"
CHANGED_NS = 1795971017553879955
"""When the stack was written; the batch knows it by that, too."""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of what was written."""
    folder = tmp_path / "files"
    shutil.copytree(WRITTEN, folder)
    os.utime(folder / "em.tif", ns=(CHANGED_NS, CHANGED_NS))
    return folder


def test_weights_and_their_card(files: Path) -> None:
    weights = load_weights(
        str(files / "em.emseg" / "weights" / "parent-round1.safetensors")
    )
    card = weights.card
    assert (card.architecture, card.classes) == ("unet", ("membrane", "inside"))
    assert card.parent_sha256 == read_weights(files / "parent.safetensors").sha256
    assert card.training.settings["corrections"]["em"]["held_out"] == [
        [4, 0, 0, 128, 128]
    ]
    assert sum(p.numel() for p in weights.network().parameters()) == card.parameters


def test_a_project_with_its_hand_work_and_rounds(files: Path) -> None:
    session = Session(predict_settings=PredictSettings(invert="no", device="cpu"))
    open_project(session, files / "em.emseg")
    source = session.source
    assert source is not None
    assert source.stack.shape == (6, 128, 128)
    assert source.reviewed == {0, 4}
    hand = session.correcting()
    corrections = np.asarray(hand.corrections)

    def cells(z: int) -> np.ndarray:
        sheet = hand.sheet(z)
        return sheet.window("cells", sheet.whole)

    assert (corrections[2, 10:14, 10:40] == 1).all()
    assert (corrections[1, 60:66, 60:66] == 2).all()
    assert np.count_nonzero(corrections[2]) == 4 * 30
    assert np.unique(cells(1)).size > 1
    assert np.unique(cells(3)).tolist() == [0]
    learning = Learning(session)
    rounds = {r.name: r.state for r in learning.rounds}
    assert rounds["parent-round1"] == "accepted"
    assert rounds["parent-round2"] == "candidate"
    accepted = learning.accept("parent-round2")
    assert accepted.path == files / "em.emseg" / "weights" / "parent-round2.safetensors"
    assert session.project is not None
    session.project.close()


def test_a_batch_that_was_broken_off_goes_on(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "DEEPEST", 2)
    settings = BatchSettings(
        predict=PredictSettings(device="cpu", runtime="torch", threads=1, invert="no"),
        cells=CellSettings(minimum_size=5),
        steps=("membranes", "cells", "link"),
    )
    weights = read_weights(files / "parent.safetensors")
    job = BatchConfig(
        find_inputs((str(files / "em.tif"),)),
        files / "batch",
        weights,
        settings,
        where=ClusterSettings(),
        resume=True,
        overwrite=False,
    )
    monkeypatch.setattr(planning, "__version__", "9.9")  # this one, or a later one
    told: list[Record] = []
    summary = drain(run_batch(job), told.append)
    assert summary.ok
    assert summary.reused == 4  # a look at it, and membranes in three parts
    notes = [record.message for record in told if isinstance(record, Note)]
    assert any("begun by napari-emseg 0.1.0, which" in message for message in notes)
    for path in summary.rows[0].outputs:
        made = read_provenance(path)
        assert made is not None
        assert made.version == "0.1.0, 9.9"
    membranes = open_stack(summary.rows[0].outputs[0])
    assert membranes.shape == (6, 128, 128)
