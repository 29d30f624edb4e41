"""What napari does with a file that is opened or dropped, and what the dock does."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari import Viewer
from napari.components import ViewerModel
from napari.layers import Points
from napari.plugins._npe2 import get_readers
from napari.settings import get_settings
from npe2 import PluginManager
from PIL import Image as Picture
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QLineEdit, QMainWindow, QWidget

from napari_emseg._napari import get_reader, stack_in_file, stack_of
from napari_emseg._napari.versions import camera_of
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, save_stack
from napari_emseg.project import Project
from napari_emseg.widgets import data_panel, opening
from napari_emseg.widgets.camera import section_on_screen
from napari_emseg.widgets.controller import controller_for

VOXEL = (50.0, 4.5, 4.0)
GREY = np.random.default_rng(3).integers(0, 255, (5, 40, 48), np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with the same five sections in each format, and a project of them."""
    folder = tmp_path_factory.mktemp("files")
    for suffix in ("tif", "mrc", "h5", "hdf5", "zarr"):
        save_stack(folder / f"em.{suffix}", Stack(GREY, voxel_size_nm=VOXEL))
    for name in ("rec", "st", "map", "ali", "MRC"):
        (folder / f"other.{name}").write_bytes((folder / "em.mrc").read_bytes())
    mrc = (folder / "em.mrc").read_bytes()
    (folder / "em.map.gz").write_bytes(gzip.compress(mrc))
    (folder / "em.mrc.bz2").write_bytes(bz2.compress(mrc))
    np.save(folder / "em.npy", GREY)
    Picture.fromarray(GREY[0]).save(folder / "em.png")
    Picture.fromarray(np.stack([GREY[0], GREY[1], GREY[2]], -1)).save(
        folder / "colour.png"
    )
    (folder / "sections").mkdir()
    for z, section in enumerate(GREY):
        tifffile.imwrite(folder / "sections" / f"{z}.tif", section)
    with Project.create(folder / "em.emseg", stack_at(folder)):
        pass
    return folder


def stack_at(folder: Path) -> Stack:
    return open_stack(folder / "em.tif")


@pytest.fixture
def choices() -> Iterator[dict[str, str]]:
    """Which reader napari remembers for which names: at first none."""
    plugins = get_settings().plugins
    before = plugins.extension2reader
    plugins.extension2reader = {}
    yield plugins.extension2reader
    plugins.extension2reader = before


@pytest.fixture
def viewer(make_napari_viewer, choices) -> Viewer:
    return make_napari_viewer()


NAPARIS = ("em.tif", "em.png", "em.npy", "em.zarr", "sections")
OURS = (
    *("em.mrc", "other.rec", "other.st", "other.map", "other.ali", "other.MRC"),
    *("em.map.gz", "em.mrc.bz2"),
)


class TestWithoutTheDock:
    def test_only_what_napari_cannot_read_is_claimed(self, viewer, files) -> None:
        for name in (*NAPARIS, "em.emseg"):
            assert set(get_readers(str(files / name))) == {"napari"}, name
        for name in OURS:
            assert set(get_readers(str(files / name))) == {"napari-emseg"}, name

    def test_files_of_napari_open_and_nothing_is_asked(self, viewer, files) -> None:
        for name in NAPARIS:
            (layer,) = viewer.open(str(files / name), plugin=None)
            assert layer.source.reader_plugin == "napari"
            shown = GREY[0] if name == "em.png" else GREY
            np.testing.assert_array_equal(np.asarray(layer.data), shown)

    def test_files_of_microscopes_open_with_their_voxel_size(
        self, viewer, files
    ) -> None:
        for name in OURS:
            (layer,) = viewer.open(str(files / name), plugin=None)
            assert layer.source.reader_plugin == "napari-emseg", name
            assert stack_of(layer).voxel_size_nm == pytest.approx(VOXEL)
            np.testing.assert_array_equal(layer.data[:], GREY)

    def test_the_file_in_a_project_opens_it_in_the_dock(
        self, viewer, files, qtbot
    ) -> None:
        assert viewer.open(str(files / "em.emseg" / "project.json"), plugin=None) == []
        qtbot.waitUntil(lambda: "em" in viewer.layers, timeout=60_000)
        assert "EM segmentation (napari-emseg)" in viewer.window.dock_widgets

    def test_a_project_file_of_others_is_left_alone(self, tmp_path) -> None:
        (tmp_path / "project.json").write_text("{}")
        assert get_reader(str(tmp_path / "project.json")) is None


