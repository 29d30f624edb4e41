"""Live preview: what is on screen is predicted as soon as the view rests."""

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

import numpy as np
from napari.layers import Image, Layer
from napari.utils.colormaps import Colormap
from numpy.typing import NDArray
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_emseg._napari import placement_of
from napari_emseg._napari.layers import LIVE, place
from napari_emseg._napari.versions import camera_of
from napari_emseg.core.records import Record
from napari_emseg.core.regions import Area
from napari_emseg.core.settings import LiveSettings
from napari_emseg.session.live import (
    Live,
    Paces,
    PictureDone,
    View,
    format_paces,
    is_quick,
    paces_of,
    view_of,
)
from napari_emseg.widgets.background import LatestOnlyWorker, with_torch
from napari_emseg.widgets.camera import area_in_view, section_here, shows_sections
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.layer_changes import OverlayLayer
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.theme import follow, set_role, text_label

NAME = "live membranes"
SKY = (0.34, 0.71, 0.91)
"""Not the colour of results, and told apart from it by colour-blind people too."""

NOTHING = np.zeros((1, 1), np.float32)


class LiveLayer:
    """Shows patches in one layer, which is added with the first of them."""

    def __init__(self, overlay: OverlayLayer) -> None:
        self._overlay = overlay

    @property
    def layer(self) -> Image | None:
        """The layer; None if it isn't there, or was removed."""
        layer: Image | None = self._overlay.layer
        return layer

    def owns(self, layer: Layer) -> bool:
        """Tell if this is the layer, also after somebody has removed it."""
        return self._overlay.owns(layer)

    def show(
        self, source: Layer, z: int, area: Area, values: NDArray[np.float32]
    ) -> None:
        """Show probabilities `(y, x)` of an area of section z of a source."""
        corner = (z, area[0].start, area[1].start)[-source.ndim :]
        placement = _begun_at(corner, source)
        data = values if source.ndim == 2 else values[None]
        layer = self.layer
        if layer is None or layer.ndim != source.ndim:
            self._overlay.show(partial(_made, data, placement), source)
        else:
            layer.data = data
            place(layer, placement)
        self._overlay.stay_over(source, partial(_begun_at, corner))

    def clear(self) -> None:
        """Show nothing, without taking the layer away."""
        layer = self.layer
        if layer is not None and max(layer.data.shape) > 1:
            layer.data = NOTHING if layer.ndim == 2 else NOTHING[None]

    def remove(self) -> None:
        """Take the layer away."""
        self._overlay.remove()


def _made(data: NDArray[np.float32], placement: dict[str, Any]) -> Image:
    return Image(
        data,
        name=NAME,
        contrast_limits=(0, 1),
        colormap=Colormap([(*SKY, 0.0), (*SKY, 1.0)], name="live"),
        blending="translucent",
        opacity=0.7,
        metadata={LIVE: True},
        **placement,
    )


def _begun_at(corner: tuple[int, ...], source: Layer) -> dict[str, Any]:
    return placement_of(source) | {"translate": _moved(source, corner)}


