from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import tifffile
from synthetic_pairs import PAIRS, REFERENCE

from napari_emseg import metrics

FIELDS = [f"v_{a}{b}" for a in ("rand", "info") for b in ("", "_split", "_merge")]


def assert_as_in(reference, inside, truth):
    found = metrics.v_rand_v_info(inside, truth)
    for field in FIELDS:
        expected = reference["summary"][field]
        expected = np.nan if expected is None else expected
        np.testing.assert_allclose(getattr(found, field), expected, atol=1e-12)
    for name, agreement in (("v_rand", found.rand), ("v_info", found.info)):
        np.testing.assert_allclose(agreement.curve, reference[name], atol=1e-12)
        threshold = reference["summary"][f"{name}_threshold"]
        assert getattr(found, f"{name}_threshold") == threshold


@pytest.mark.parametrize("reference", REFERENCE["pairs"], ids=lambda r: r["name"])
def test_scores_are_the_challenges_own(reference):
    assert_as_in(reference, *PAIRS[reference["name"]])


@pytest.mark.parametrize("reference", REFERENCE["pairs"], ids=lambda r: r["name"])
def test_thinned_labels_are_the_challenges_own(reference):
    inside, _ = PAIRS[reference["name"]]
    expected = reference["thinned_labels"]
    labels = metrics.thin(inside.astype(float) > expected["at_threshold"])
    digest = hashlib.sha256(labels.astype("<u2").tobytes()).hexdigest()
    assert digest == expected["sha256_raw_u16le"]


@pytest.mark.shared_data
def test_every_reference_pair_agrees(shared_data):
    folder = shared_data / "isbi_scores"
    for reference in json.loads((folder / "reference.json").read_text())["pairs"]:
        name = reference["name"]
        inside = tifffile.imread(folder / f"{name}.prop_f32.tif")
        assert_as_in(reference, inside, tifffile.imread(folder / f"{name}.gt.tif"))
        expected = reference["thinned_labels"]
        labels = metrics.thin(inside.astype(float) > expected["at_threshold"])
        np.testing.assert_array_equal(
            labels, tifffile.imread(folder / expected["file"])
        )
