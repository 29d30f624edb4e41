"""The scope of a run: a row of widgets that turns the view into a region."""

from dataclasses import replace

from napari.layers import Layer
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSpinBox, QVBoxLayout, QWidget

from napari_emseg._napari.versions import camera_of
from napari_emseg.session import RunScope, from_here
from napari_emseg.widgets.camera import (
    add_box_layer,
    area_in_view,
    drawn_box,
    nearest_section,
    section_here,
)
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.theme import button, combo_box, follow

VIEW, BOX, SECTION, RANGE, ALL = (
    "this view",
    "drawn box",
    "this section",
    "sections A–B",
    "all sections",
)

SETTLE_MS = 150
"""The view must rest for so long before anyone is told that it changed."""


class ScopeRow(QWidget):
    """Chooses where a run goes. `changed` tells that the region may be another one."""

    changed = Signal()

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self.choice = combo_box()
        self.choice.addItems([VIEW, BOX, SECTION, RANGE, ALL])
        self.choice.setToolTip("Which part of the stack is computed.")
        self.first, self.last = QSpinBox(), QSpinBox()
        self.last.setRange(0, 0)
        self._to = QLabel("–")
        self.draw = button("Draw", tooltip="Draw a box in a new Shapes layer.")
        row = QHBoxLayout()
        for widget, stretch in (
            (self.first, 1),
            (self._to, 0),
            (self.last, 1),
            (self.draw, 1),
        ):
            row.addWidget(widget, stretch)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.choice)
        layout.addLayout(row)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self.changed)
        self._connect()
        self._on_source()
        self._on_choice()

    def _connect(self) -> None:
        self.choice.currentTextChanged.connect(self._on_choice)
        self.first.valueChanged.connect(self.last.setMinimum)
        for box in (self.first, self.last):
            box.valueChanged.connect(self._timer.start)
        self.draw.clicked.connect(self._on_draw)
        viewer = self._controller.viewer
        for event in (
            viewer.dims.events.point,
            viewer.dims.events.order,
            viewer.dims.events.ndisplay,
            camera_of(viewer).events.zoom,
            camera_of(viewer).events.center,
            viewer.layers.selection.events.active,
        ):
            follow(self, event, self._on_view)
        follow(self, self._controller.session.events.source, self._on_source)

    def region(self) -> RunScope:
        """Return where a run would go now, the section on screen first.

        Raises
        ------
        ValueError
            If there is no stack, no section of it on screen, or no box where one is
            asked for.
        """
        layer = self._controller.source_layer
        source = self._controller.session.source
        if layer is None or source is None:
            msg = "no stack is chosen; open one or choose an image layer in 1 Data"
            raise ValueError(msg)
        return self._region(layer, source.stack.shape[0])

    def _region(self, layer: Layer, n: int) -> RunScope:
        viewer = self._controller.viewer
        here = nearest_section(viewer, layer)
        chosen = self.choice.currentText()
        if chosen == BOX:
            return drawn_box(viewer, layer)
        if chosen == RANGE:
            sections = range(self.first.value(), self.last.value() + 1)
            return RunScope(from_here(sections, here))
        if chosen == ALL:
            return RunScope(from_here(range(n), here))
        region = RunScope((section_here(viewer, layer),))
        if chosen == VIEW:
            region = replace(region, roi=area_in_view(viewer, layer))
        return region

    def _on_choice(self) -> None:
        chosen = self.choice.currentText()
        for widget in (self.first, self._to, self.last):
            widget.setVisible(chosen == RANGE)
        self.draw.setVisible(chosen == BOX)
        self._timer.start()

    def _on_draw(self) -> None:
        layer = self._controller.source_layer
        if layer is not None:
            shapes = add_box_layer(self._controller.viewer, layer)
            follow(self, shapes.events.data, self._on_view)

    def _on_view(self) -> None:
        self._timer.start()

    def _on_source(self) -> None:
        source = self._controller.session.source
        top = 0 if source is None else source.stack.shape[0] - 1
        whole = self.last.value() == self.last.maximum()
        self.first.setRange(0, top)
        self.last.setRange(self.first.value(), top)
        if whole:
            self.last.setValue(top)
        self._timer.start()
