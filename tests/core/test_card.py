from __future__ import annotations

from napari_emseg.core.card import (
    Card,
    DataSet,
    TrainingRecord,
    Variant,
    format_score,
)
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.tiles import Geometry


def test_a_card_survives_json() -> None:
    card = Card(
        name="mine",
        architecture="unet",
        config={"base": 8},
        classes=("membrane", "inside", "mitochondria"),
        pixel_size_nm=(4.0, 4.6),
        normalisation=Normalisation(low_percentile=2, scope="stack"),
        training_data=(DataSet(name="VNC", sections="0-3", licence="CC BY-NC-SA 3.0"),),
        scores={"v_rand": 0.97},
        geometry=Geometry(16, 92, "valid", remainder=4),
        training=TrainingRecord(hardware="a CPU", seconds=12.5, settings={"steps": 3}),
    )
    assert Card.model_validate_json(card.model_dump_json()) == card


def test_a_card_of_a_later_version_is_read() -> None:
    later = Card(name="a", architecture="unet").model_dump() | {"invented_later": 1}
    assert Card.model_validate(later).name == "a"


def test_membrane_comes_first_unless_said_otherwise() -> None:
    card = Card(name="a", architecture="unet")
    assert card.classes == ("membrane", "inside")
    assert card.pixel_size_nm is None


def test_scores_of_cells_have_the_names_that_they_have_everywhere() -> None:
    """Weights of several data sets said `cells` and `vi` once."""
    before = {"v_rand": 0.9, "cells": 0.75, "vi": 1.5, "x_cells": 0.5, "x_vi": 2.0}
    now = {
        "v_rand": 0.9,
        "cells_adapted_rand_error": 0.25,
        "cells_vi": 1.5,
        "x_cells_adapted_rand_error": 0.5,
        "x_cells_vi": 2.0,
    }
    card = Card(
        name="a",
        architecture="unet",
        scores=before,
        variants=(Variant(tta=True, scores=before),),
    )
    assert card.scores == card.variants[0].scores == now
    # read again, and other scores that only end alike
    assert Card(name="a", architecture="unet", scores=now).scores == now
    others = {"held_out_vi": 0.5, "parent_vi": 0.6, "cells_vi": 1.0}
    assert Card(name="a", architecture="unet", scores=others).scores == others


def test_counts_among_scores_are_whole_numbers() -> None:
    assert format_score("cells_false_merges", 1290.0) == "1,290"
    assert format_score("held_out_pixels", 10752.0) == "10,752"
    assert format_score("cells_vi", 0.2003) == "0.2003"
    assert format_score("cells_vi_merge", 0.131) == "0.1310"
