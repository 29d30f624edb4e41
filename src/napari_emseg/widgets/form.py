"""A form made from a settings model: its titles, help, bounds and units, said once."""

from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QLineEdit, QSpinBox, QWidget
from superqt import QLabeledDoubleSlider

from napari_emseg.core.settings import Settings
from napari_emseg.widgets.theme import combo_box, form_layout, row_label

AUTO = "auto"
"""What a field that may be None shows for it."""

DECIMALS = 6
"""Of fractional numbers; an open bound is kept off by the last of them."""


class SettingsForm(QWidget):
    """Edits one settings model.

    `edited` carries the new settings when the user changed a value; what the model
    refuses can't be entered.

    Parameters
    ----------
    settings
        What is shown first; fields that aren't shown keep their values.
    fields
        Names of the fields to show, in this order; all plain ones by default.
    sliders
        Fields that get a slider.
    """

    edited = Signal(object)

    def __init__(
        self,
        settings: Settings,
        *,
        fields: Sequence[str] | None = None,
        sliders: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._settings = settings
        self._fields: dict[str, _Field] = {}
        layout = form_layout(self)
        model = type(settings).model_fields
        for name in _plain(settings) if fields is None else fields:
            field = _field(model[name], slider=name in sliders)
            field.changed.connect(self._on_changed)
            field.widget.setToolTip(model[name].description or "")
            field.widget.setObjectName(name)
            self._fields[name] = field
            layout.addRow(row_label(model[name].title or name), field.widget)
        self.show_settings(settings)

    @property
    def settings(self) -> Settings:
        """What the form shows now."""
        return self._settings

    def show_settings(self, settings: Settings) -> None:
        """Show other values without telling anyone."""
        self._settings = settings
        for name, field in self._fields.items():
            blocked = field.widget.blockSignals(True)
            field.show(getattr(settings, name))
            field.widget.blockSignals(blocked)

    def grey_out(self, name: str, why: Mapping[str, str]) -> None:
        """Let choices of a field not be taken; `why` not is the tooltip of each."""
        box = self._fields[name].widget
        for index in range(box.count()):
            words = why.get(box.itemText(index), "")
            box.model().item(index).setEnabled(not words)
            box.model().item(index).setToolTip(words)

    def _on_changed(self) -> None:
        values = {name: field.value() for name, field in self._fields.items()}
        settings = type(self._settings).model_validate(
            self._settings.model_dump() | values
        )
        if settings != self._settings:
            self._settings = settings
            self.edited.emit(settings)


class _Field:
    """A widget, and how to read and write it."""

    def __init__(
        self,
        widget: QWidget,
        changed: Any,
        value: Callable[[], Any],
        show: Callable[[Any], None],
    ) -> None:
        self.widget = widget
        self.changed = changed
        self.value = value
        self.show = show


class _NumberBox(QDoubleSpinBox):
    """Shows a number with the digits it has, and steps by its size."""

    def __init__(self) -> None:
        super().__init__()
        self.setDecimals(DECIMALS)
        self.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)

    def textFromValue(self, value: float) -> str:  # noqa: N802 - the name in Qt
        return f"{value:g}"


def _plain(settings: Settings) -> list[str]:
    fields = type(settings).model_fields
    return [
        name
        for name, info in fields.items()
        if not isinstance(getattr(settings, name), Settings) and not _hidden(info)
    ]


def _hidden(info: FieldInfo) -> bool:
    """Tell if a setting isn't one that a form could show."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get("hidden") is True


def _field(info: FieldInfo, *, slider: bool) -> _Field:
    """Return the widget for one field of a model."""
    kind, optional = _kind(info.annotation)
    if slider:
        return _slider(info)
    if kind is bool:
        box = QCheckBox()
        return _Field(box, box.toggled, box.isChecked, box.setChecked)
    listed = [k for k in (kind, *get_args(kind)) if get_origin(k) is Literal]
    if listed:
        return _choice(get_args(listed[0]))
    if kind is int:
        return _whole_number(info, optional=optional)
    if kind is float:
        return _number(info, optional=optional)
    if kind is str:
        line = QLineEdit()
        return _Field(line, line.editingFinished, line.text, line.setText)
    msg = f"a form has no widget for {info.title}: {info.annotation}"
    raise TypeError(msg)


def _kind(annotation: Any) -> tuple[Any, bool]:
    """Return the type without None, and whether None is allowed."""
    kinds = get_args(annotation)
    if get_origin(annotation) is Literal or NoneType not in kinds:
        return annotation, False
    (kind,) = (k for k in kinds if k is not NoneType)
    return kind, True


def _choice(choices: tuple[Any, ...]) -> _Field:
    box, kind = combo_box(), type(choices[0])
    box.addItems([str(choice) for choice in choices])

    def show(chosen: object) -> None:
        choice = str(chosen)
        if box.findText(choice) < 0:  # such as the second of several GPUs
            box.addItem(choice)
        box.setCurrentText(choice)

    return _Field(box, box.currentTextChanged, lambda: kind(box.currentText()), show)


def _whole_number(info: FieldInfo, *, optional: bool) -> _Field:
    box = QSpinBox()
    low, high = _bounds(info, gap=1)
    none = low - 1
    box.setRange(none if optional else low, high)
    box.setStepType(QSpinBox.StepType.AdaptiveDecimalStepType)
    box.setKeyboardTracking(False)
    box.setSuffix(_unit(info))
    if optional:  # the lowest value stands for None
        box.setSpecialValueText(AUTO)

    def value() -> int | None:
        return None if optional and box.value() == none else box.value()

    def show(value: int | None) -> None:
        box.setValue(none if value is None else value)

    return _Field(box, box.valueChanged, value, show)


def _number(info: FieldInfo, *, optional: bool) -> _Field:
    box = _NumberBox()
    low, high = _bounds(info, gap=10.0**-DECIMALS)
    none = low - 1
    box.setRange(none if optional else low, high)
    box.setKeyboardTracking(False)
    box.setSuffix(_unit(info))
    if optional:  # as for whole numbers
        box.setSpecialValueText(AUTO)

    def value() -> float | None:
        unset = optional and box.value() < low
        return None if unset else round(box.value(), DECIMALS)

    def show(value: float | None) -> None:
        box.setValue(none if value is None else value)

    return _Field(box, box.valueChanged, value, show)


def _slider(info: FieldInfo) -> _Field:
    low, high = _bounds(info, gap=0.0)
    step = (high - low) / 100
    low, high = _bounds(info, gap=step)
    slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
    slider.setDecimals(2)
    slider.setSingleStep(step)
    slider.setRange(low, high)

    def value() -> float:
        return round(slider.value(), DECIMALS)

    return _Field(slider, slider.valueChanged, value, slider.setValue)


def _bounds(info: FieldInfo, *, gap: float) -> tuple[Any, Any]:
    """Return the smallest and largest value that can be entered."""
    low = high = None
    for bound in info.metadata:
        if isinstance(bound, Ge):
            low = bound.ge
        elif isinstance(bound, Gt):
            low = bound.gt + gap
        elif isinstance(bound, Le):
            high = bound.le
        elif isinstance(bound, Lt):
            high = bound.lt - gap
    if low is None or high is None:
        msg = f"{info.title}: a number in a form needs bounds on both sides"
        raise TypeError(msg)
    return low, high


def _unit(info: FieldInfo) -> str:
    extra = info.json_schema_extra
    return f" {extra['unit']}" if isinstance(extra, dict) and "unit" in extra else ""
