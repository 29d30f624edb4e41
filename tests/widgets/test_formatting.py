from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_emseg.core.card import Card, DataSet
from napari_emseg.core.stack import Stack
from napari_emseg.segmentation import CellsResult
from napari_emseg.widgets.formatting import (
    format_card,
    format_card_details,
    format_cell_size,
    format_rescaling,
    format_result,
    format_stack,
    format_time_left,
    format_voxel_size,
    parse_voxel_size,
)

COARSE = (
    "the picture is much coarser than what the weights learnt from, so expect poor "
    "membranes"
)


def stack(size=None, shape=(20, 64, 64)) -> Stack:
    return Stack(np.zeros(shape, np.uint8), voxel_size_nm=size)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (stack((50, 4.6, 4.6)), "20 sections 64² · 50 × 4.6 × 4.6 nm"),
        (stack(shape=(1, 8, 9)), "1 section 8 × 9 · voxel size unknown"),
        (stack((None, 4, 5)), "20 sections 64² · ? × 4 × 5 nm"),
    ],
)
def test_stack(given, words) -> None:
    assert format_stack(given) == words


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50 × 4.6 × 4.6", (50, 4.6, 4.6)),
        ("50x4,4 nm", (50, 4, 4)),
        ("8", (8, 8, 8)),
        ("? 4 4", (None, 4, 4)),
        ("  ", None),
    ],
)
def test_size_that_is_typed(text, size) -> None:
    assert parse_voxel_size(text) == size


@pytest.mark.parametrize("text", ["1 2", "a b c", "1 2 3 4", "4 ? 4"])
def test_size_that_is_none(text) -> None:
    with pytest.raises(ValueError, match="is no voxel size"):
        parse_voxel_size(text)


def test_size_survives_its_words() -> None:
    for size in ((50.0, 4.6, 4.6), (None, 4.0, 4.0), (10.0, 10.0, 10.0)):
        assert parse_voxel_size(format_voxel_size(size)) == size


@pytest.mark.parametrize(
    ("size", "wanted", "rescale", "words"),
    [
        ((50, 4.6, 4.6), (4, 4), True, "4.6 → 4 nm/px (1.15×)"),
        ((50, 4, 8), (8, 8), True, "4 × 8 → 8 nm/px (0.5 × 1×)"),
        ((50, 4, 4), (4, 4), True, "4 nm/px, as the weights"),
        ((50, 8, 8), (4, 4), False, "8 nm/px, not rescaled to 4"),
        (None, (4, 4), True, "no voxel size given, used as it is (weights: 4 nm/px)"),
        (
            (50, 10, 10),
            (4, 4),
            True,
            f"10 → 4 nm/px (2.5×), enlarged more than 2×: {COARSE}",
        ),
        ((50, 8, 8), None, True, "the weights take any voxel size"),
    ],
)
def test_rescaling(size, wanted, rescale, words) -> None:
    card = Card(name="w", architecture="unet", pixel_size_nm=wanted)
    assert format_rescaling(stack(size), card, rescale=rescale) == words


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        ("BSD-3-Clause; learnt from ISBI 2012", False),
        ("CC-BY-NC-SA-3.0", True),
        ("CC BY-NC-SA 3.0 (learnt from VNC among others): non-commercial", True),
        ("", False),
    ],
)
def test_a_card_says_if_weights_are_not_for_commercial_use(licence, forbids) -> None:
    card = Card(name="w", architecture="unet", licence=licence)
    assert format_card(card).endswith("non-commercial") is forbids


def test_card() -> None:
    card = Card(
        name="w",
        summary="U-Net <small>",
        architecture="unet",
        parameters=1_940_000,
        pixel_size_nm=(4, 4),
        scores={"v_rand": 0.9712, "v_info": 0.98},
        training_data=(DataSet(name="ISBI", sections="9-21"),),
        held_out_data=(DataSet(name="ISBI", sections="0-2"),),
        licence="BSD-3-Clause",
    )
    assert format_card(card) == "4 nm/px · <b>V_Rand 0.971</b> held out"
    assert format_card_details(card).split("<br>") == [
        "U-Net &lt;small&gt;",
        "unet · 1.9 M parameters",
        "V_Rand 0.971 · V_Info 0.980 on held-out ISBI, sections 0-2",
        "learnt from ISBI, sections 9-21",
        "licence: BSD-3-Clause",
    ]
    of_cells = {**card.scores, "cells_v_rand": 0.9668}
    both = card.model_copy(update={"scores": of_cells})
    assert format_card(both) == "4 nm/px · cells: <b>V_Rand 0.967</b> held out"
    assert "membranes: V_Rand 0.971 · V_Info 0.980" in format_card_details(both)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.2, "1 s left"),
        (14.4, "14 s left"),
        (125, "2 min left"),
        (7300, "2.0 h left"),
    ],
)
def test_time_left(seconds, words) -> None:
    assert format_time_left(seconds) == words


@pytest.mark.parametrize(
    ("voxels", "size", "solid", "words"),
    [
        (12_345, None, True, ("12,345", "px")),
        (1_000, (50, 4, 4), True, ("0.0008", "µm³")),
        (1_000, (50, 4, 4), False, ("0.016", "µm²")),
        (1_000, (None, 4, 4), True, ("0.016", "µm²")),
        (10**8, (50, 5, 5), True, ("125", "µm³")),
        (10**10, (50, 5, 5), True, ("12,500", "µm³")),
    ],
)
def test_sizes_of_cells_are_physical_where_voxels_are(voxels, size, solid, words):
    assert format_cell_size(voxels, size, solid=solid) == words


def test_linked_profiles_are_counted_as_the_cells_they_are() -> None:
    found = CellsResult(None, (0, 1), {0: 3, 1: 4}, {}, linked=5)
    assert format_result(found) == "5 cells in 2 sections"
    assert format_result(replace(found, linked=None)) == "7 cells in 2 sections"
