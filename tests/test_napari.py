from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points
from napari.layers._layer_actions import (
    _convert_dtype,
    _convert_to_labels,
    _duplicate_layer,
)
from npe2 import PluginManifest

import napari_emseg
from napari_emseg import _napari
from napari_emseg._napari import layers
from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, save_stack
from napari_emseg.project import Project

MANIFEST = Path(napari_emseg.__file__).with_name("napari.yaml")


class Watched:
    """A lazy array that remembers which sections were read."""

    shape, dtype, ndim, size = (50, 8, 9), np.dtype(np.uint8), 3, 50 * 8 * 9

    def __init__(self) -> None:
        self.read: list[object] = []

    def __getitem__(self, key: object) -> np.ndarray:
        self.read.append(key[0] if isinstance(key, tuple) else key)
        return np.arange(50 * 72, dtype=np.uint8).reshape(self.shape)[key]


def test_manifest_is_valid_and_every_command_exists() -> None:
    manifest = PluginManifest.from_file(MANIFEST)
    for command in manifest.contributions.commands or []:
        assert callable(command.python_name and _load(command.python_name))


def _load(python_name: str) -> object:
    from importlib import import_module

    module, name = python_name.split(":")
    return getattr(import_module(module), name)


def test_plugin_discovery_imports_no_torch() -> None:
    code = (
        "import sys, napari.layers; brought = 'qtpy' in sys.modules; "  # by napari 0.7
        "import napari_emseg._napari; "
        "assert 'torch' not in sys.modules; assert brought or 'qtpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reader_shows_only_the_section_in_view() -> None:
    data = Watched()
    layer_data = _napari.layer_of(Stack(data, name="em"))
    viewer = ViewerModel()
    viewer.add_image(layer_data[0], **layer_data[1])
    data.read.clear()
    viewer.dims.set_point(0, 7)
    touched = [np.arange(50)[key].ravel().tolist() for key in data.read]
    assert {z for zs in touched for z in zs} == {7}


def test_reader_of_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "sections"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 255, (3, 8, 9), np.uint8)
    for z, section in enumerate(values):
        tifffile.imwrite(folder / f"{z}.tif", section)
    reader = _napari.get_reader(str(folder))
    assert reader is not None
    ((data, options, kind),) = reader(str(folder))
    assert kind == "image"
    assert options["name"] == "sections"
    np.testing.assert_array_equal(data[:], values)


@pytest.mark.parametrize("path", ["notes.txt", "photo.bmp"])
def test_reader_leaves_other_files_alone(path: str) -> None:
    assert _napari.get_reader(path) is None


def test_a_damaged_section_is_black_and_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(layers, "show_warning", told.append)
    for z in range(5):
        tifffile.imwrite(tmp_path / f"{z}.tif", np.full((8, 9), z + 1, np.uint8))
    (tmp_path / "2.tif").write_bytes(b"II*\0 no more")
    ((data, options, _),) = _napari.read_layers(str(tmp_path))
    viewer = ViewerModel()
    layer = viewer.add_image(data, **options)
    for z in (2, 1, 2):
        viewer.dims.set_point(0, z)
    assert len(told) == 1
    assert "2.tif" in told[0]
    assert np.asarray(data).max(axis=(1, 2)).tolist() == [1, 2, 0, 4, 5]
    assert data[1:4, 0, 0].tolist() == [2, 0, 4]
    with pytest.raises(OSError, match=r"2\.tif"):
        _napari.stack_of(layer).section(2)


def test_missing_sections_are_told_when_a_folder_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(_napari, "show_warning", told.append)
    for z in (1, 2, 5):
        tifffile.imwrite(tmp_path / f"s{z}.tif", np.zeros((8, 9), np.uint8))
    _napari.read_layers(str(tmp_path))
    (only,) = told
    assert only.endswith("numbers missing in the names of its files: 3…4")


def test_a_layer_of_ours_gives_back_its_stack() -> None:
    stack = Stack(Watched(), name="em")
    data, options, _ = _napari.layer_of(stack)
    assert _napari.stack_of(Image(data, **options)).data is stack.data


def test_reader_says_where_a_choice_is_made(tmp_path: Path) -> None:
    path = tmp_path / "colour.tif"
    colour = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    tifffile.imwrite(path, colour, photometric="rgb")
    with pytest.raises(ValueError, match="1 Data"):
        _napari.read_layers(str(path))


