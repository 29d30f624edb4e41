"""Sections in blocks give what whole sections give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from batching import CPU, lines, plain, run, values

from napari_emseg import predict
from napari_emseg.batch import BatchConfig, BatchSettings, Summary, find_inputs
from napari_emseg.core.card import Card
from napari_emseg.core.records import Provenance
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, save_stack
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import build
from napari_emseg.project import Project
from napari_emseg.proofreading import MEMBRANE
from napari_emseg.sample import synthetic

CHOSEN = BatchSettings(
    steps=("membranes", "cells", "link"),
    cells=CellSettings(minimum_size=50, threshold=0.45),
    predict=CPU.model_copy(update={"tile": 512}),
    table=True,
)
BLOCKS = CHOSEN.model_copy(update={"whole": 512, "block": 1024})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sections of 1,100 × 1,060 px; a corner is padding."""
    stack, _ = synthetic((2, 275, 265), seed=2)
    em = np.kron(np.asarray(stack.data), np.ones((1, 4, 4), np.uint8))
    em[1, :200, :300] = 0
    path = tmp_path_factory.mktemp("large") / "large.zarr"
    return save_stack(path, em, voxel_size_nm=(50, 4, 4))


@pytest.fixture(scope="module")
def blocks(large: Path, weights: Weights) -> Summary:
    """What a batch gives that cuts sections into four blocks each."""
    out = large.parent / "blocks"
    return run(BatchConfig(find_inputs((str(large),)), out, weights, BLOCKS))


def test_blocks_are_as_the_whole(large, weights, blocks) -> None:
    out = large.parent / "whole"
    whole = run(BatchConfig(find_inputs((str(large),)), out, weights, CHOSEN))
    assert whole.ok
    assert blocks.ok
    assert blocks.tasks > whole.tasks
    one, other = (summary.rows[0].outputs for summary in (whole, blocks))
    for a, b in zip(one[:2], other[:2], strict=True):
        for level in ("0", "1"):
            levels = (zarr.open_array(path / level, mode="r") for path in (a, b))
            np.testing.assert_array_equal(*levels)
    cells = values(one[1])
    assert len(np.unique(cells)) > 20
    assert not cells[1, :190, :290].any()


@pytest.mark.slow
def test_membrane_by_hand_cuts_blocks_as_it_cuts_the_whole(tmp_path) -> None:
    """Walls lie across cells and across the border of blocks; one stroke is short."""
    drawn, truth = synthetic((2, 275, 265), seed=2)
    grey = np.kron(np.asarray(drawn.data), np.ones((1, 4, 4), np.uint8))
    p = save_stack(
        tmp_path / "p.tif",
        Stack(np.float32(grey < 100)),
        provenance=Provenance(kind="membrane", threshold=0.45),
    )
    codes = np.zeros(grey.shape, np.uint8)
    codes[0, 80:1090, 500:503] = codes[1, 1010:1030, 40:1000] = MEMBRANE
    codes[1, 300:340, 300:303] = MEMBRANE
    with Project.create(tmp_path / "p.emseg", open_stack(p)) as project:
        for z, section in enumerate(codes):
            area = slice(0, section.shape[0]), slice(0, section.shape[1])
            project.put("corrections", z, area, section)
    found = []
    for name, chosen in (("whole", CHOSEN), ("blocks", BLOCKS)):
        steps = chosen.model_copy(update={"steps": ("cells", "link"), "table": False})
        given = find_inputs((str(tmp_path / "p.emseg"),))
        summary = run(BatchConfig(given, tmp_path / name, None, steps))
        assert summary.ok
        assert summary.rows[0].warnings == ()
        found.append(values(summary.rows[0].outputs[0]))
    np.testing.assert_array_equal(*found)
    assert not found[1][codes == MEMBRANE].any()
    # of true cells that go on beyond the wall, the two sides are apart
    left, right = (
        np.kron(truth[0], np.ones((4, 4), int))[80:1090, x] for x in (496, 506)
    )
    same = (left == right) & (left > 0)
    one, other = (found[1][0, 80:1090, x][same] for x in (496, 506))
    assert same.sum() > 500
    assert (one != other)[(one > 0) & (other > 0)].mean() > 0.9


def test_the_table_of_blocks_adds_up_to_that_of_the_whole(blocks, tmp_path) -> None:
    outputs = blocks.rows[0].outputs
    expected = plain(outputs, tmp_path / "plain.csv", linked=True)
    found, cells = lines(outputs[2]), values(outputs[1])
    assert len(found) > 20
    place = ("z", "y", "x")
    for one, other in zip(found, expected, strict=True):
        assert {k: v for k, v in one.items() if k not in place} == {
            k: v for k, v in other.items() if k not in place
        }
        assert cells[tuple(int(one[k]) for k in place)] == int(one["cell"])


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A network that sees three sections, with random weights."""
    torch.manual_seed(0)
    config = {"base": 2, "levels": 1, "context": 3, "affinities": [[-1, 0, 0]]}
    state = build("unet", config).state_dict()
    path = tmp_path_factory.mktemp("weights") / "seeing.safetensors"
    card = Card(name="seeing", architecture="unet", config=config)
    return save_weights(path, state, card, half=False)


@pytest.mark.parametrize(("first", "stop"), [(None, None), (1, 4)])
def test_blocks_see_the_neighbours_that_the_whole_sees(
    seeing: Weights, tmp_path: Path, first: int | None, stop: int | None
) -> None:
    em = np.random.default_rng(0).integers(20, 200, (5, 300, 280), np.uint8)
    em[2] = 0  # blank: the next one is seen in its place
    em[4, :100, :60] = 0  # padding of a neighbour
    given = str(save_stack(tmp_path / "em.zarr", em, voxel_size_nm=(50, 4, 4)))
    found = {}
    for name, ways in {"whole": {}, "blocks": {"whole": 256, "block": 1024}}.items():
        settings = BatchSettings(
            steps=("membranes",), predict=CPU, probabilities="float32", **ways
        )
        inputs = find_inputs((given,), first=first, stop=stop)
        job = BatchConfig(inputs, tmp_path / name, seeing, settings)
        found[name] = values(run(job).rows[0].outputs[0])
    np.testing.assert_allclose(found["whole"], found["blocks"], atol=1e-6)
    alone = predict(open_stack(given), seeing, settings=CPU)
    np.testing.assert_allclose(found["whole"], alone[first:stop], atol=1e-6)
