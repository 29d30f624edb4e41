from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field
from qtpy.QtWidgets import QWidget

from napari_emseg.core.settings import (
    CellSettings,
    Normalisation,
    PredictSettings,
    Settings,
)
from napari_emseg.core.training import AugmentSettings, TrainSettings
from napari_emseg.widgets.form import SettingsForm

ALL = (AugmentSettings, CellSettings, Normalisation, PredictSettings, TrainSettings)


class Some(Settings):
    many: int = Field(
        3,
        ge=1,
        le=9,
        title="Many",
        description="How many.",
        json_schema_extra={"unit": "px"},
    )
    maybe: int | None = Field(None, ge=32, le=64, title="Maybe", description="Or not.")
    part: float = Field(0.5, gt=0, lt=1, title="Part", description="A fraction.")
    far: float = Field(2.0, ge=0, le=100, title="Far", description="A length.")
    which: Literal["a", "b"] = Field("a", title="Which", description="One of two.")
    on: bool = Field(True, title="On", description="Or off.")


@pytest.fixture
def form(qtbot) -> SettingsForm:
    form = SettingsForm(Some(), sliders=["part"])
    qtbot.addWidget(form)
    return form


@pytest.fixture
def seen(form) -> list[Settings]:
    seen: list[Settings] = []
    form.edited.connect(seen.append)
    return seen


def part(form: SettingsForm, name: str) -> QWidget:
    return form.findChild(QWidget, name)


@pytest.mark.parametrize("model", ALL)
def test_every_settings_model_survives_its_form(qtbot, model) -> None:
    form = SettingsForm(model())
    qtbot.addWidget(form)
    form._on_changed()
    assert form.settings == model()


def test_titles_help_bounds_and_units_come_from_the_model(form) -> None:
    layout = form.layout()
    titles = [layout.labelForField(part(form, n)).text() for n in Some.model_fields]
    assert titles == ["Many", "Maybe", "Part", "Far", "Which", "On"]
    many = part(form, "many")
    assert many.toolTip() == "How many."
    assert (many.minimum(), many.maximum()) == (1, 9)
    assert many.text() == "3 px"
    assert part(form, "part").minimum() > 0
    assert part(form, "part").maximum() < 1
    assert part(form, "far").text() == "2"


def test_editing_emits_valid_settings(form, seen) -> None:
    part(form, "many").setValue(7)
    part(form, "which").setCurrentText("b")
    part(form, "on").click()
    part(form, "part").setValue(0.25)
    assert seen[-1] == Some(many=7, which="b", on=False, part=0.25)
    assert len(seen) == 4


def test_none_is_shown_as_auto_and_comes_back_as_none(form) -> None:
    maybe = part(form, "maybe")
    assert maybe.text() == "auto"
    maybe.setValue(40)
    assert form.settings.maybe == 40
    form.show_settings(Some(maybe=None))
    assert maybe.text() == "auto"
    maybe.stepUp()
    assert form.settings.maybe == 32
    maybe.stepDown()
    assert form.settings.maybe is None


def test_showing_settings_tells_nobody(form, seen) -> None:
    form.show_settings(Some(many=5, part=0.75))
    assert part(form, "many").value() == 5
    assert part(form, "part").value() == pytest.approx(0.75)
    assert not seen


def test_hidden_fields_keep_their_values(qtbot) -> None:
    form = SettingsForm(Some(far=9.0), fields=["many"])
    qtbot.addWidget(form)
    part(form, "many").setValue(2)
    assert form.settings == Some(many=2, far=9.0)


def test_a_number_without_bounds_is_refused(qapp) -> None:
    class Loose(Settings):
        n: int = Field(1, title="Loose")

    with pytest.raises(TypeError, match=r"Loose: .* bounds"):
        SettingsForm(Loose())


def test_a_gpu_by_its_number_is_shown_and_kept(qtbot) -> None:
    form = SettingsForm(PredictSettings(device="cuda:1"), fields=["device"])
    qtbot.addWidget(form)
    assert form._fields["device"].value() == "cuda:1"
    form.show_settings(PredictSettings(device="cpu"))
    assert form._fields["device"].value() == "cpu"