@pytest.mark.parametrize("ending", [".tif", ".zarr"])
def test_layers_survive_saving_and_reading(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cells{ending}"
    provenance = Provenance(kind="cells", source="em.tif", threshold=0.4)
    layer = Labels(
        np.arange(2 * 8 * 9, dtype=np.uint32).reshape(2, 8, 9),
        scale=(50, 4, 4),
        units=("nm",) * 3,
        metadata={"emseg": provenance.model_dump()},
    )
    data, options, _ = layer.as_layer_data_tuple()
    assert _napari.write_labels(str(path), data, options) == [str(path)]
    ((read, shown, kind),) = _napari.read_layers(str(path))
    assert kind == "labels"
    np.testing.assert_array_equal(read[:], layer.data)
    again = Labels(read[:], **shown)
    assert _napari.voxel_size_of(again) == pytest.approx((50, 4, 4))
    assert Provenance(**again.metadata["emseg"]) == provenance


def test_voxels_of_a_file_are_read_by_their_places(tmp_path: Path) -> None:
    drawn = np.arange(2 * 8 * 9, dtype=np.uint16).reshape(2, 8, 9)
    tifffile.imwrite(tmp_path / "em.tif", drawn)
    ((data, _, _),) = _napari.read_layers(str(tmp_path / "em.tif"))
    at = np.array([1, 0, 1]), np.array([7, 2, 0]), np.array([8, 3, 0])
    np.testing.assert_array_equal(data[at], drawn[at])


@pytest.mark.parametrize("kind", ["cells", "em"])
def test_labels_of_a_file_are_painted_in_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cells.tif"
    drawn = np.arange(2 * 8 * 9, dtype=np.uint32).reshape(2, 8, 9)
    made = Provenance(kind="cells") if kind == "cells" else None
    save_stack(path, Stack(drawn), provenance=made)
    ((data, options, _),) = _napari.read_layers(str(path))
    options.pop("contrast_limits", None)
    layer = Labels(data, **options)
    layer.brush_size = 1
    layer.paint((1, 2, 3), 500)
    expected = drawn.copy()
    expected[1, 2, 3] = 500
    np.testing.assert_array_equal(layer.data[:], expected)
    layer.fill((0, 0, 1), 7)
    layer.undo()
    layer.undo()
    np.testing.assert_array_equal(layer.data[:], drawn)
    layer.redo()
    data, options, _ = layer.as_layer_data_tuple()
    _napari.write_labels(str(tmp_path / "painted.tif"), data, options)
    np.testing.assert_array_equal(
        open_stack(tmp_path / "painted.tif").data[:], expected
    )
    np.testing.assert_array_equal(open_stack(path).data[:], drawn)


def test_a_layer_that_reads_from_a_file_is_duplicated(tmp_path: Path) -> None:
    drawn = np.arange(2 * 8 * 9, dtype=np.uint8).reshape(2, 8, 9)
    tifffile.imwrite(tmp_path / "em.tif", drawn)
    ((data, options, _),) = _napari.read_layers(str(tmp_path / "em.tif"))
    viewer = ViewerModel()
    layer = viewer.add_labels(data, name=options["name"])
    viewer.layers.selection = {layer}
    _duplicate_layer(viewer.layers)
    layer.data[0, 1, 2] = 200
    viewer.layers.selection = {layer}
    _duplicate_layer(viewer.layers)
    painted, clean = (x for x in viewer.layers if x is not layer)
    layer.data[0, 1, 2] = 100
    assert (painted.data[0, 1, 2], clean.data[0, 1, 2]) == (200, drawn[0, 1, 2])


@pytest.mark.filterwarnings("ignore:projection mode")  # of napari's own
def test_a_layer_that_reads_from_a_file_is_converted(tmp_path: Path) -> None:
    drawn = np.arange(2 * 8 * 9, dtype=np.float32).reshape(2, 8, 9)
    tifffile.imwrite(tmp_path / "em.tif", drawn)
    ((data, options, _),) = _napari.read_layers(str(tmp_path / "em.tif"))
    viewer = ViewerModel()
    viewer.layers.selection = {viewer.add_image(data, **options)}
    _convert_to_labels(viewer.layers)
    viewer.layers.selection = {viewer.layers[1]}
    _convert_dtype(viewer.layers, "uint16")
    assert viewer.layers[1].data.dtype == np.uint16
    np.testing.assert_array_equal(viewer.layers[1].data, drawn)


def test_layers_too_large_for_memory_are_not_converted(monkeypatch) -> None:
    monkeypatch.setattr(layers, "free_ram", lambda: 8 * 2 * 8 * 9 - 1)
    shown = layers.Shown(Stack(np.zeros((2, 8, 9), np.uint8), name="cells"))
    assert shown.astype("uint32").nbytes == 4 * 2 * 8 * 9
    with pytest.raises(MemoryError, match="cells can't be converted"):
        shown.astype("int64")


def test_labels_too_large_for_memory_are_not_painted(monkeypatch) -> None:
    monkeypatch.setattr(layers, "free_ram", lambda: 100)
    layer = Labels(layers.Shown(Stack(np.zeros((2, 8, 9), np.uint8), name="cells")))
    with pytest.raises(MemoryError, match="cells can't be painted on"):
        layer.paint((1, 2, 3), 5)


def test_a_file_that_a_layer_reads_is_not_replaced(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "em.tif"
    tifffile.imwrite(path, np.arange(2 * 8 * 9, dtype=np.uint8).reshape(2, 8, 9))
    ((data, options, _),) = _napari.read_layers(str(path))
    viewer = ViewerModel()
    viewer.add_image(data, **options)
    monkeypatch.setattr("napari.current_viewer", lambda: viewer)
    before = path.read_bytes()
    labels, plain, _ = Labels(np.ones((2, 8, 9), np.uint8)).as_layer_data_tuple()
    with pytest.raises(OSError, match=r"em\.tif is the input"):
        _napari.write_labels(str(path), labels, plain)
    assert path.read_bytes() == before


def test_saving_an_image_keeps_its_voxel_size_in_any_unit(tmp_path: Path) -> None:
    path = tmp_path / "em.tif"
    layer = Image(np.ones((2, 8, 9), np.uint8), scale=(0.05, 0.004, 0.004))
    layer.units = ("um",) * 3
    data, options, _ = layer.as_layer_data_tuple()
    _napari.write_image(str(path), data, options)
    assert open_stack(path).voxel_size_nm == pytest.approx((50, 4, 4))


@pytest.mark.parametrize("ending", [".tif", ".zarr"])
@pytest.mark.parametrize(
    ("given", "stored"),
    [("bool", "uint8"), ("float64", "float32"), ("uint16", "uint16")],
)
def test_images_of_any_type_are_saved(tmp_path, ending, given, stored) -> None:
    path = tmp_path / f"em{ending}"
    values = np.arange(2 * 8 * 9).reshape(2, 8, 9).astype(given)
    _napari.write_image(str(path), values, {"name": "em"})
    stack = open_stack(path)
    assert stack.dtype == stored
    np.testing.assert_array_equal(np.asarray(stack.data[:]), values.astype(stored))


def test_labels_as_napari_makes_them_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "drawn.tif"
    drawn = np.arange(8 * 9).reshape(8, 9)  # int64, 2-D
    _napari.write_labels(str(path), drawn, {"name": "drawn"})
    np.testing.assert_array_equal(open_stack(path).section(0), drawn)
    assert open_stack(path).dtype == np.uint32


@pytest.mark.parametrize("ending", [".tif", ".zarr", ".h5"])
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
@pytest.mark.parametrize("lazy", [False, True])
def test_ids_of_64_bit_are_saved(
    tmp_path: Path, ending: str, dtype: str, lazy: bool
) -> None:
    path = tmp_path / f"large{ending}"
    ids = (np.arange(3 * 8 * 9).reshape(3, 8, 9) + 2**40).astype(dtype)
    data = da.from_array(ids, chunks=(1, 8, 9)) if lazy else ids
    _napari.write_labels(str(path), data, {"name": "large"})
    stored = open_stack(path)
    assert stored.dtype.itemsize == 8
    np.testing.assert_array_equal(stored.data[:].astype(dtype), ids)


def test_ids_below_0_are_refused_by_name(tmp_path: Path) -> None:
    ids = np.full((2, 8, 9), -1)
    with pytest.raises(
        OSError, match="section 0 has the value -1; TIFF holds int64 only"
    ):
        _napari.write_labels(str(tmp_path / "a.tif"), ids, {"name": "a"})


def test_a_layer_that_its_affine_moves_is_saved_where_it_lies(tmp_path: Path) -> None:
    layer = Labels(np.ones((2, 8, 9), np.uint8), scale=(50, 4, 4), units=("nm",) * 3)
    affine = np.diag([1.0, 2, 2, 1])
    affine[:3, 3] = (0, 400, 800)
    layer.affine = affine
    assert _napari.stack_of(layer).origin_nm == (0, 400, 800)
    assert _napari.voxel_size_of(layer) == (50, 8, 8)
    data, options, _ = layer.as_layer_data_tuple()
    _napari.write_labels(str(tmp_path / "a.zarr"), data, options)
    saved = open_stack(tmp_path / "a.zarr")
    assert saved.origin_nm == pytest.approx((0, 400, 800))
    assert saved.voxel_size_nm == pytest.approx((50, 8, 8))
    _napari.set_voxel_size(layer, (40, 6, 6))
    assert _napari.voxel_size_of(layer) == (40, 6, 6)


@pytest.mark.parametrize("how", ["affine", "rotate", "shear", "mirror"])
def test_a_layer_that_is_turned_is_not_saved(tmp_path: Path, how: str) -> None:
    layer = Image(np.ones((2, 8, 9), np.uint8), scale=(50, 4, 4), name="em")
    turned = np.eye(4)
    turned[1:3, 1:3] = [[0, -1], [1, 0]]
    if how == "affine":
        layer.affine = turned
    elif how == "rotate":
        layer.rotate = turned[:3, :3]
    elif how == "shear":
        layer.shear = (0, 0, 0.3)
    else:
        layer.scale = (50, -4, 4)
    data, options, _ = layer.as_layer_data_tuple()
    with pytest.raises(OSError, match="em is turned, sheared or mirrored"):
        _napari.write_image(str(tmp_path / "a.zarr"), data, options)


def test_unknown_section_thickness_stays_unknown() -> None:
    stack = Stack(np.zeros((2, 8, 9), np.uint8), voxel_size_nm=(None, 4, 4))
    data, options, _ = _napari.layer_of(stack)
    assert _napari.voxel_size_of(Image(data, **options)) == (None, 4, 4)


def test_probabilities_are_shown_from_0_to_1(tmp_path: Path) -> None:
    path = tmp_path / "p.tif"
    values = np.full((2, 8, 9), 0.25, np.float32)
    save_stack(path, values, provenance=Provenance(kind="membrane"))
    ((_, options, kind),) = _napari.read_layers(str(path))
    assert kind == "image"
    assert options["contrast_limits"] == (0.0, 1.0)


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((4, 8, 9), np.uint16),
        np.zeros((8, 9), np.float32),
        da.zeros((4, 8, 9), chunks=(1, 8, 9)),
    ],
)
def test_layers_that_are_stacks(data: object) -> None:
    stack = _napari.stack_of(Image(data, name="em"))
    assert stack.shape[1:] == (8, 9)
    assert stack.voxel_size_nm is None


