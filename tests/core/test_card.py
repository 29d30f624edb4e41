from __future__ import annotations

from napari_emseg.core.card import Card, DataSet, TrainingRecord
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
