"""OME-Zarr 0.4 as zarr writes it, 0.5 as yaozarrs does, and plain Zarr."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import zarr
from yaozarrs import v05
from yaozarrs.write.v05 import write_image

from napari_emseg.io import AmbiguousFileError, UnreadableError, describe, open_stack


def _v04(
    path: Path,
    levels: list[np.ndarray],
    axes: list[dict[str, str]] | None = None,
    **more: Any,
) -> None:
    """Write an image of 4 × 5 × 40 nm, given in µm, as version 0.4."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for nth, values in enumerate(levels):
        group.create_array(str(nth), data=values, chunks=(2, *values.shape[1:]))
        scale = [1.0] * (values.ndim - 3) + [0.04, 0.005 * 2**nth, 0.004 * 2**nth]
        moves = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(nth), "coordinateTransformations": moves})
    space = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    image = {"version": "0.4", "axes": axes or space, "datasets": datasets, **more}
    group.attrs["multiscales"] = [image]


def _v05(path: Path, levels: list[np.ndarray]) -> None:
    datasets = [
        v05.Dataset(
            path=str(nth),
            coordinateTransformations=[
                v05.ScaleTransformation(scale=[40, 5 * 2**nth, 4 * 2**nth])
            ],
        )
        for nth in range(len(levels))
    ]
    axes = [v05.SpaceAxis(name=a, unit="nanometer") for a in "zyx"]
    multiscale = v05.Multiscale(name="raw", axes=axes, datasets=datasets)
    write_image(path, v05.Image(multiscales=[multiscale]), levels, writer="zarr")


@pytest.mark.parametrize("write", [_v04, _v05])
def test_levels_and_voxel_size(tmp_path: Path, stack: np.ndarray, write: Any) -> None:
    path = tmp_path / "a.zarr"
    write(path, [stack, stack[:, ::2, ::2]])
    opened = open_stack(path)
    assert opened.voxel_size_nm == pytest.approx((40, 5, 4))
    np.testing.assert_array_equal(opened.data[:], stack)
    small = open_stack(path, level=1)
    assert small.voxel_size_nm == pytest.approx((40, 10, 8))
    np.testing.assert_array_equal(small.section(3), stack[3, ::2, ::2])
    with pytest.raises(ValueError, match=r"a\.zarr: level must be 0\.\.1, got 2"):
        open_stack(path, level=2)
    assert describe(path).items[0].shapes == ((5, 20, 33), (5, 10, 17))


