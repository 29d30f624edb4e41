"""The table of output formats, and what all of them have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from written_tables import written

from napari_emseg.cli import main
from napari_emseg.core.records import Provenance, SectionDone
from napari_emseg.core.sinks import ArraySink, Kept
from napari_emseg.core.stack import Stack
from napari_emseg.io import (
    OUTPUT_KINDS,
    OutputFormat,
    OutputKind,
    iter_save,
    open_sink,
    open_stack,
    output_format,
    output_kind,
    read_provenance,
    save_stack,
)
from napari_emseg.widgets.save_row import cells_choices, picture_choices

SIZE = (50.0, 5.0, 4.0)
CELLS = Provenance(kind="cells", source="em.tif", settings={"a": "b  c", "é": [1, 2]})

every = pytest.mark.parametrize("kind", OUTPUT_KINDS, ids=lambda kind: kind.name)
readable = pytest.mark.parametrize(
    "kind",
    [kind for kind in OUTPUT_KINDS if kind.readable],
    ids=lambda kind: kind.name,
)


@pytest.fixture
def cells(stack: np.ndarray) -> np.ndarray:
    return stack.astype(np.uint32)


def test_the_table_has_every_format_of_the_option() -> None:
    assert {kind.name for kind in OUTPUT_KINDS} == set(get_args(OutputFormat))


@every
def test_each_format_is_found_by_a_name_of_its_own_or_shares_it(
    kind: OutputKind,
) -> None:
    shared = {"fiji": "tiff", "zarr-3d": "zarr", "zarr-0.4": "zarr"}
    found = output_format(f"a{kind.suffixes[0].upper()}")
    assert found == shared.get(kind.name, kind.name)


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match=r"one of tiff, fiji.*got 'png'"):
        output_kind("png")  # type: ignore[arg-type]


def test_what_takes_a_type_is_said(tmp_path: Path) -> None:
    values = np.zeros((1, 4, 4), np.float64)
    ways = r"write OME-Zarr 0\.5 \(\.zarr\) or .* OME-Zarr 0\.4 .* or HDF5 \(\.h5\)$"
    for name in ("a.tif", "a.mrc"):
        with pytest.raises(ValueError, match=rf"output takes .*, got float64; {ways}"):
            save_stack(tmp_path / name, values)
    with pytest.raises(
        ValueError, match=r"; write HDF5 \(\.h5\), which Fiji opens too$"
    ):
        save_stack(tmp_path / "a.tif", values, format="fiji")
    with pytest.raises(ValueError, match=r"got complex64; convert the values$"):
        open_sink(tmp_path / "a.h5", (1, 4, 4), np.complex64)
    assert list(tmp_path.iterdir()) == []


@readable
def test_a_format_holds_what_the_table_says(tmp_path: Path, kind: OutputKind) -> None:
    for name in kind.dtypes:
        values = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(name)
        path = tmp_path / f"{name}{kind.suffixes[0]}"
        save_stack(path, values, format=kind.name)
        np.testing.assert_array_equal(open_stack(path).data[:], values, str(path))


@every
def test_a_missing_package_is_named(
    kind: OutputKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_emseg.io.formats.find_spec", lambda name: None)
    if kind.extra is None:
        assert kind.missing == ""
        return
    with pytest.raises(ValueError, match=r"needs tensorstore: pip install napari"):
        kind.sink_class()


@every
def test_sections_are_written_one_by_one_and_nothing_else_is_left(
    tmp_path: Path, cells: np.ndarray, kind: OutputKind
) -> None:
    path = tmp_path / f"a{kind.suffixes[0]}"
    work = iter_save(path, Stack(cells, voxel_size_nm=SIZE), format=kind.name)
    records = [record for record in work if isinstance(record, SectionDone)]
    assert [record.z for record in records] == [0, 1, 2, 3, 4]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@readable
@pytest.mark.parametrize("size", [SIZE, (None, 5.0, 4.0), None])
def test_values_size_and_provenance_come_back(
    tmp_path: Path, cells: np.ndarray, kind: OutputKind, size: Any
) -> None:
    path = tmp_path / f"a{kind.suffixes[0]}"
    save_stack(path, cells, voxel_size_nm=size, provenance=CELLS, format=kind.name)
    found = open_stack(path)
    np.testing.assert_array_equal(found.data[:], cells)
    assert found.voxel_size_nm == (None if size is None else pytest.approx(size))
    assert read_provenance(path) == CELLS


@readable
def test_settings_that_are_known_at_the_end_are_told(
    tmp_path: Path, cells: np.ndarray, kind: OutputKind
) -> None:
    path = tmp_path / f"a{kind.suffixes[0]}"
    with open_sink(
        *(path, cells.shape, cells.dtype),
        voxel_size_nm=SIZE,
        provenance=CELLS,
        format=kind.name,
    ) as sink:
        for z, section in enumerate(cells):
            sink.write(z, section)
        sink.note_settings({"a": "another & <longer> one", "b": 'said "anew"'})
    settings = {**CELLS.settings, "a": "another & <longer> one", "b": 'said "anew"'}
    assert read_provenance(path) == CELLS.model_copy(update={"settings": settings})
    np.testing.assert_array_equal(open_stack(path).data[:], cells)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@every
def test_existing_output_is_refused_and_replaced_if_told(
    tmp_path: Path, cells: np.ndarray, kind: OutputKind
) -> None:
    path = tmp_path / f"a{kind.suffixes[0]}"
    stack = Stack(cells, voxel_size_nm=SIZE)
    save_stack(path, stack, format=kind.name)
    with pytest.raises(FileExistsError, match="exists already"):
        save_stack(path, stack, format=kind.name)
    save_stack(path, stack, format=kind.name, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@every
def test_a_folder_of_something_else_is_never_replaced(
    tmp_path: Path, cells: np.ndarray, kind: OutputKind
) -> None:
    path = tmp_path / f"a{kind.suffixes[0]}"
    path.mkdir()
    (path / "info").write_text("my notes")
    with pytest.raises(FileExistsError, match="folder of something else"):
        save_stack(path, cells, voxel_size_nm=SIZE, format=kind.name, overwrite=True)
    assert (path / "info").read_text() == "my notes"


@every
def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path,
    cells: np.ndarray,
    kind: OutputKind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    path = tmp_path / f"a{kind.suffixes[0]}"
    with pytest.raises(PermissionError, match="can't be written to"):
        save_stack(path, cells, voxel_size_nm=SIZE, format=kind.name)


@every
def test_a_run_that_stops_leaves_a_part_only(
    tmp_path: Path, cells: np.ndarray, kind: OutputKind
) -> None:
    path = tmp_path / f"a{kind.suffixes[0]}"
    work = iter_save(path, Stack(cells, voxel_size_nm=SIZE), format=kind.name)
    while not isinstance(next(work), SectionDone):
        pass
    work.close()
    assert [p.suffix for p in tmp_path.iterdir()] == [".part"]


@every
def test_where_finished_sections_are_is_told(
    tmp_path: Path, cells: np.ndarray, kind: OutputKind
) -> None:
    path = tmp_path / f"a{kind.suffixes[0]}"
    stack, kept = Stack(cells, voxel_size_nm=SIZE), list[Kept]()
    for done in (0, 2):
        work = iter_save(path, stack, format=kind.name, on_kept=kept.append)
        while done:
            done -= isinstance(next(work), SectionDone)
        work.close()
    (left,) = tmp_path.iterdir()
    assert kept == [Kept(left, 2, 5)]


@every
def test_a_damaged_section_ends_it_without_a_whole_file(
    tmp_path: Path, cells: np.ndarray, kind: OutputKind
) -> None:
    class Damaged:
        shape, dtype = cells.shape, cells.dtype

        def __getitem__(self, z: int) -> np.ndarray:
            if z == 3:
                msg = "section 3: is damaged"
                raise OSError(msg)
            return cells[z]

    path = tmp_path / f"a{kind.suffixes[0]}"
    with pytest.raises(OSError, match="section 3: is damaged"):
        save_stack(path, Damaged(), voxel_size_nm=SIZE, format=kind.name)
    assert not path.exists()


@readable
def test_any_order_and_unwritten_sections(
    tmp_path: Path, cells: np.ndarray, kind: OutputKind
) -> None:
    path = tmp_path / f"a{kind.suffixes[0]}"
    with open_sink(path, cells.shape, cells.dtype, format=kind.name) as sink:
        for z in (4, 0, 2):
            sink.write(z, cells[z])
    expected = cells.copy()
    expected[[1, 3]] = 0
    np.testing.assert_array_equal(open_stack(path).data[:], expected)


PROBABILITIES = Provenance(kind="membrane", weights="w", threshold=0.4)
pictures = pytest.mark.parametrize(
    "kind",
    [kind for kind in OUTPUT_KINDS if not kind.cells_only],
    ids=lambda kind: kind.name,
)


@pictures
def test_probabilities_as_they_are_and_as_bytes(
    tmp_path: Path, stack: np.ndarray, kind: OutputKind
) -> None:
    values = (stack / np.float32(255)).astype(np.float32)
    path = tmp_path / f"a{kind.suffixes[0]}"
    save_stack(path, values, provenance=PROBABILITIES, format=kind.name)
    np.testing.assert_array_equal(open_stack(path).data[:], values, strict=True)
    save_stack(
        path,
        values,
        provenance=PROBABILITIES,
        format=kind.name,
        stored="uint8",
        overwrite=True,
    )
    np.testing.assert_array_equal(open_stack(path).data[:], stack, strict=True)
    made = read_provenance(path)
    assert made is not None
    assert (made.scale, made.threshold) == (255, 0.4)


@pictures
def test_a_sink_makes_bytes_too(
    tmp_path: Path, stack: np.ndarray, kind: OutputKind
) -> None:
    path = tmp_path / f"a{kind.suffixes[0]}"
    with open_sink(
        path, stack.shape, np.float32, format=kind.name, stored="uint8"
    ) as sink:
        for z in range(5):
            sink.write(z, stack[z] / np.float32(255))
    np.testing.assert_array_equal(open_stack(path).data[:], stack, strict=True)


@pytest.mark.parametrize("wrong", [-0.5, 1.5, np.inf])
def test_values_that_are_no_probabilities(tmp_path: Path, wrong: float) -> None:
    values = np.full((2, 3, 4), 0.5, np.float32)
    values[1, 2, 3] = wrong
    with pytest.raises(ValueError, match=r"section 1 has values from .* 0 to 1"):
        save_stack(tmp_path / "a.tif", values, provenance=PROBABILITIES)
    assert not (tmp_path / "a.tif").exists()


def test_unknown_probabilities_need_float(tmp_path: Path) -> None:
    values = np.full((2, 3, 4), 0.5, np.float32)
    values[1, :2] = np.nan
    path = save_stack(tmp_path / "a.tif", values, provenance=PROBABILITIES)
    np.testing.assert_array_equal(open_stack(path).data[:], values)
    with pytest.raises(ValueError, match=r"section 1 has 8 px without a probability"):
        save_stack(tmp_path / "b.tif", values, stored="uint8")


def test_only_probabilities_become_bytes(tmp_path: Path, stack: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"only probabilities .* not uint8"):
        save_stack(tmp_path / "a.tif", stack, stored="uint8")


class ToySink(ArraySink):
    """Writes all sections as NumPy's text."""

    def __init__(self, path: Path, shape: Any, dtype: Any, options: Any) -> None:
        super().__init__(shape, dtype)
        self._path = path

    def close(self) -> Path:
        np.savetxt(self._path, self.data.reshape(len(self.data), -1), fmt="%d")
        return self._path


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[OutputKind]:
    """A format of one's own: a sink, and one entry in the table."""
    module = ModuleType("napari_emseg.io.toy_sink")
    module.ToySink = ToySink  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kind = OutputKind(
        name="toy",
        title="Toy",
        opens_in="a text editor",
        suffixes=(".toy",),
        dtypes=("uint32",),
        sink="toy_sink:ToySink",
        membranes="",
        cells="32 bit",
        voxel_size="none",
        readable=False,
    )
    OUTPUT_KINDS.append(kind)
    yield kind
    OUTPUT_KINDS.remove(kind)


def test_a_format_of_ones_own_is_written_by_its_name(
    toy: OutputKind, cells: np.ndarray, tmp_path: Path
) -> None:
    source = save_stack(tmp_path / "cells.tif", cells, provenance=CELLS)
    assert main(["export", str(source), str(tmp_path / "cells.toy")]) == 0
    written = np.loadtxt(tmp_path / "cells.toy", np.uint32)
    np.testing.assert_array_equal(written.reshape(cells.shape), cells)


def test_pages_manifest_and_dialogs_have_a_format_of_ones_own(toy: OutputKind) -> None:
    row = "| `toy` | `.toy` | a text editor | – | 32 bit | none |"
    assert row in written("docs/formats.md")
    found = yaml.safe_load(written("src/napari_emseg/napari.yaml"))
    endings = {
        writer["layer_types"][0]: writer["filename_extensions"]
        for writer in found["contributions"]["writers"]
    }
    assert ".toy" in endings["labels"]
    assert ".toy" not in endings["image"]
    offered = [choice.words for choice in cells_choices()]
    assert "Toy – a text editor" in offered
    assert "Toy – a text editor, with the EM" not in offered
    assert not any("Toy" in choice.words for choice in picture_choices())
