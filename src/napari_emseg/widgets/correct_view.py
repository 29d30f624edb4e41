"""Views for correcting: contours over the EM, uncertainty, and one cell in 3-D."""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
from napari import Viewer
from napari.layers import Image, Labels, Layer, Surface
from napari.utils.colormaps import Colormap
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_emseg._napari import placement_of
from napari_emseg._napari.versions import camera_of
from napari_emseg.core.records import Record
from napari_emseg.session.exports import iter_cell_surface
from napari_emseg.session.results import Uncertainty
from napari_emseg.widgets.controller import LIVE, ViewerController
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.keys import key_of
from napari_emseg.widgets.layers import UNCERTAIN
from napari_emseg.widgets.run import JobRow
from napari_emseg.widgets.theme import button, follow

CONTOUR = 1
"""Width of contours, px of the picture."""

NAMES = ("visible", "contour", "opacity")


class LayerStates:
    """How layers were shown, to show them so again."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer: ReferenceType[Viewer] = ref(viewer)
        self._states: list[tuple[ReferenceType[Layer], dict[str, Any]]] = [
            (ref(layer), {n: getattr(layer, n) for n in NAMES if hasattr(layer, n)})
            for layer in viewer.layers
        ]

    def restore(self) -> None:
        """Show those layers as they were that are still there."""
        viewer = self._viewer()
        for known, state in self._states:
            layer = known()
            if viewer is not None and layer is not None and layer in viewer.layers:
                for name, value in state.items():
                    setattr(layer, name, value)


class CorrectView:
    """The EM with thin contours of membranes and corrections, and nothing over it.

    Signals: `changed` when it is put on or taken off.
    """

    changed = Signal(bool)

    def __init__(self, controller: ViewerController) -> None:
        self._controller = controller
        self._before: LayerStates | None = None
        self._key = ""
        controller.session.events.source.connect(self._on_source)

    @property
    def on(self) -> bool:
        """True while it is on."""
        return self._before is not None

    def toggle(self, *_: Any) -> None:
        """Put it on, or show everything as it was before.

        Raises
        ------
        ValueError
            If there is no stack, nothing to correct yet, or the display is in 3-D.
        """
        if self._controller.viewer.dims.ndisplay == 3:
            # One view at a time: each puts back what it found, in any order.
            msg = "the correct view is one of sections; leave the 3-D display first"
            raise ValueError(msg)
        if self.on:
            self.leave()
        else:
            self.enter()

    def enter(self) -> None:
        """Put it on.

        Raises
        ------
        ValueError
            If there is no stack, or nothing to correct yet.
        """
        source, layer = self._controller.session.at_work, self._controller.source_layer
        layers = self._controller.results(source.key)
        if layers is None or layer is None:
            msg = "there is nothing to correct yet; run 2 Membranes or 3 Cells first"
            raise ValueError(msg)
        viewer = self._controller.viewer
        self._before, self._key = LayerStates(viewer), source.key
        contours = [layers.get(kind) for kind in ("membranes", "corrections")]
        for other in viewer.layers:
            if isinstance(other, Image | Labels):
                other.visible = other is layer or other in contours
        for drawn in contours:
            if drawn is not None:
                drawn.contour, drawn.opacity = CONTOUR, 1.0
        self.changed.emit(True)

    def leave(self) -> None:
        """Show everything as it was before."""
        before, self._before = self._before, None
        if before is not None:
            before.restore()
            self.changed.emit(False)

    def _on_source(self, source: Any) -> None:
        if self.on and (source is None or source.key != self._key):
            self.leave()


class UncertaintyLayer:
    """An overlay that shows where the network is unsure, section by section."""

    def __init__(self, controller: ViewerController) -> None:
        self._controller = controller
        self._overlay = controller.overlay("uncertainty")
        self._wanted = False
        self._of: object = None
        controller.session.events.source.connect(self._on_source)
        controller.job.ended.connect(self.refresh)

    @property
    def layer(self) -> Image | None:
        """The layer; None if there is none."""
        layer: Image | None = self._overlay.layer
        return layer

    def show(self, wanted: bool) -> None:
        """Have it, or not.

        Raises
        ------
        ValueError
            If there is no stack, or no probabilities.
        """
        self._wanted = False
        if not wanted:
            self._of = None
            self._overlay.remove()
            return
        source, layer = self._controller.session.at_work, self._controller.source_layer
        if not source.results.predicted and not source.is_probabilities:
            msg = f"{source.name} has no probabilities; run 2 Membranes first"
            raise ValueError(msg)
        self._wanted = True
        given = source.is_probabilities
        known = source.stack.data if given else source.results.probabilities
        if layer is not None and (known is not self._of or self.layer is None):
            self._of = known
            self._overlay.show(partial(_uncertain, Uncertainty(known), layer), layer)

    def refresh(self, *_: Any) -> None:
        """Show the section anew, after a run or an edit."""
        layer = self.layer
        if layer is not None:
            layer.refresh(thumbnail=False, highlight=False, extent=False)

    def _on_source(self, *_: Any) -> None:
        if not self._wanted:
            return
        try:
            self.show(wanted=True)
        except ValueError:
            self._of = None
            self._overlay.remove()
            self._wanted = True  # until there are some


def _uncertain(data: Uncertainty, source: Layer) -> Image:
    return Image(
        data if source.ndim > 2 else data[0],
        name="uncertainty",
        contrast_limits=(0, 1),
        colormap=Colormap([(*UNCERTAIN, 0.0), (*UNCERTAIN, 1.0)], name="uncertainty"),
        blending="translucent",
        opacity=0.8,
        metadata={LIVE: True},
        **placement_of(source),
    )


class CellView(QObject):
    """One cell in napari's 3-D display, and back to the sections.

    Signals: `changed` when it is put on or taken off.
    """

    changed = Signal(bool)

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._overlay = controller.overlay("cell")
        self._before: LayerStates | None = None
        self._camera: dict[str, Any] = {}
        self._point: tuple[float, ...] = ()
        controller.viewer.dims.events.ndisplay.connect(self._on_ndisplay)

    @property
    def on(self) -> bool:
        """True while a cell is shown."""
        return self._before is not None

    def enter(self, surface: tuple[NDArray[Any], NDArray[Any]], cell: int) -> None:
        """Show a surface alone: corners `(n, 3)` z, y, x in voxels, and triangles."""
        viewer, source = self._controller.viewer, self._controller.source_layer
        if source is None:
            return
        if not self.on:
            camera = camera_of(viewer)
            self._camera = {n: getattr(camera, n) for n in ("center", "zoom", "angles")}
            self._point = viewer.dims.point
            self._before = LayerStates(viewer)
        for layer in viewer.layers:
            layer.visible = False
        colour = self._colour(cell)
        self._overlay.show(partial(_surface, surface, cell, colour, source), source)
        viewer.dims.ndisplay = 3
        self._look_at(surface[0], source)
        self.changed.emit(True)

    def _look_at(self, corners: NDArray[Any], source: Layer) -> None:
        """Have the surface in the middle of the view, as large as it fits, aslant."""
        viewer = self._controller.viewer
        ends = [source.data_to_world(f(corners, axis=0)) for f in (np.min, np.max)]
        low, high = (np.asarray(end, float)[-3:] for end in ends)
        viewer.reset_view()
        scene = np.asarray(viewer.layers.extent.world)[:, -3:]
        camera = camera_of(viewer)
        camera.center = tuple((low + high) / 2)
        # napari had rows and columns of the scene fit, so the shorter fits
        # either way. The surface's longest diagonal must: it may lie across the view.
        fits, longest = np.min((scene[1] - scene[0])[1:]), np.linalg.norm(high - low)
        camera.zoom = camera.zoom * fits / max(longest, 1e-9)
        camera.angles = ASLANT

    def leave(self) -> None:
        """Go back to the sections, as they were shown before."""
        before, self._before = self._before, None
        if before is None:
            return
        viewer = self._controller.viewer
        self._overlay.remove()
        viewer.dims.ndisplay = 2
        before.restore()
        # The surface reached half a voxel beyond the stack; without it the slider's
        # range is the stack's again, and napari has put the slider elsewhere.
        viewer.dims.point = self._point
        for name, value in self._camera.items():
            setattr(camera_of(viewer), name, value)
        self.changed.emit(False)

    def _on_ndisplay(self, *_: Any) -> None:
        if self.on and self._controller.viewer.dims.ndisplay == 2:
            self.leave()  # by napari's own button

    def _colour(self, cell: int) -> NDArray[Any]:
        source = self._controller.session.source
        layers = None if source is None else self._controller.results(source.key)
        cells = None if layers is None else layers.get("cells")
        colour = None if cells is None else cells.get_color(cell)
        return np.ones(4) if colour is None else np.array([*colour[:3], 1.0])


def _surface(
    surface: tuple[NDArray[Any], NDArray[Any]],
    cell: int,
    colour: NDArray[Any],
    source: Layer,
) -> Surface:
    corners, triangles = surface
    light = light_on(corners * np.asarray(source.scale[-3:]), triangles)
    return Surface(
        (corners, triangles),
        name=f"cell {cell}",
        vertex_colors=np.concatenate(
            [light[:, None] * colour[:3], np.ones((len(corners), 1))], axis=1
        ),
        shading="none",
        **placement_of(source),
    )


def light_on(
    corners: NDArray[np.floating[Any]], triangles: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Return how bright each corner `(n, 3)` is: 1 towards the light, never dark.

    napari's own light leaves most of what is seen at first in the shade, as it takes
    no account of how axes are turned.
    """
    a, b, c = (corners[triangles[:, k]].astype(float) for k in range(3))
    face = np.cross(b - a, c - a)
    if np.einsum("ij,ij->", a, face) < 0:  # the volume: triangles are wound inwards
        face = -face
    at, n = triangles.T.ravel(), len(corners)
    normal = np.stack(
        [np.bincount(at, np.tile(part, 3), minlength=n) for part in face.T], axis=1
    )
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    towards = np.array(LIGHT) / np.linalg.norm(LIGHT)
    return DARKEST + (1 - DARKEST) * (1 + normal @ towards) / 2