def test_finest_level_of_a_multiscale_layer() -> None:
    levels = [np.zeros((4, 16, 18), np.uint8), np.zeros((4, 8, 9), np.uint8)]
    assert _napari.stack_of(Image(levels)).shape == (4, 16, 18)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Image(np.zeros((8, 9, 3), np.uint8), rgb=True), "Split RGB"),
        (Image(np.zeros((2, 3, 8, 9), np.uint8)), "has 4 axes"),
        (Points(np.zeros((1, 3))), "points layer"),
    ],
)
def test_layers_that_are_no_stack_are_refused(layer: Image, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        _napari.stack_of(layer)


def test_a_result_lies_exactly_over_its_source() -> None:
    source = Image(np.zeros((4, 8, 9)), scale=(50, 4, 4), translate=(1, 2, 3))
    source.rotate = 30
    result = Labels(np.zeros((4, 8, 9), int), **_napari.placement_of(source))
    corner = (3.0, 7.0, 8.0)
    assert result.data_to_world(corner) == pytest.approx(source.data_to_world(corner))


def test_sample_opens_aligned() -> None:
    image, labels = _napari.sample_vnc()
    assert image[0].shape == labels[0].shape
    assert image[1]["scale"] == labels[1]["scale"] == pytest.approx((50, 4.6, 4.6))
    assert set(np.unique(labels[0])) == {0, 1}


def test_the_sample_says_how_to_get_it(without_data) -> None:
    with pytest.raises(ValueError, match="pip install napari-emseg-data"):
        _napari.sample_vnc()


def test_the_second_sample_brings_its_cells() -> None:
    image, labels = _napari.sample_fib25()
    assert image[0].shape == labels[0].shape == (20, 250, 250)
    assert image[1]["scale"] == labels[1]["scale"] == pytest.approx((10, 10, 10))
    assert labels[1]["metadata"]["emseg"]["kind"] == "cells"
    assert not labels[1]["visible"]


def test_a_project_without_a_window_is_layers(tmp_path: Path, monkeypatch) -> None:
    stack = Stack(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), name="em")
    path = save_stack(tmp_path / "em.tif", stack)
    area = slice(0, 4), slice(0, 5)
    with Project.create(tmp_path / "a", open_stack(path)) as project:
        project.put("cells", 1, area, np.full((4, 5), 7, np.uint32))
        project.put("corrections", 2, area, np.full((4, 5), 2, np.uint8))
    monkeypatch.setattr("napari.current_viewer", lambda: None)
    reader = _napari.get_reader(str(tmp_path / "a.emseg"))
    assert reader is not None
    em, corrections, cells = reader(str(tmp_path / "a.emseg"))
    np.testing.assert_array_equal(em[0], stack.data)
    assert [layer[1]["name"] for layer in (corrections, cells)] == [
        "em corrections",
        "em cells",
    ]
    assert cells[0].max(axis=(1, 2)).tolist() == [0, 7, 0]
    assert corrections[0].max(axis=(1, 2)).tolist() == [0, 0, 2]
