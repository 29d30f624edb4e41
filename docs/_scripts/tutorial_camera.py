"""Pictures of the tutorial's window, of its canvas, and of one panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from make_screenshots import IMAGES, picture_of, settle
from napari import Viewer
from PIL import Image

from napari_emseg.widgets.dock import EmSegmentation

STACK = "FIB-25"
WIDTH, SIDE, GAP = 1100, 600, 8
"""Of pictures of the whole window, of the canvas, and between two, px."""

COLOURS = 192


@dataclass
class Camera:
    """Looks at one section of the stack."""

    viewer: Viewer
    dock: EmSegmentation
    section: int

    def go_to(self, z: int) -> None:
        """Move the slider to a section."""
        self.viewer.dims.set_current_step(0, z)
        settle(0.3)

    def only(self, *kinds: str) -> None:
        """Show the stack and these layers of it, and hide all others."""
        names = {STACK, "regions", *kinds, *(f"{STACK} {kind}" for kind in kinds)}
        for layer in self.viewer.layers:
            layer.visible = layer.name in names
        settle(0.3)

    def window(self, name: str) -> None:
        """Keep a picture of the whole window."""
        settle()
        shot = self.viewer.window.screenshot(canvas_only=False, flash=False)
        keep(Image.fromarray(shot[..., :3]), name, WIDTH)

    def canvas(self, name: str, *kinds: str) -> None:
        """Keep a picture of the section with some layers over it."""
        keep(self.look(*kinds), name, SIDE)

    def look(self, *kinds: str) -> Image.Image:
        """Return a picture of the section with some layers over it."""
        self.only(*kinds)
        self.go_to(self.section)
        self.viewer.reset_view()
        settle()
        shot = self.viewer.window.screenshot(
            canvas_only=True, flash=False, size=(SIDE, SIDE)
        )
        return Image.fromarray(shot[..., :3])

    def middle(self) -> Image.Image:
        """Return a picture of what is in the middle of the view, as it is."""
        settle()
        shot = self.viewer.window.screenshot(canvas_only=True, flash=False)
        height, width = shot.shape[:2]
        half = min(height, width, SIDE) // 2
        y, x = height // 2, width // 2
        return Image.fromarray(shot[y - half : y + half, x - half : x + half, :3])

    def panel(self, name: str, picture: str) -> None:
        """Keep a picture of one panel."""
        settle()
        picture_of(self.dock, name).save(str(IMAGES / picture))


def side_by_side(name: str, pictures: Sequence[Image.Image]) -> None:
    """Keep pictures of one size beside each other."""
    width, height = pictures[0].size
    both = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), "white")
    for n, picture in enumerate(pictures):
        both.paste(picture, (n * (width + GAP), 0))
    keep(both, name, WIDTH)


def keep(picture: Image.Image, name: str, width: int) -> None:
    """Write a picture with few colours, at most so wide."""
    if picture.width > width:
        height = round(picture.height * width / picture.width)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    picture.quantize(COLOURS).save(IMAGES / name, optimize=True)
