"""A person at the window of the tutorial: real mouse and keys, and what is right.

The person knows the cells that came with the sample, and corrects what a reader would
see to be wrong: membrane that is missing, and membrane where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from make_screenshots import settle, wait_for
from napari import Viewer
from napari.layers import Layer
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QKeyEvent, QMouseEvent
from qtpy.QtWidgets import QApplication
from scipy import ndimage as ndi
from skimage.graph import route_through_array

from napari_emseg.core.labels import touching
from napari_emseg.core.regions import Region
from napari_emseg.widgets.correct_panel import CorrectPanel

Point = tuple[float, float]

BESIDE = 2
"""Walls may lie so far beside the true ones, px, and are left as they are."""

SMALLEST = 20
"""Fewer wrong pixels in one place are not worth a stroke."""

SHORT = 12
"""A hole up to so long is closed by one click."""

STEP = 6
"""Between two clicks along a membrane, px."""

BRUSH, WALL = 3, 3
"""Diameter of the brush over what is no membrane, and of one along it, px."""

NO_BUTTON, LEFT = Qt.MouseButton.NoButton, Qt.MouseButton.LeftButton


@dataclass
class Mouse:
    """Presses the mouse over `(y, x)` of a layer, by events as a system sends them."""

    viewer: Viewer
    layer: Layer

    def drag(self, points: Sequence[Point]) -> None:
        """Press, move along some points, release."""
        self._send(QEvent.Type.MouseMove, points[0], NO_BUTTON, NO_BUTTON)
        self._send(QEvent.Type.MouseButtonPress, points[0], LEFT, LEFT)
        for point in points[1:]:
            self._send(QEvent.Type.MouseMove, point, NO_BUTTON, LEFT)
        self._send(QEvent.Type.MouseButtonRelease, points[-1], LEFT, NO_BUTTON)

    def click(self, point: Point) -> None:
        """Press and release."""
        self.drag([point])

    def rest(self, point: Point) -> None:
        """Move there, pressing nothing."""
        self._send(QEvent.Type.MouseMove, point, NO_BUTTON, NO_BUTTON)

    def key(self, key: Qt.Key, text: str = "") -> None:
        """Press a key over the picture."""
        none = Qt.KeyboardModifier.NoModifier
        for kind in (QEvent.Type.KeyPress, QEvent.Type.KeyRelease):
            QApplication.sendEvent(
                self._canvas.native, QKeyEvent(kind, key, none, text)
            )
        QApplication.processEvents()

    @property
    def _canvas(self):
        return self.viewer.window._qt_viewer.canvas

    def _send(self, kind: QEvent.Type, point: Point, button, buttons) -> None:
        world = self.layer.data_to_world((0, *point))
        view = self._canvas.view
        x, y = (view.transform * view.scene.transform).map((world[-1], world[-2]))[:2]
        at = QPointF(float(x), float(y))
        none = Qt.KeyboardModifier.NoModifier
        canvas = self._canvas.native
        event = QMouseEvent(kind, at, canvas.mapToGlobal(at), button, buttons, none)
        QApplication.sendEvent(canvas, event)
        QApplication.processEvents()


@dataclass
class Person:
    """Mends places by the tools of 4 Correct.

    `acts` counts strokes and clicks by the tool's name.
    """

    viewer: Viewer
    panel: CorrectPanel
    layer: Layer
    cells: NDArray[np.uint16]
    acts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mouse = Mouse(self.viewer, self.layer)

    def mend(self, place: Region) -> None:
        """Correct what is wrong in a place, until nothing worth a stroke is left."""
        for _ in range(2):
            found = list(self.mistakes(place))
            if not found:
                return
            for wrong, missing in found:
                act = self.draw if missing else self.wipe
                act(place.z, wrong)

    def mistakes(self, place: Region) -> Iterator[tuple[NDArray[np.intp], bool]]:
        """Yield groups of wrong pixels `(n, 2)`, and whether membrane is missing."""
        wall = touching(self.cells[place.z])[place.area]
        shown = self.shown(place.z)[place.area]
        wrong = {
            True: wall & ~_thick(shown, BESIDE),
            # walls may be a little thick, but no blobs
            False: ndi.binary_opening(shown & ~_thick(wall, 1), np.ones((3, 3))),
        }
        for missing, mask in wrong.items():
            groups, n = ndi.label(mask, np.ones((3, 3)))
            for number in range(1, n + 1):
                group = np.argwhere(groups == number)
                if len(group) >= SMALLEST:
                    yield group + np.array([place.top, place.left]), missing

    def shown(self, z: int) -> NDArray[np.bool_]:
        """Return the membranes of a section as they are now."""
        return np.array(self.panel.layers.hand.linked.arrays["membranes"][z]) > 0

    def draw(self, z: int, wrong: NDArray[np.intp]) -> None:
        """Draw a missing membrane: by a click on a hole, by live-wire, or by brush."""
        line = _line(wrong)
        if len(line) <= SHORT and self._works(z, "Close gap", line):
            return
        if not self._works(z, "Live-wire", _joined(line, self.shown(z))):
            self.paint(1, line, WALL)

    def wipe(self, z: int, wrong: NDArray[np.intp]) -> None:
        """Paint inside of cells over membrane where there is none."""
        self.paint(2, wrong, BRUSH)

    def paint(self, code: int, pixels: NDArray[np.intp], width: int) -> None:
        """Paint a class on the corrections with napari's brush."""
        self.use(None)
        box = self.panel.classes.classes
        box.setCurrentIndex(box.findData(code))
        box.activated.emit(box.currentIndex())
        self.panel.layers.layer("corrections").brush_size = width
        for stroke in _strokes(pixels, width):
            self.mouse.drag([tuple(point) for point in stroke])
        settle(0.1)
        self._count("brush")

    def _works(self, z: int, tool: str, line: NDArray[np.intp]) -> bool:
        """Use a tool along a line; take it back if it doesn't do what was meant."""
        before = self.shown(z)
        self.use(tool)
        if tool == "Close gap":
            middle = tuple(line[len(line) // 2])
            self.mouse.rest(middle)
            settle(0.3)
            self.mouse.click(middle)
        else:
            for point in (*line[:-1:STEP], line[-1]):
                self.mouse.click(tuple(point))
                wait_for(lambda: not self.panel.pointer.wiring.waiting)
            self.mouse.key(Qt.Key.Key_Return)
        drawn = self.shown(z) & ~before
        if not drawn.any():
            self.mouse.key(Qt.Key.Key_Escape)
            return False
        self._count(tool)
        astray = drawn & ~_thick(touching(self.cells[z]), BESIDE + 1)
        if astray.sum() > drawn.sum() / 4:
            self.panel.undo.click()
            self._count("Undo")
            return False
        return True

    def use(self, tool: str | None) -> None:
        """Choose a tool by its button, or put all of them away."""
        active = self.panel.pointer.tool
        name = None if active is None else active.name
        if name != tool:
            self.panel.tools[tool or name].click()
        settle(0.05)

    def _count(self, tool: str) -> None:
        self.acts[tool] = self.acts.get(tool, 0) + 1


def _thick(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    return ndi.binary_dilation(mask, np.ones((3, 3)), iterations=by)


def _line(group: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the longest way `(n, 2)` through a group of pixels."""
    low = group.min(axis=0) - 1
    mask = np.zeros(group.max(axis=0) - low + 2, bool)
    mask[tuple((group - low).T)] = True
    # walls are two pixels thick: stay in their middle
    cost = np.where(mask, 1 / (1 + ndi.distance_transform_edt(mask)), 1e4)
    inside = group - low
    first = inside[_farthest(inside, inside[0])]
    last = inside[_farthest(inside, first)]
    path, _ = route_through_array(cost, first, last)
    return np.asarray(path) + low


def _farthest(points: NDArray[np.intp], of: NDArray[np.intp]) -> int:
    return int(np.abs(points - of).sum(axis=1).argmax())


def _joined(line: NDArray[np.intp], shown: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Let a line begin and end at membranes that are there, if any are near."""
    there = np.argwhere(shown)
    ends = []
    for end in (line[0], line[-1]):
        far = np.hypot(*(there - end).T) if len(there) else np.array([np.inf])
        near = far.argmin()
        ends.append([there[near]] if far[near] <= STEP else [])
    return np.array([*ends[0], *line, *ends[1]])


def _strokes(group: NDArray[np.intp], width: int) -> list[list[NDArray[np.intp]]]:
    """Return strokes of a brush that cover a group of pixels."""
    left, points, reach = group, [], width // 2
    while len(left):
        # the next spot is where the brush covers most of what is left
        near = np.abs(left[:, None] - left[None]).max(axis=2) <= reach
        spot = left[near.sum(axis=1).argmax()]
        points.append(spot)
        left = left[np.abs(left - spot).max(axis=1) > reach]
    return _in_reach(points, width + 1)


def _in_reach(points: list[NDArray[np.intp]], far: int) -> list[list[NDArray[np.intp]]]:
    """Order spots into strokes that don't jump over what isn't wrong."""
    strokes: list[list[NDArray[np.intp]]] = []
    left = list(points)
    while left:
        stroke = [left.pop(0)]
        while left:
            away = [np.abs(point - stroke[-1]).max() for point in left]
            if min(away) > far:
                break
            stroke.append(left.pop(int(np.argmin(away))))
        strokes.append(stroke)
    return strokes
