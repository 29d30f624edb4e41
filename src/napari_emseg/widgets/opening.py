"""How files come into the window: by which reader, with what size, by drag and drop."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from napari import Viewer
from napari.layers import Layer
from napari.settings import get_settings
from napari.utils.notifications import show_info
from npe2 import PluginManager
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_emseg._napari import (
    PLUGIN,
    PROJECT,
    is_in_pixels,
    place_as_in_file,
    stack_in_file,
)
from napari_emseg.core.stack import Stack
from napari_emseg.widgets.camera import view_kept
from napari_emseg.widgets.formatting import format_voxel_size

HDF5 = ("*.h5", "*.hdf5", "*.hdf")
"""What napari's own reader claims, too, and never opens."""

FOLDERS = f"*.emseg{os.sep}"
"""What was set for projects when our reader took every folder."""

DROPS = (QEvent.Type.DragEnter, QEvent.Type.DragMove, QEvent.Type.Drop)


def open_with_this() -> None:
    """Have napari open HDF5 with this plugin and not ask, unless another can, too."""
    readers = dict(get_settings().plugins.extension2reader)
    claims = PluginManager.instance().iter_compatible_readers
    wanted = {k: v for k, v in readers.items() if (k, v) != (FOLDERS, PLUGIN)}
    for pattern in HDF5:
        if {x.plugin_name for x in claims([f"em{pattern[1:]}"])} == {PLUGIN, "napari"}:
            wanted.setdefault(pattern, PLUGIN)
    if wanted != readers:
        get_settings().plugins.extension2reader = wanted


def recover_voxel_sizes(viewer: Viewer, layers: Sequence[Layer]) -> None:
    """Take them from the files of layers that napari's reader opened without.

    Not where that would part them from layers in pixels, drawn over them perhaps. The
    view stays what it is of them, unless it is of others that stay where they are.
    """
    stacks = {layer: stack_in_file(layer) for layer in layers}
    found = {layer: stack for layer, stack in stacks.items() if stack is not None}
    apart = any(is_in_pixels(x) for x in viewer.layers if x not in found)
    whole = bool(found) and not apart and len(viewer.layers) == len(found)
    with view_kept(viewer, _topmost(found)) if whole else nullcontext():
        _place_as_in_files(found, apart)


def _topmost(layers: Iterable[Layer]) -> Layer:
    """Return the layer of those that is seen, else any."""
    return sorted(layers, key=lambda layer: layer.visible)[-1]


def _place_as_in_files(found: Mapping[Layer, Stack], apart: bool) -> None:
    for layer, stack in found.items():
        size = format_voxel_size(stack.voxel_size_nm or (None, 0, 0))
        if apart:
            show_info(
                f"{layer.name}: its file says {size} nm; it stays in pixels, as other "
                "layers are. Type the voxel size in 1 Data to change that"
            )
        else:
            place_as_in_file(layer, stack)
            show_info(f"{layer.name}: voxel size {size} nm, as its file says")


class FileDrop(QObject):
    """Takes files that are dropped on a widget or what is in it.

    Parameters
    ----------
    on_drop
        Is called with the paths.
    accepts
        Tells paths that are taken; others are left to whom they would go to.
    """

    def __init__(
        self,
        widget: QWidget,
        on_drop: Callable[[list[str]], None],
        accepts: Callable[[list[str]], bool] = bool,
    ) -> None:
        super().__init__(widget)
        self._on_drop, self._accepts = on_drop, accepts

    def watch(self, widget: QWidget) -> None:
        """Take files that are dropped on this widget, too."""
        widget.setAcceptDrops(True)
        widget.installEventFilter(self)

    def eventFilter(self, _: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's
        """Take files; leave all else."""
        if event.type() not in DROPS or not self._accepts(dropped_paths(event)):
            return False
        paths = accept_files(event)
        if event.type() == QEvent.Type.Drop:
            self._on_drop(paths)
        return True


class CanvasDrop(FileDrop):
    """Takes files that are dropped on the canvas of the window that a dock is in."""

    def __init__(
        self,
        dock: QWidget,
        on_drop: Callable[[list[str]], None],
        accepts: Callable[[list[str]], bool],
    ) -> None:
        super().__init__(dock, on_drop, accepts)
        self._dock = dock
        dock.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's
        """Begin to look at the canvas when the dock is shown."""
        if watched is not self._dock:
            return super().eventFilter(watched, event)
        if event.type() == QEvent.Type.Show:
            window = self._dock.parentWidget()
            while window is not None and not isinstance(window, QMainWindow):
                window = window.parentWidget()
            canvas = None if window is None else window.centralWidget()
            for widget in () if canvas is None else canvas.findChildren(QWidget):
                if widget.acceptDrops():
                    widget.installEventFilter(self)  # again has no effect
        return False


def are_projects(paths: list[str]) -> bool:
    """Tell if all that was dropped are projects, which napari can't open by a drag."""
    return bool(paths) and all(
        Path(path).name.endswith(PROJECT) and Path(path).is_dir() for path in paths
    )


def dropped_paths(event: QDropEvent) -> list[str]:
    """Return paths of the files and folders that an event brings."""
    paths = [url.toLocalFile() for url in event.mimeData().urls()]
    return [str(Path(path)) for path in paths if path and Path(path).exists()]


def accept_files(event: QDropEvent) -> list[str]:
    """Accept an event that brings files; return their paths."""
    paths = dropped_paths(event)
    if paths:
        event.setDropAction(Qt.DropAction.CopyAction)
        event.accept()
    else:
        event.ignore()
    return paths