LIGHT = (0.43, -0.87, 0.75)
"""From where it comes, `(z, y, x)`: from behind a camera at `ASLANT`, and its right."""

DARKEST = 0.3

ASLANT = (0.0, 30.0, 60.0)
"""Of the camera: neither along an axis nor upside down."""

TO_3D, TO_SECTIONS = "View in 3-D", "Back to sections"


class ViewRow(QWidget):
    """The button and the boxes of these views.

    Signals: `refused` with why one can't be shown.
    """

    refused = Signal(str)

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self.view = controller.shared(CorrectView)
        self.unsure = controller.shared(UncertaintyLayer)
        self.contours = button("Correct view", "tool")
        self.contours.setCheckable(True)
        self.uncertainty = QCheckBox("Uncertainty")
        self.uncertainty.setToolTip(
            "Where the network is unsure: 1 where the probability is 0.5, 0 where it "
            "is 0 or 1."
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(FlowRow(self.contours, self.uncertainty))
        self.contours.clicked.connect(self.toggle)
        self.uncertainty.clicked.connect(self._on_uncertainty)
        follow(self, self.view.changed, self._on_view)

    def toggle(self, *_: Any) -> None:
        """Put the correct view on, or take it off."""
        try:
            self.view.toggle()
        except ValueError as e:
            self.contours.setChecked(self.view.on)
            self.refused.emit(str(e))

    def _on_view(self, on: bool) -> None:
        self.contours.setChecked(on)

    def attach(self) -> None:
        """Show what is ticked: the panel can be seen."""
        if self.uncertainty.isChecked():
            self._on_uncertainty(True)

    def detach(self) -> None:
        """Show everything as it was."""
        self.view.leave()
        self.unsure.show(wanted=False)

    def name_key(self) -> None:
        """Write the key on the button."""
        key = key_of("correct_view")
        self.contours.setText(f"Correct view ({key})" if key else "Correct view")
        self.contours.setToolTip(
            "The EM with contours of membranes and corrections; again: all as before."
        )

    def _on_uncertainty(self, wanted: bool) -> None:
        try:
            self.unsure.show(wanted)
        except ValueError as e:
            self.uncertainty.setChecked(False)
            self.refused.emit(str(e))


class CellViewRow(JobRow):
    """Makes the surface of the chosen cell, shows it, and goes back."""

    def __init__(self, controller: ViewerController, chosen: Callable[[], int]) -> None:
        super().__init__(TO_3D, self._surface_work, role="plain")
        self._controller = controller
        self._chosen = chosen
        self._cell = 0
        self.view = controller.shared(CellView)
        self.button.setToolTip(
            "Show the cell alone in napari's 3-D display: the one of the chosen row, "
            "else the label that is chosen in the layer of cells."
        )
        self.done.connect(self._on_surface)
        follow(self, self.view.changed, self._on_changed)

    def _on_click(self) -> None:
        if self.view.on:
            self.view.leave()
        else:
            super()._on_click()

    def _surface_work(self) -> tuple[str, Generator[Record, None, Any]]:
        source = self._controller.session.at_work
        layers = self._controller.results(source.key)
        cells = None if layers is None else layers.get("cells")
        self._cell = self._chosen() or getattr(cells, "selected_label", 0)
        if not self._cell:
            msg = "no cell is chosen; click a row of the table, or pick a cell"
            raise ValueError(msg)
        return f"Cell {self._cell}", iter_cell_surface(source, self._cell)

    def _on_surface(self, surface: tuple[NDArray[Any], NDArray[Any]]) -> None:
        self.view.enter(surface, self._cell)

    def _on_changed(self, on: bool) -> None:
        self.words = TO_SECTIONS if on else TO_3D
        self._show_state()