class TestHdf5:
    def test_napari_never_opens_it(self, viewer, files) -> None:
        with pytest.raises(OSError, match="HDF5"):
            viewer.open(str(files / "em.h5"), plugin="napari")

    def test_after_the_first_dock_nothing_is_asked(
        self, viewer, choices, files
    ) -> None:
        controller_for(viewer)
        for name in ("em.h5", "em.hdf5"):
            (layer,) = viewer.open(str(files / name), plugin=None)
            assert layer.source.reader_plugin == "napari-emseg"
            assert stack_of(layer).voxel_size_nm == pytest.approx(VOXEL)

    def test_a_choice_that_was_made_stays(self, choices) -> None:
        get_settings().plugins.extension2reader = {"*.h5": "other", "*.tif": "napari"}
        opening.open_with_this()
        kept = get_settings().plugins.extension2reader
        assert (kept["*.h5"], kept["*.tif"]) == ("other", "napari")

    def test_where_another_plugin_reads_it_napari_goes_on_asking(
        self, choices, monkeypatch
    ) -> None:
        class Claim:
            def __init__(self, name: str) -> None:
                self.plugin_name = name

        class Plugins:
            def iter_compatible_readers(self, _: list[str]) -> Iterator[Claim]:
                return map(Claim, ("napari", "napari-emseg", "napari-hdf5"))

        monkeypatch.setattr(PluginManager, "instance", Plugins)
        opening.open_with_this()
        assert get_settings().plugins.extension2reader == {}

    def test_what_was_set_for_folders_is_taken_back(self, choices) -> None:
        get_settings().plugins.extension2reader = {
            opening.FOLDERS: "napari-emseg",
            "*.tif": "napari",
        }
        opening.open_with_this()
        kept = get_settings().plugins.extension2reader
        assert opening.FOLDERS not in kept
        assert kept["*.tif"] == "napari"


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What was shown as a notification about sizes."""
    said: list[str] = []
    monkeypatch.setattr(opening, "show_info", said.append)
    return said


class TestVoxelSizes:
    def test_the_dock_takes_what_napari_left_out(
        self, open_window, files, said
    ) -> None:
        window = open_window()
        for name in ("em.tif", "em.zarr"):
            (layer,) = window.viewer.open(str(files / name), plugin="napari")
            assert stack_of(layer).voxel_size_nm == pytest.approx(VOXEL)
            source = window.controller.session.source
            assert source.stack.voxel_size_nm == pytest.approx(VOXEL)
            assert said == ["em: voxel size 50 × 4.5 × 4 nm, as its file says"]
            assert window.data.voxel_size.text() == "50 × 4.5 × 4"
            window.viewer.layers.clear()
            said.clear()

    def test_also_of_layers_that_were_there_before_it(
        self, viewer, files, said
    ) -> None:
        (layer,) = viewer.open(str(files / "em.tif"), plugin="napari")
        viewer.dims.set_current_step(0, 3)
        camera = camera_of(viewer)
        camera.center, camera.zoom = (0, 10, 20), 16
        controller = controller_for(viewer)
        assert section_on_screen(viewer, layer) == 3
        np.testing.assert_array_equal(layer._slice.image.raw, GREY[3])
        np.testing.assert_allclose(camera.center[-2:], (45, 80))
        assert camera.zoom == pytest.approx(16 * 48 / (48 * 4))
        assert stack_of(layer).voxel_size_nm == pytest.approx(VOXEL)
        assert controller.session.source.stack.voxel_size_nm == pytest.approx(VOXEL)

    def test_not_apart_from_what_was_drawn_in_pixels(self, viewer, files, said) -> None:
        (layer,) = viewer.open(str(files / "em.tif"), plugin="napari")
        viewer.add_layer(Points([[1, 20, 30]]))
        controller_for(viewer)
        assert stack_of(layer).voxel_size_nm is None
        (words,) = said
        assert "its file says 50 × 4.5 × 4 nm" in words

    @pytest.mark.parametrize(
        "set_", [{"scale": (2, 1, 1)}, {"translate": (0, 3, 3)}, {"units": ("um",) * 3}]
    )
    def test_what_somebody_has_set_stays(self, files, set_) -> None:
        (layer,) = ViewerModel().open(str(files / "em.tif"), plugin="napari", **set_)
        assert stack_in_file(layer) is None

    def test_where_the_file_says_none_nothing_is_said(
        self, viewer, files, said
    ) -> None:
        controller_for(viewer)
        for name in ("em.png", "em.npy", "colour.png"):
            (layer,) = viewer.open(str(files / name), plugin="napari")
            assert np.all(layer.scale == 1)
        assert said == []

    def test_a_file_that_is_gone_or_other_by_now_is_no_error(self, tmp_path) -> None:
        path = tmp_path / "a.tif"
        save_stack(path, Stack(GREY, voxel_size_nm=VOXEL))
        (layer,) = ViewerModel().open(str(path), plugin="napari")
        assert stack_in_file(layer) is not None
        save_stack(path, Stack(GREY[:2], voxel_size_nm=VOXEL), overwrite=True)
        assert stack_in_file(layer) is None
        path.unlink()
        assert stack_in_file(layer) is None


def drop(widget: QWidget, *paths: Path) -> bool:
    """Drag files over a widget and let them fall; tell if anybody took them."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    copy = Qt.DropAction.CopyAction
    held = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    over = QDragEnterEvent(QPoint(5, 5), copy, mime, *held)
    fall = QDropEvent(QPointF(5, 5), copy, mime, *held)
    for event in (over, fall):
        event.ignore()
        QApplication.sendEvent(widget, event)
    return over.isAccepted() and fall.isAccepted()


