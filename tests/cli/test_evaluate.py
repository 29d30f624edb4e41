from __future__ import annotations

import json

import numpy as np
import pytest

from napari_emseg.api import evaluate
from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import Stack
from napari_emseg.io import save_stack


@pytest.fixture
def truth(drawn_stack) -> np.ndarray:
    return np.where(drawn_stack[1] == 0, 255, 0).astype(np.uint8)


@pytest.fixture
def blurred(drawn_stack, tmp_path) -> np.ndarray:
    """Write membranes with a hole through one wall, as `emseg predict` does."""
    membrane = np.where(drawn_stack[1] == 0, np.float32(0.8), np.float32(0.1))
    membrane[:, 40:56, :] = 0.1
    made = Provenance(kind="membrane", threshold=0.45)
    save_stack(tmp_path / "prediction.tif", Stack(membrane), provenance=made)
    return membrane


def test_prints_scores_as_the_python_call_has_them(emseg, blurred, truth):
    save_stack("truth.tif", truth)
    done = emseg("evaluate", "prediction.tif", "truth.tif", "--truth-is", "membrane")

    assert done.code == 0
    expected = evaluate(blurred, truth, truth_is="membrane", threshold=0.45)
    rows = {line.split()[0]: line.split()[1:3] for line in done.out.splitlines()}
    assert rows["v_rand"][0] == f"{expected.isbi.v_rand:.4f}"
    assert 0.3 < expected.isbi.v_rand < 0.99
    assert rows["membrane_iou"][0] == f"{expected.membrane.iou:.4f}"
    assert "membrane is above 0.45" in done.out


def test_json_is_one_object(emseg, blurred, truth):
    save_stack("truth.tif", truth)
    done = emseg(
        *("evaluate", "prediction.tif", "truth.tif", "--truth-is", "membrane"),
        "--json",
    )
    record = json.loads(done.out)
    assert record["prediction_is"] == "membrane"
    assert record["isbi"]["v_rand"] < 1


def test_meanings_that_nobody_said_are_asked_for(emseg, blurred, truth):
    save_stack("truth.tif", truth)
    save_stack("foreign.tif", blurred)
    done = emseg("evaluate", "prediction.tif", "truth.tif")
    assert (done.code, done.out) == (2, "")
    assert "--truth-is membrane, inside or cells" in done.err
    done = emseg("evaluate", "foreign.tif", "truth.tif", "--truth-is", "membrane")
    assert done.code == 2
    assert "--prediction-is membrane, inside or cells" in done.err


def test_a_truth_that_looks_inverted_is_warned_of(emseg, blurred, truth):
    save_stack("truth.tif", truth)
    done = emseg("evaluate", "prediction.tif", "truth.tif", "--truth-is", "inside")
    assert done.code == 0
    assert "warning: " in done.err
    assert "is it membrane rather than inside?" in done.err


def test_cells_of_ours_are_compared_section_by_section(emseg, blurred, cells_file):
    assert emseg("segment", "prediction.tif", "cells.tif").code == 0
    words = ("evaluate", "cells.tif", cells_file, "--truth-is", "cells", "--json")
    own = json.loads(emseg(*words).out)
    linked = json.loads(emseg(*words, "--linked").out)
    assert (own["linked"], linked["linked"]) == (False, True)
    error = "adapted_rand_error"
    assert own["overlap"][error] < 0.5 < linked["overlap"][error]


def test_shapes_that_differ_are_refused(emseg, blurred, truth):
    save_stack("truth.tif", truth[:3])
    words = ("evaluate", "prediction.tif", "truth.tif", "--truth-is", "membrane")
    done = emseg(*words)
    assert done.code == 2
    assert "shapes differ" in done.err
    assert emseg(*words, "--sections", "0:2").code == 0


def test_a_choice_about_the_truth_names_its_own_option(emseg, blurred, truth):
    import h5py

    with h5py.File("truth.h5", "w") as file:
        file["a"] = truth
        file["b"] = truth
    words = ("evaluate", "prediction.tif", "truth.h5", "--truth-is", "membrane")
    done = emseg(*words)
    assert done.code == 2
    assert "--truth.dataset" in done.err
    assert emseg(*words, "--truth.dataset", "b").code == 0


@pytest.mark.parametrize("ours", [True, False])
def test_id_65535_is_a_cell_in_a_file_of_ours_and_no_label_in_others(emseg, ours):
    cells = np.zeros((2, 40, 40), np.uint16)
    cells[:, 2:19, 2:38], cells[:, 21:38, 2:38] = 7, 65535
    made = Provenance(kind="cells") if ours else None
    save_stack("c16.tif", Stack(cells), provenance=made, format="fiji")
    save_stack("c32.tif", Stack(cells.astype(np.uint32)), provenance=made)
    words = ("--prediction-is", "cells", "--truth-is", "cells", "--json")
    done = emseg("evaluate", "c16.tif", "c32.tif", *words)
    assert done.code == 0
    assert ("has no label" in done.err) != ours
    scores = json.loads(done.out)["overlap"]
    assert (scores["iou"] == 1) == ours
    back = emseg("evaluate", "c32.tif", "c16.tif", *words)
    assert ("has no label" in back.err) != ours
