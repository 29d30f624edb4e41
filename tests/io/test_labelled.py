"""Picture and cells in one OME-Zarr, checked by models and reopened by tensorstore."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import yaozarrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yaozarrs import v04, v05

from napari_emseg.core.records import Provenance, drain
from napari_emseg.core.sinks import Kept
from napari_emseg.core.stack import Stack
from napari_emseg.io import OutputFormat, describe, open_stack, writing
from napari_emseg.io.writing import iter_save_labelled
from napari_emseg.io.zarr_sink import ZarrSink

both = pytest.mark.parametrize("format", ["zarr", "zarr-0.4"])
SIZE = (50.0, 5.0, 4.0)


def _stored(path: Path, format: OutputFormat) -> np.ndarray:  # noqa: A002
    driver = "zarr" if format == "zarr-0.4" else "zarr3"
    spec = {"driver": driver, "kvstore": f"file://{path}/"}
    return np.asarray(tensorstore.open(spec).result().read().result())


@both
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(shape=st.tuples(*[st.integers(1, 9)] * 3))
def test_both_come_back(
    tmp_path: Path,
    format: OutputFormat,  # noqa: A002
    shape: tuple[int, int, int],
) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    cells = image.astype(np.uint32) * 1000
    work = iter_save_labelled(
        tmp_path / "a.zarr", Stack(image), cells, format=format, overwrite=True
    )
    path = drain(work)
    np.testing.assert_array_equal(_stored(path / "0", format), image)
    np.testing.assert_array_equal(_stored(path / "labels/cells/0", format), cells)


@both
def test_notes_are_those_of_the_standard(
    tmp_path: Path,
    stack: np.ndarray,
    format: OutputFormat,  # noqa: A002
) -> None:
    made = Provenance(kind="cells", weights="w")
    work = iter_save_labelled(
        tmp_path / "a.zarr",
        Stack(stack, voxel_size_nm=SIZE),
        stack.astype(np.uint32),
        provenance=made,
        format=format,
    )
    path = drain(work)
    yaozarrs.validate_zarr_store(path)
    yaozarrs.validate_zarr_store(path / "labels" / "cells")
    group = json.loads(_notes(path / "labels", format))
    label = json.loads(_notes(path / "labels" / "cells", format))
    if format == "zarr":
        group, label = group["attributes"]["ome"], label["attributes"]["ome"]
        v05.LabelImage.model_validate(label)
    else:
        v04.LabelImage.model_validate(label)
        assert label["multiscales"][0]["version"] == "0.4"
    assert group["labels"] == ["cells"]
    assert label["image-label"]["source"] == {"image": "../../"}
    units = [axis["unit"] for axis in label["multiscales"][0]["axes"]]
    assert units == ["nanometer"] * 3


def _notes(path: Path, format: OutputFormat) -> str:  # noqa: A002
    return (path / ("zarr.json" if format == "zarr" else ".zattrs")).read_text()


@both
def test_our_reader_finds_both(
    tmp_path: Path,
    stack: np.ndarray,
    format: OutputFormat,  # noqa: A002
) -> None:
    path = drain(
        iter_save_labelled(
            tmp_path / "a.zarr",
            Stack(stack, voxel_size_nm=SIZE),
            stack.astype(np.uint32) + 1,
            format=format,
        )
    )
    assert [item.key for item in describe(path).items] == ["", "labels/cells"]
    np.testing.assert_array_equal(open_stack(path).data[:], stack)
    cells = open_stack(path, dataset="labels/cells")
    np.testing.assert_array_equal(cells.data[:], stack.astype(np.uint32) + 1)
    assert cells.voxel_size_nm == SIZE


@both
def test_large_sections_have_smaller_copies(
    tmp_path: Path,
    format: OutputFormat,  # noqa: A002
) -> None:
    image = np.zeros((1, 1100, 40), np.uint8)
    cells = np.arange(1100 * 40, dtype=np.uint32).reshape(1, 1100, 40)
    path = drain(
        iter_save_labelled(tmp_path / "a.zarr", Stack(image), cells, format=format)
    )
    np.testing.assert_array_equal(
        _stored(path / "labels/cells/1", format), cells[:, ::2, ::2]
    )


def test_what_it_refuses(tmp_path: Path, stack: np.ndarray) -> None:
    image, cells = Stack(stack), stack.astype(np.uint32)
    place = tmp_path / "a.zarr"
    with pytest.raises(ValueError, match=r"\(4, 20, 33\).*\(5, 20, 33\)"):
        drain(iter_save_labelled(place, image, cells[:4]))
    with pytest.raises(ValueError, match="whole numbers, not float64"):
        drain(iter_save_labelled(place, image, cells / 2))
    with pytest.raises(ValueError, match=r"zarr or zarr-3d or zarr-0\.4, not tiff"):
        drain(iter_save_labelled(place, image, cells, format="tiff"))
    assert list(tmp_path.iterdir()) == []


def test_stopping_leaves_a_part_only(tmp_path: Path, stack: np.ndarray) -> None:
    kept: list[Kept] = []
    work = iter_save_labelled(
        tmp_path / "a.zarr",
        Stack(stack),
        stack.astype(np.uint32),
        on_kept=kept.append,
    )
    next(work)
    work.close()
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part"
    assert kept == [Kept(part, 1, len(stack))]


@pytest.mark.parametrize("format", ["zarr", "zarr-3d", "zarr-0.4"])
def test_is_a_dataset_of_webknossos(
    tmp_path: Path,
    stack: np.ndarray,
    format: OutputFormat,  # noqa: A002
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ZarrSink, "most", (1, 16, 16))
    monkeypatch.setattr(writing, "DEEP_CHUNK", (4, 16, 16))
    cells = (stack % 7).astype(np.uint64)
    work = iter_save_labelled(
        tmp_path / "a.zarr",
        Stack(stack, voxel_size_nm=SIZE),
        cells,
        name="neurons",
        format=format,
    )
    path = drain(work)
    said = json.loads((path / "datasource-properties.json").read_text())
    assert said["id"]["name"] == "a.zarr"
    assert said["scale"] == {"factor": [4.0, 5.0, 50.0], "unit": "nanometer"}
    image, neurons = said["dataLayers"]
    z, y, x = stack.shape
    assert image["boundingBox"] == {
        "topLeft": [0, 0, 0],
        "width": x,
        "height": y,
        "depth": z,
    }
    assert (image["category"], image["elementClass"]) == ("color", stack.dtype.name)
    assert (neurons["category"], neurons["elementClass"]) == ("segmentation", "uint64")
    assert neurons["largestSegmentId"] == int(cells.max())
    kinds = {"zarr-0.4": "zarr"}
    for layer, folder in ((image, ""), (neurons, "labels/neurons/")):
        assert layer["dataFormat"] == kinds.get(format, "zarr3")
        assert [mag["mag"] for mag in layer["mags"]] == [
            [1, 1, 1],
            [2, 2, 1],
            [4, 4, 1],
        ]
        for nth, mag in enumerate(layer["mags"]):
            assert mag["path"] == f"./{folder}{nth}"
            assert mag["axisOrder"] == {"x": 2, "y": 1, "z": 0}
            assert (path / mag["path"]).is_dir()


def test_is_none_where_the_voxel_size_is_unknown(
    tmp_path: Path, stack: np.ndarray
) -> None:
    work = iter_save_labelled(
        tmp_path / "a.zarr", Stack(stack), stack.astype(np.uint32)
    )
    assert not (drain(work) / "datasource-properties.json").exists()


@pytest.mark.parametrize("format", ["zarr", "zarr-3d", "zarr-0.4"])
def test_the_library_of_webknossos_opens_it(
    tmp_path: Path,
    stack: np.ndarray,
    format: OutputFormat,  # noqa: A002
) -> None:
    webknossos = pytest.importorskip("webknossos", reason="needs webknossos")
    cells = (stack % 7).astype(np.uint32)
    work = iter_save_labelled(
        tmp_path / "a.zarr", Stack(stack, voxel_size_nm=SIZE), cells, format=format
    )
    dataset = webknossos.Dataset.open(drain(work))
    assert tuple(dataset.voxel_size) == SIZE[::-1]
    for name, values in (("image", stack), ("cells", cells)):
        found = dataset.get_layer(name).get_mag(1).read()
        np.testing.assert_array_equal(found, values)
