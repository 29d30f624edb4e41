"""Lengths in the units that microscopes and programs write, in nanometres."""

from __future__ import annotations

from math import isfinite

from napari_emseg.core.stack import VoxelSize

_NM: dict[str, float] = {
    "pm": 1e-3,
    "picometer": 1e-3,
    "a": 0.1,
    "å": 0.1,
    "angstrom": 0.1,
    "angstroem": 0.1,
    "ångström": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "um": 1e3,
    "µm": 1e3,
    "micron": 1e3,
    "micrometer": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "cm": 1e7,
    "centimeter": 1e7,
    "inch": 2.54e7,
    "in": 2.54e7,
    "m": 1e9,
    "meter": 1e9,
}


def to_nm(value: object, unit: object) -> float | None:
    """Return a length in nm; None if value or unit says nothing about it."""
    if not isinstance(value, (int, float)) or not isinstance(unit, str):
        return None
    name = unit.strip().replace("\\u00B5", "µ").lower()
    name = name.replace("μ", "µ").replace("metre", "meter")
    factor = _NM.get(name) or _NM.get(name.removesuffix("s"))
    size = float(value) * factor if factor else 0.0
    return size if isfinite(size) and size > 0 else None


def voxel_size(z: float | None, y: float | None, x: float | None) -> VoxelSize | None:
    """Return `(z, y, x)` in nm, or None unless y and x are both known."""
    return None if y is None or x is None else (z, y, x)