def _moved(layer: Layer, corner: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the translation of a layer that begins at a voxel of another one."""
    here = np.asarray(layer.data_to_world(corner), float)
    there = np.asarray(layer.data_to_world(np.zeros(layer.ndim)), float)
    # data_to_world has the affine in, which comes after the translation
    shift = np.linalg.solve(np.asarray(layer.affine.linear_matrix), here - there)
    return np.asarray(layer.translate, float) + shift


TIP = (
    "Predict what is on screen while you move, shallow first, in a layer of its own. "
    "Nothing of it gets into the results."
)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A view that is being predicted; `stopped` is set when it is outdated."""

    view: View
    work: Generator[Record, None, None]
    stopped: Event


class LiveView(QWidget):
    """A box to tick, and what the preview says of itself.

    It is off until somebody ticks the box, or until a run has shown that this machine
    is quick enough; whoever unticks it has the last word.
    """

    def __init__(
        self, controller: ViewerController, settings: LiveSettings | None = None
    ) -> None:
        super().__init__()
        self._controller = controller
        self.settings = settings or LiveSettings()
        self._live = Live(self.settings)
        self.layer = LiveLayer(controller.overlay("live"))
        self._asked: _Asked | None = None
        self._decided = False
        self._seen = True
        self._latest = LatestOnlyWorker()
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(self.settings.rest_ms)
        self.box = QCheckBox("Live preview of the view")
        self.box.setToolTip(TIP)
        self.message = text_label()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box)
        layout.addWidget(self.message)
        self.message.hide()
        self._connect()

    def _connect(self) -> None:
        self.box.clicked.connect(self._on_clicked)
        self.box.toggled.connect(self._on_toggled)
        self._rest.timeout.connect(self._look)
        self._latest.found.connect(self._on_found)
        self._latest.failed.connect(self._on_failed)
        viewer, session = self._controller.viewer, self._controller.session
        for event in (
            viewer.dims.events.point,
            viewer.dims.events.order,
            viewer.dims.events.ndisplay,
            camera_of(viewer).events.zoom,
            camera_of(viewer).events.center,
            session.events.source,
            session.events.weights,
            session.events.predict_settings,
            session.events.redo_reviewed,
        ):
            follow(self, event, self._on_view)
        follow(self, viewer.layers.events.removed, self._on_removed)
        self._controller.job.started.connect(self._on_view)
        self._controller.job.ended.connect(self._on_run_ended)
        self.destroyed.connect(partial(_leave, self._latest))

    def attach(self) -> None:
        """Look at the view again: the panel can be seen."""
        self._seen = True
        self._on_view()

    def detach(self) -> None:
        """Look no more, and show nothing, until the panel can be seen again."""
        self._seen = False
        self._rest.stop()
        self._drop()
        self.layer.remove()

    def _on_clicked(self) -> None:
        self._decided = True

    def _on_toggled(self, on: bool) -> None:
        if on:
            self._on_view()
            return
        self._rest.stop()
        self._drop()
        self.layer.remove()
        self._say("")

    def _on_view(self) -> None:
        """Wait until the view rests; what was asked of the one before is outdated."""
        if self.box.isChecked() and self._seen:
            self._drop()
            self._rest.start()

    def _on_run_ended(self) -> None:
        """Look again; turn the preview on after the first run on a quick machine."""
        session = self._controller.session
        source, weights = session.source, session.weights
        if not self._decided and source is not None and weights is not None:
            size = source.stack.voxel_size_nm
            paces = paces_of(weights, session.predict_settings, size)
            quick = is_quick(paces, self.settings)
            self.box.setChecked(bool(quick))
            if quick is False:
                self._say(f"Off: {format_paces(paces)}.")
        self._on_view()

    def _on_removed(self, event: Any) -> None:
        """Take it that who removes the layer wants no preview."""
        if self.layer.owns(event.value):
            self._decided = True
            self.box.setChecked(False)

    def _drop(self) -> None:
        if self._asked is not None:
            self._asked.stopped.set()
        self._latest.drop()

    def _look(self) -> None:
        """Ask for the view on screen."""
        viewer, layer = self._controller.viewer, self._controller.source_layer
        if layer is None:
            self.layer.remove()
            self._asked = None
            self._say("no preview: choose a stack first")
            return
        try:
            if self._controller.job.busy:
                msg = f"paused: {self._controller.job.title} is running"
                raise ValueError(msg)
            if not shows_sections(viewer, layer):
                msg = "no preview: it is for sections seen from the front, in 2-D"
                raise ValueError(msg)
            z = section_here(viewer, layer)
            area = area_in_view(viewer, layer)
            view = view_of(self._controller.session, z, area, self.settings)
        except ValueError as e:
            self.layer.clear()
            self._say(str(e))
            return
        work = with_torch(self._live.run(view))
        self._asked = _Asked(view, work, Event())
        if not self.message.text():
            self._say("loading …")
        self._ask(self._asked)

    def _ask(self, asked: _Asked) -> None:
        self._latest.ask(partial(_next_picture, asked.work, asked.stopped))

    def _on_found(self, found: tuple[PictureDone, Paces] | None) -> None:
        asked = self._asked
        if asked is None or found is None or asked.stopped.is_set():
            return
        picture, paces = found
        layer = self._controller.source_layer
        if layer is None or picture.view is not asked.view:
            return
        self.layer.show(layer, picture.view.z, picture.view.area, picture.values)
        self._say(_format_picture(picture, paces, self.settings))
        if picture.done < picture.total:
            self._ask(asked)

    def _on_failed(self, error: Exception) -> None:
        self.layer.clear()
        self._say(
            format_record(error), "hint" if isinstance(error, ValueError) else "note"
        )

    def _say(self, words: str, role: str = "hint") -> None:
        self.message.setText(words)
        self.message.setVisible(bool(words))
        set_role(self.message, role)


def _next_picture(
    work: Generator[Record, None, None], stopped: Event
) -> tuple[PictureDone, Paces] | None:
    """Go on to the next picture, and say how quick it all is; None if outdated."""
    for record in work:
        if stopped.is_set():
            work.close()
            return None
        if isinstance(record, PictureDone):
            view = record.view
            size = view.source.stack.voxel_size_nm
            return record, paces_of(view.weights, view.settings, size)
    return None


def _format_picture(picture: PictureDone, paces: Paces, settings: LiveSettings) -> str:
    depth = "" if picture.depth is None else f"depth {picture.depth} · "
    y, x = picture.view.shape
    words = f"{depth}{y} × {x} px in {picture.seconds:.2g} s"
    if is_quick(paces, settings) is False:
        words += f". Slow here: {format_paces(paces)}"
    return words


def _leave(latest: LatestOnlyWorker, *_: Any) -> None:
    """Want nothing any more."""
    latest.drop()
