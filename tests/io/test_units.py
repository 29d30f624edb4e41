"""Lengths in many words."""

from __future__ import annotations

import pytest

from napari_emseg.io.volumes import to_nm, voxel_size


@pytest.mark.parametrize(
    ("value", "unit", "nm"),
    [
        (8, "nm", 8),
        (0.004, "µm", 4),  # micro sign
        (0.004, "μm", 4),  # Greek mu
        (0.004, "\\u00B5m", 4),  # as ImageJ escapes it
        (0.004, " Microns ", 4),
        (0.004, "micrometre", 4),
        (40, "Å", 4),
        (40, "angstrom", 4),
        (4e-9, "m", 4),
        (4, "nanometers", 4),
        (4, "pixel", None),
        (4, None, None),
        ("4", "nm", None),
        (0, "nm", None),
        (-4, "nm", None),
        (float("nan"), "nm", None),
        (float("inf"), "nm", None),
    ],
)
def test_to_nm(value: object, unit: object, nm: float | None) -> None:
    assert to_nm(value, unit) == (None if nm is None else pytest.approx(nm))


def test_y_and_x_are_known_together() -> None:
    assert voxel_size(50, None, 4) is None
    assert voxel_size(None, 4, 4) == (None, 4, 4)
