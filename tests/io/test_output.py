"""Outputs that would replace an input or each other are known before any work."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from napari_emseg.core.stack import Stack
from napari_emseg.io import open_sink, open_stack, save_stack
from napari_emseg.io.formats import OUTPUT_KINDS, OutputKind
from napari_emseg.io.output import check_distinct, check_output, input_paths


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_apart_is_allowed(here: Path) -> None:
    (here / "in.tif").touch()
    check_distinct([Path("out.tif"), Path("out.csv")], [Path("in.tif")])


@pytest.mark.parametrize(
    "spelling", ["in.tif", "./a/../in.tif", "link.tif", "a/in.tif"]
)
def test_an_input_is_known_by_any_of_its_names(here: Path, spelling: str) -> None:
    (here / "in.tif").touch()
    (here / "link.tif").symlink_to("in.tif")
    (here / "a").mkdir()
    os.link(here / "in.tif", here / "a/in.tif")
    for output, given in (("in.tif", spelling), (spelling, "in.tif")):
        with pytest.raises(ValueError, match="is the input"):
            check_distinct([Path("o.csv"), Path(output)], [Path("w"), Path(given)])


@pytest.mark.parametrize("other", ["o.zarr", "./o.zarr", "o.zarr/t.csv", "a/../o.zarr"])
def test_two_outputs_need_two_places(here: Path, other: str) -> None:
    for pair in ([Path("o.zarr"), Path(other)], [Path(other), Path("o.zarr")]):
        with pytest.raises(ValueError, match="both to be written"):
            check_distinct(pair, [])


def test_nothing_is_written_into_a_zarr_that_is_read_or_around_it(here: Path) -> None:
    made = save_stack(here / "in.zarr", np.zeros((2, 8, 8), np.uint8))
    given = input_paths(open_stack(made))
    for inner in ("in.zarr/out.tif", "in.zarr/deep/out.zarr"):
        with pytest.raises(ValueError, match="lies in the input"):
            check_distinct([Path(inner)], given)
    with pytest.raises(ValueError, match="holds the input"):
        check_distinct([here], given)


@pytest.mark.parametrize(
    ("name", "refused"),
    [("out.tif", True), ("out.H5", True), ("t.csv", False), ("out.zarr", False)],
)
def test_a_folder_of_sections_gets_no_further_section(
    here: Path, name: str, refused: bool
) -> None:
    (here / "in").mkdir()
    for z in range(2):
        save_stack(here / f"in/s{z}.tif", np.zeros((1, 8, 8), np.uint8))
    given = input_paths(open_stack("in"))
    check_distinct([Path("in/results") / name], given)
    if refused:
        with pytest.raises(ValueError, match="lies in the input in"):
            check_distinct([Path("in") / name], given)
    else:
        check_distinct([Path("in") / name], given)
    with pytest.raises(ValueError, match="is the input"):
        check_distinct([Path("in/s1.tif")], given)
    with pytest.raises(ValueError, match="is the input"):
        check_distinct([Path("in/s1.tif")], input_paths(open_stack("in/*.tif")))


KINDS = [kind for kind in OUTPUT_KINDS if kind.membranes and not kind.needs_source]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_a_layer_holds_is_refused_before_any_work(
    here: Path, held: set[Path], kind: OutputKind
) -> None:
    """Of all formats, as on Windows, where what is mapped can't be replaced."""
    if kind.extra:
        pytest.importorskip(kind.extra[0])
    path = here / f"old{kind.suffixes[0]}"
    dtype = np.dtype(np.uint8 if "uint8" in kind.dtypes else kind.dtypes[0])
    before = np.arange(2 * 8 * 9).reshape(2, 8, 9).astype(dtype)
    save_stack(path, Stack(before), format=kind.name)
    there = sorted(here.rglob("*"))
    held.add(path)
    with pytest.raises(PermissionError, match=r"old\.\w+ can't be replaced .*close it"):
        open_sink(path, before.shape, dtype, overwrite=True, format=kind.name)
    assert sorted(here.rglob("*")) == there
    held.clear()
    save_stack(path, Stack(before[:1]), format=kind.name, overwrite=True)


def test_what_nobody_holds_stays_as_it_is(here: Path) -> None:
    (here / "a.tif").write_bytes(b"old")
    before = (here / "a.tif").stat()
    check_output(here / "a.tif", overwrite=True)
    after = (here / "a.tif").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