def canvas_of(viewer: Viewer) -> QWidget:
    main = viewer.window._qt_window
    assert isinstance(main, QMainWindow)
    return next(w for w in main.centralWidget().findChildren(QWidget) if takes(w))


def takes(widget: QWidget) -> bool:
    return widget.acceptDrops() and type(widget).__name__ == "QtViewer"


class TestDrops:
    def test_on_the_dock_our_reader_opens_all(self, open_window, files) -> None:
        window = open_window()
        names = ("em.tif", "em.zarr", "em.h5", "em.mrc", "em.png", "sections")
        assert drop(window.dock.viewport(), *(files / name for name in names))
        layers = window.viewer.layers
        window.qtbot.waitUntil(lambda: len(layers) == len(names), timeout=60_000)
        assert [len(x.data) for x in layers] == [5, 5, 5, 5, 1, 5]
        sizes = [stack_of(x).voxel_size_nm for x in layers]
        assert sizes == [pytest.approx(VOXEL)] * 4 + [None] * 2

    def test_several_at_once_with_a_bad_one_and_a_question(
        self, open_window, files, tmp_path, monkeypatch
    ) -> None:
        said: list[str] = []
        monkeypatch.setattr(data_panel, "show_error", said.append)
        window = open_window()
        bad = tmp_path / "bad.tif"
        bad.write_bytes(b"no picture")
        drop(
            window.dock.viewport(),
            files / "colour.png",
            bad,
            files / "em.mrc",
            files / "em.h5",
        )
        layers = window.viewer.layers
        window.qtbot.waitUntil(lambda: len(layers) == 2, timeout=60_000)
        window.qtbot.waitUntil(
            lambda: window.data.choice.isVisibleTo(window.dock), timeout=60_000
        )
        assert window.data.choice.question.text() == "colour.png: choose a channel"
        assert len(said) == 1
        assert "bad.tif" in said[0]
        window.click(window.data.choice.chosen)
        window.qtbot.waitUntil(lambda: len(layers) == 3, timeout=60_000)

    def test_on_a_line_of_text_it_is_no_text(self, open_window, files) -> None:
        window = open_window()
        assert drop(window.data.voxel_size, files / "em.mrc")
        window.qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=60_000)
        texts = [line.text() for line in window.dock.findChildren(QLineEdit)]
        assert not any("em.mrc" in text for text in texts)

    def test_what_is_no_file_is_not_taken(self, open_window, tmp_path) -> None:
        window = open_window()
        assert not drop(window.dock.viewport(), tmp_path / "gone.tif")

    def test_a_project_on_the_canvas_opens_in_the_dock(
        self, open_window, files
    ) -> None:
        window = open_window(show=True)
        window.settle()
        assert drop(canvas_of(window.viewer), files / "em.emseg")
        window.qtbot.waitUntil(lambda: "em" in window.viewer.layers, timeout=60_000)
        assert window.controller.session.source.stack.shape == GREY.shape

    def test_all_else_on_the_canvas_goes_to_napari(
        self, open_window, files, monkeypatch
    ) -> None:
        window = open_window(show=True)
        asked: list[Callable[..., None]] = []
        monkeypatch.setattr(
            "napari._qt.qt_viewer.handle_gui_reading", lambda *a, **_: asked.append(a)
        )
        window.settle()
        drop(canvas_of(window.viewer), files / "em.tif")
        assert [x.source.reader_plugin for x in window.viewer.layers] == ["napari"]
        assert stack_of(window.viewer.layers[0]).voxel_size_nm == pytest.approx(VOXEL)
        assert asked == []
