"""What differs between versions of napari, the older way and the newer one."""

from __future__ import annotations

from types import SimpleNamespace

import napari.settings
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from napari.utils.events import EventEmitter
from napari.utils.theme import get_theme

from napari_emseg._napari import versions

SMALL = {"scale": (2, 2), "translate": (300, 500)}


@pytest.fixture
def viewer() -> ViewerModel:
    viewer = ViewerModel()
    viewer.add_layer(Image(np.zeros((400, 600), np.uint8), name="large"))
    viewer.add_layer(Image(np.zeros((20, 30), np.uint8), name="small", **SMALL))
    return viewer


class BeforeTheScene:
    """A viewer as napari 0.8 has it."""

    def __init__(self, viewer: ViewerModel) -> None:
        self.camera = versions.camera_of(viewer)
        self.dims, self.layers = viewer.dims, viewer.layers
        self.fit_to_view = viewer.reset_view


@pytest.mark.parametrize("old", [False, True])
def test_a_layer_is_fitted_into_the_view(viewer, old) -> None:
    asked = BeforeTheScene(viewer) if old else viewer
    viewer.reset_view()
    camera = versions.camera_of(asked)
    assert camera is versions.camera_of(viewer)
    all_of_it = camera.zoom
    versions.fit_to_view(asked, viewer.layers["small"])
    np.testing.assert_allclose(camera.center[-2:], (319, 529))
    assert 9 * all_of_it < camera.zoom < 25 * all_of_it


def test_a_picture_beside_a_stack_is_fitted_into_the_view(viewer) -> None:
    viewer.add_layer(Image(np.zeros((3, 400, 600), np.uint8), name="stack"))
    versions.fit_to_view(viewer, viewer.layers["small"])
    np.testing.assert_allclose(versions.camera_of(viewer).center[-2:], (319, 529))


@pytest.mark.parametrize(("name", "dark"), [("dark", True), ("light", False)])
def test_a_theme_is_dark_or_not(name, dark) -> None:
    theme = get_theme(name)
    assert versions.is_dark(theme) == dark
    older = SimpleNamespace(background=theme.background)
    assert versions.is_dark(older) == dark


def test_changes_of_shortcuts_are_told() -> None:
    assert isinstance(versions.shortcut_changes(), EventEmitter)


def test_where_napari_keeps_no_preferences_of_plugins_there_are_none(
    monkeypatch,
) -> None:
    monkeypatch.delattr(napari.settings, "get_plugin_settings", raising=False)
    assert versions.preference("runs", "device") is None
