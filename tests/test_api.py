from __future__ import annotations

import numpy as np
import pytest
import torch

import napari_emseg as emseg
from napari_emseg.core.card import Card
from napari_emseg.core.records import SectionDone, TileDone
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import FinetuneSettings
from napari_emseg.models.weights import save_weights
from napari_emseg.models.zoo import build

pytestmark = pytest.mark.usefixtures("networks_are_loaded_once")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    config = {"base": 2, "levels": 2}
    card = Card(
        name="tiny", architecture="unet", config=config, pixel_size_nm=(4.0, 4.0)
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return save_weights(path, build("unet", config).state_dict(), card)


def test_every_public_name_is_there():
    assert set(emseg.__all__) <= set(dir(emseg))
    for name in emseg.__all__:
        assert getattr(emseg, name) is not None


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'predikt'"):
        _ = emseg.predikt


def test_predict_returns_probabilities_of_membrane(drawn_stack, weights):
    records = []
    found = emseg.predict(drawn_stack[0], weights, on_record=records.append)

    assert (found.shape, found.dtype) == ((4, 96, 112), np.float32)
    assert found.min() >= 0
    assert found.max() <= 1
    assert {TileDone, SectionDone} <= {type(record) for record in records}


def test_predict_takes_weights_by_file_and_a_plain_array(drawn_stack, weights):
    stack, _ = drawn_stack
    section = np.asarray(stack.section(2))
    found = emseg.predict(section, str(weights.path), voxel_size_nm=(50, 4, 4))
    np.testing.assert_array_equal(found, emseg.predict(stack, weights, sections=[2]))


def test_predict_keeps_to_sections_region_and_settings(drawn_stack, weights):
    stack, _ = drawn_stack
    whole = emseg.predict(stack, weights)
    part = emseg.predict(
        stack,
        weights,
        sections=[1, 3],
        roi=(slice(8, 60), slice(20, 90)),
        settings=PredictSettings(tile=64, device="cpu"),
    )
    np.testing.assert_allclose(part, whole[[1, 3], 8:60, 20:90], atol=1e-5)


@pytest.mark.parametrize("asked", [[3, 0, 2], [1, 1], (2,)])
def test_predict_returns_sections_in_the_order_asked_for(drawn_stack, weights, asked):
    stack, _ = drawn_stack
    whole = emseg.predict(stack, weights, classes=["membrane", "inside"])
    found = emseg.predict(
        stack, weights, sections=asked, classes=["membrane", "inside"]
    )
    np.testing.assert_array_equal(found, whole[:, list(asked)])


def test_predict_returns_channels_when_classes_are_named(drawn_stack, weights):
    found = emseg.predict(drawn_stack[0], weights, classes=["inside", "membrane"])
    assert found.shape == (2, 4, 96, 112)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_predict_names_weights_that_exist():
    with pytest.raises(ValueError, match="no weights named 'nothing'; bundled are:"):
        emseg.predict(np.zeros((1, 64, 64), np.uint8), "nothing")


def test_segment_finds_the_cells_of_a_drawing(drawing):
    cells = emseg.segment(drawing.membrane, settings=CellSettings(minimum_size=20))

    assert (cells.shape, cells.dtype) == ((1, *drawing.cells.shape), np.uint32)
    found = set()
    for drawn in (1, 2, 3, 4):
        ids = cells[0][drawing.cells == drawn]
        counts = np.bincount(ids[ids > 0])
        assert counts.max() > 0.9 * ids.size  # but for the line where two meet
        found.add(int(counts.argmax()))
    assert len(found) == 4


def test_segment_takes_the_threshold_that_is_given():
    membrane = np.full((1, 40, 40), 0.3, np.float32)
    membrane[:, 18:22] = 0.9
    assert len(np.unique(emseg.segment(membrane, threshold=0.5))) == 3
    assert len(np.unique(emseg.segment(membrane, threshold=0.2))) == 1
    with pytest.raises(ValueError, match="less than 1"):
        emseg.segment(membrane, threshold=1.5)


def test_segment_names_the_section_that_is_damaged():
    class Damaged:
        shape = (2, 8, 8)
        dtype = np.dtype(np.float32)

        def __getitem__(self, z):
            if z == 1:
                msg = "page is cut short"
                raise OSError(msg)
            return np.zeros((8, 8), np.float32)

    with pytest.raises(ValueError, match="section 1: page is cut short"):
        emseg.segment(Stack(Damaged()))


def test_evaluate_a_perfect_prediction(drawn_stack):
    _, cells = drawn_stack
    membrane = (cells == 0).astype(np.float32)
    found = emseg.evaluate(membrane, Stack(cells), truth_is="cells")
    assert found.isbi.v_rand == pytest.approx(1)
    assert found.membrane.iou == 1
    assert found.warnings == ()


def test_evaluate_wants_to_be_told_what_the_truth_is(drawn_stack):
    _, cells = drawn_stack
    with pytest.raises(TypeError, match="truth_is"):
        emseg.evaluate(cells == 0, cells)


def test_finetune_gives_weights_with_a_lineage(drawn_stack, weights, tmp_path):
    stack, cells = drawn_stack
    codes = np.zeros(stack.shape, np.uint8)
    codes[0, :40] = np.where(cells[0, :40] > 0, 2, 1)
    settings = FinetuneSettings(steps=1, patch=32, batch=2)
    tuned = emseg.finetune(
        weights, stack, codes, settings=settings, output=tmp_path / "mine.safetensors"
    )
    assert tuned.card.parent_sha256 == weights.sha256
    assert tuned.card.name == "mine"
    assert emseg.predict(stack, tuned, sections=[0]).shape == (1, 96, 112)
    by_labels = emseg.finetune(
        weights, stack, cells, corrections_are="cells", settings=settings
    )
    assert by_labels.path.is_file()
