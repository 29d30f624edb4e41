"""Draw the icon that the manifest names: cells and their membranes, 256 × 256 px."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

SIDE, FINE = 256, 4
ICON = Path(__file__).resolve().parents[2] / "src" / "napari_emseg" / "icon.png"

CENTRES = ((48, 60), (60, 178), (126, 112), (150, 214), (196, 46), (214, 148))
"""Of the cells, y and x; a pixel belongs to the nearest."""
COLOURS = ("#4e9fd1", "#b9bcc4", "#f2a33a", "#8b909c", "#8bc168", "#d0d3d9")
MEMBRANE, WIDTH = "#20242c", 11.0


def draw() -> Image.Image:
    """Return the icon; drawn four times as large first, for smooth edges."""
    size = SIDE * FINE
    y, x = np.mgrid[:size, :size] / FINE
    y, x = y + 6 * np.sin(x / 23), x + 6 * np.sin(y / 19)  # cells aren't polygons
    (near, next_near), (owner, _) = (
        np.moveaxis(found, -1, 0)
        for found in cKDTree(CENTRES).query(np.stack([y, x], -1), k=2)
    )
    colours = np.array([Image.new("RGB", (1, 1), c).getpixel((0, 0)) for c in COLOURS])
    picture = colours[owner].astype(np.uint8)
    wall = Image.new("RGB", (1, 1), MEMBRANE).getpixel((0, 0))
    picture[next_near - near < WIDTH] = wall
    corners = Image.new("L", (size, size))
    ImageDraw.Draw(corners).rounded_rectangle(
        (0, 0, size - 1, size - 1), radius=48 * FINE, fill=255
    )
    icon = Image.fromarray(picture)
    icon.putalpha(corners)
    return icon.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw().quantize(64).save(ICON, optimize=True)
