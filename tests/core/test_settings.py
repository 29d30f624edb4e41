from __future__ import annotations

import pytest
from pydantic import ValidationError

from napari_emseg.core.settings import (
    CellSettings,
    Normalisation,
    PredictSettings,
    Settings,
)
from napari_emseg.core.training import AugmentSettings, TrainSettings

MODELS = (AugmentSettings, CellSettings, Normalisation, PredictSettings, TrainSettings)


@pytest.mark.parametrize("model", MODELS)
def test_every_number_has_a_title_help_and_bounds(model: type[Settings]) -> None:
    for name, field in model.model_json_schema()["properties"].items():
        if "$ref" in field:
            continue
        assert field["title"], name
        assert field["description"].endswith("."), name
        for kind in (field, *field.get("anyOf", ())):
            if kind.get("type") in ("integer", "number") and "enum" not in kind:
                assert {"minimum", "exclusiveMinimum"} & kind.keys(), name
                assert {"maximum", "exclusiveMaximum"} & kind.keys(), name


@pytest.mark.parametrize("model", MODELS)
def test_settings_survive_json(model: type[Settings]) -> None:
    settings = model()
    assert model.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize("model", MODELS)
def test_settings_are_frozen_and_know_their_names(model: type[Settings]) -> None:
    settings = model()
    name = next(iter(model.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, name, getattr(settings, name))
    with pytest.raises(ValidationError, match="Extra inputs"):
        model.model_validate({"tresholt": 0.5})


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (CellSettings, {"threshold": 1.0}),
        (CellSettings, {"join": -0.1}),
        (CellSettings, {"small": "eat"}),
        (Normalisation, {"low_percentile": 60}),
        (PredictSettings, {"device": "tpu"}),
        (TrainSettings, {"learning_rate": 0}),
        (TrainSettings, {"augment": {"warp": 2}}),
    ],
)
def test_bounds_hold(model: type[Settings], values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(values)