def test_level_that_is_missing(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.zarr"
    _v04(path, [stack, stack[:, ::2, ::2], stack[:, ::4, ::4]])
    shutil.rmtree(path / "1")
    np.testing.assert_array_equal(open_stack(path).data[:], stack)
    assert describe(path).items[0].shapes == ((5, 20, 33), (5, 5, 9))
    shutil.rmtree(path / "0")
    for level, gone in ((None, 0), (0, 0), (1, 1)):
        said = rf"a\.zarr: scale level {gone} is missing; .* level=…: 2 \(5 Z × 5 Y"
        with pytest.raises(AmbiguousFileError, match=said):
            open_stack(path, level=level)
    found = open_stack(path, level=2)
    np.testing.assert_array_equal(found.data[:], stack[:, ::4, ::4])
    with pytest.raises(ValueError, match=r"level must be 2\.\.2, got 3"):
        open_stack(path, level=3)
    shutil.rmtree(path / "2")
    with pytest.raises(
        OSError, match=r"a\.zarr: its scale levels are missing: 0, 1, 2"
    ):
        open_stack(path, level=1)


@pytest.mark.parametrize("shape", [(20, 33, 1), (5, 20, 33, 1), (1, 5, 20, 33)])
def test_axes_of_length_1(
    tmp_path: Path, stack: np.ndarray, shape: tuple[int, ...]
) -> None:
    expected = stack[: 5 if 5 in shape else 1]
    zarr.create_array(tmp_path / "a.zarr", data=expected.reshape(shape))
    np.testing.assert_array_equal(open_stack(tmp_path / "a.zarr").data[:], expected)


@pytest.mark.parametrize("name", ["a.zarr.zip", "a.ozx"])
@pytest.mark.parametrize("inside", ["", "raw/a.zarr"])
def test_zipped(tmp_path: Path, stack: np.ndarray, name: str, inside: str) -> None:
    _v05(tmp_path / "a.zarr", [stack, stack[:, ::2, ::2]])
    with ZipFile(tmp_path / name, "w") as packed:
        for file in (tmp_path / "a.zarr").rglob("*"):
            packed.write(file, Path(inside) / file.relative_to(tmp_path / "a.zarr"))
    opened = open_stack(tmp_path / name)
    assert opened.name == "a"
    assert opened.voxel_size_nm == pytest.approx((40, 5, 4))
    np.testing.assert_array_equal(opened.data[:], stack)
    small = open_stack(tmp_path / name, level=1)
    np.testing.assert_array_equal(small.section(2), stack[2, ::2, ::2])


def test_zip_of_something_else(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("read.me", "no picture")
    with pytest.raises(OSError, match=r"a\.zip: is a zip file without a Zarr in it"):
        open_stack(tmp_path / "a.zip")


def test_zip_that_unpacks_to_much_more(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "a.ozx", "w", ZIP_DEFLATED) as packed:
        packed.writestr("zarr.json", bytes(2**25))
    with pytest.raises(OSError, match=r"a\.ozx: holds zarr\.json, which unpacks to"):
        open_stack(tmp_path / "a.ozx")


def test_scale_of_all_levels_multiplies(tmp_path: Path, stack: np.ndarray) -> None:
    moves = [{"type": "scale", "scale": [1, 2, 3]}]
    _v04(tmp_path / "a.zarr", [stack], coordinateTransformations=moves)
    size = open_stack(tmp_path / "a.zarr").voxel_size_nm
    assert size == pytest.approx((40, 10, 12))


def test_axes_without_units(tmp_path: Path, stack: np.ndarray) -> None:
    axes = [{"name": a, "type": "space"} for a in "zyx"]
    _v04(tmp_path / "a.zarr", [stack], axes)
    assert open_stack(tmp_path / "a.zarr").voxel_size_nm is None


def test_time_and_channel_ask(tmp_path: Path, stack: np.ndarray) -> None:
    values = np.stack(
        [np.stack([stack + 10 * t + c for c in range(2)]) for t in (0, 1)]
    )
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    path = tmp_path / "a.zarr"
    _v04(path, [values], axes)
    with pytest.raises(AmbiguousFileError, match="time="):
        open_stack(path)
    with pytest.raises(AmbiguousFileError, match="channel="):
        open_stack(path, time=1)
    opened = open_stack(path, time=1, channel=1)
    np.testing.assert_array_equal(opened.data[:], stack + 11)
    assert opened.voxel_size_nm == pytest.approx((40, 5, 4))


def test_several_images_ask(tmp_path: Path, stack: np.ndarray) -> None:
    root = tmp_path / "a.zarr"
    zarr.open_group(root, mode="w", zarr_format=2)
    _v04(root / "0", [stack])
    _v04(root / "1", [stack + 1])
    with pytest.raises(AmbiguousFileError, match=r"several images.*'0'.*'1'"):
        open_stack(root)
    np.testing.assert_array_equal(open_stack(root, dataset="1").data[:], stack + 1)


def test_image_beside_its_labels_is_the_default(
    tmp_path: Path, stack: np.ndarray
) -> None:
    root = tmp_path / "a.zarr"
    _v04(root, [stack])
    zarr.open_group(root / "labels", mode="w", zarr_format=2)
    _v04(root / "labels" / "cells", [stack.astype(np.uint32)])
    assert open_stack(root).dtype == np.uint8
    assert open_stack(root, dataset="labels/cells").dtype == np.uint32


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_array(tmp_path: Path, stack: np.ndarray, zarr_format: Any) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=stack, zarr_format=zarr_format)
    np.testing.assert_array_equal(open_stack(tmp_path / "a.zarr").data[:], stack)


def test_known_without_its_ending(tmp_path: Path, stack: np.ndarray) -> None:
    _v05(tmp_path / "raw", [stack])
    np.testing.assert_array_equal(open_stack(tmp_path / "raw").section(1), stack[1])


def test_missing_level_is_told(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.zarr"
    _v04(path, [stack])
    (path / "0" / ".zarray").unlink()
    with pytest.raises(OSError, match=r"a\.zarr"):
        open_stack(path)


def test_damaged_chunk_leaves_the_others(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.zarr"
    _v04(path, [stack])  # chunks of two sections
    (path / "0" / "1.0.0").write_bytes(b"rubbish")
    opened = open_stack(path)
    np.testing.assert_array_equal(opened.section(1), stack[1])
    np.testing.assert_array_equal(opened.section(4), stack[4])
    with pytest.raises(OSError, match=r"a\.zarr, section 2…3: is damaged"):
        opened.section(3)


@pytest.mark.parametrize("notes", ["{", "[]", '{"multiscales": [{}]}', "{}"])
def test_damaged_notes(tmp_path: Path, stack: np.ndarray, notes: str) -> None:
    path = tmp_path / "a.zarr"
    _v04(path, [stack])
    (path / ".zattrs").write_text(notes)
    (path / "0" / ".zarray").write_text("{")
    with pytest.raises(OSError, match=r"a\.zarr"):
        open_stack(path)


def test_no_voxel_size_without_a_scale(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.zarr"
    _v04(path, [stack, stack[:, ::2, ::2]])
    notes = json.loads((path / ".zattrs").read_text())
    for level in notes["multiscales"][0]["datasets"]:
        del level["coordinateTransformations"]
    (path / ".zattrs").write_text(json.dumps(notes))
    assert open_stack(path).voxel_size_nm is None
    assert open_stack(path, level=1).voxel_size_nm is None
    shift = [{"type": "translation", "translation": [1, 2, 3]}]
    notes["multiscales"][0]["datasets"][0]["coordinateTransformations"] = shift
    (path / ".zattrs").write_text(json.dumps(notes))
    assert open_stack(path).voxel_size_nm is None


_AXES = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
_SCALED = [{"type": "scale", "scale": [50, 5]}]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"axes": _AXES, "datasets": []}, "doesn't name its arrays"),
        ({"axes": _AXES}, "doesn't name its arrays"),
        ({"axes": _AXES, "datasets": [0]}, "doesn't name its arrays"),
        ([], "doesn't name its arrays"),
        ({"axes": _AXES, "datasets": [{"path": "../b"}]}, "names an array outside it"),
        ({"axes": _AXES[:2], "datasets": [{"path": "0"}]}, "2 axes, .* array has 3"),
        ({"axes": 3, "datasets": [{"path": "0"}]}, "has 3 axes, but its array has 3"),
        (
            {"datasets": [{"path": "0", "coordinateTransformations": _SCALED}]},
            r"has the scale \[50, 5\], not 3 numbers",
        ),
    ],
)
def test_odd_notes_of_an_image(
    tmp_path: Path, stack: np.ndarray, image: Any, words: str
) -> None:
    path = tmp_path / "a.zarr"
    _v04(path, [stack])
    (path / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
    with pytest.raises(UnreadableError, match=rf"a\.zarr: its OME-Zarr .*{words}"):
        open_stack(path)


@pytest.mark.filterwarnings("ignore:Object at .* is not recognized")  # what zarr sees
@pytest.mark.parametrize(
    ("notes", "words"),
    [
        (None, r"has none of zarr\.json, \.zarray, \.zgroup"),
        ("{", "is damaged: it is no JSON"),
        ("[]", "is damaged: it is no JSON object"),
        ("{}", "has zarr_format None instead of"),
        ('{"zarr_format": 7}', "has zarr_format 7 instead of"),
        ('{"zarr_format": 2}', "lacks 'shape', 'chunks'"),
        ('{"zarr_format": 3}', "has node_type None, which is neither"),
        ('{"zarr_format": 3, "node_type": "array"}', "lacks 'shape', 'data_type'"),
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_damaged_notes_of_an_array(
    tmp_path: Path, stack: np.ndarray, zarr_format: Any, notes: str | None, words: str
) -> None:
    other = notes is not None and f'"zarr_format": {5 - zarr_format}' in notes
    if other:  # each of the two has its own
        words = f"has zarr_format {5 - zarr_format} instead of {zarr_format}"
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=stack, zarr_format=zarr_format)
    own = path / (".zarray" if zarr_format == 2 else "zarr.json")
    own.unlink() if notes is None else own.write_text(notes)
    with pytest.raises(UnreadableError, match=rf"a\.zarr: .*{words}"):
        open_stack(path)


@pytest.mark.parametrize("name", ["shape", "chunks", "dtype", "compressor", "order"])
@pytest.mark.parametrize("value", [None, -1, "odd", [0, -1], {"id": "unheard of"}])
def test_odd_values_end_in_one_line(
    tmp_path: Path, stack: np.ndarray, name: str, value: Any
) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=stack, zarr_format=2)
    notes = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**notes, name: value}))
    words = "a.zarr, fine"
    try:
        open_stack(path).section(0)
    except UnreadableError as e:
        words = str(e)
    assert words.startswith("a.zarr")
    assert "\n" not in words


class Trap:
    """Makes a folder if it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


PICKLE = {"id": "pickle", "protocol": 4}


@pytest.mark.parametrize(
    "codecs",
    [
        {"compressor": PICKLE},
        {"filters": [PICKLE]},
        {"filters": [{"id": "zlib", "level": 1}], "compressor": PICKLE},
        {"filters": [PICKLE], "dtype": "|O"},
    ],
)
def test_pickled_chunks_are_refused_and_not_run(
    tmp_path: Path, stack: np.ndarray, codecs: dict[str, Any]
) -> None:
    path, trace = tmp_path / "a.zarr", tmp_path / "trace"
    _v04(path, [stack])
    notes = path / "0" / ".zarray"
    notes.write_text(json.dumps(json.loads(notes.read_text()) | codecs))
    for chunk in (path / "0").glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Trap(trace)))
    with pytest.raises(UnreadableError, match=r"a\.zarr: its Zarr metadata can't"):
        open_stack(path).section(0)
    assert not trace.exists()


def test_pickled_chunks_would_leave_a_trace(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "trace")))
    assert (tmp_path / "trace").is_dir()
