"""What a stack is known by, and that it is noticed when its files change or go."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import tifffile
import zarr

from napari_emseg.core.records import Record, SectionDone, drain
from napari_emseg.core.stack import Stack
from napari_emseg.io import describe, iter_save, open_stack, save_stack
from napari_emseg.io.fingerprint import (
    LEFT_OUT,
    NO_CELLS,
    LossNotes,
    SourceChangedError,
    describe_losses,
    describe_sections,
    fingerprint,
    require_unchanged,
    source_state,
)


def test_few_lost_sections_have_a_line_each_and_many_one() -> None:
    few = {3: "cut short", 7: "empty"}
    assert describe_losses(LEFT_OUT, few) == [
        "section 3 is left out: cut short",
        "section 7 is left out: empty",
    ]
    alike = dict.fromkeys([9, *range(3, 7)], "cut short")
    said = "sections 3…6, 9 are left out (5 in all): cut short"
    assert describe_losses(LEFT_OUT, alike) == [said]
    unlike = {z: f"page {z}" for z in range(3, 203)}
    said = "sections 3…202 are left out (200 in all), such as 3: page 3; 4: page 4; 5: "
    assert describe_losses(LEFT_OUT, unlike) == [f"{said}page 5"]
    parts = {f"z {z}…{z + 1}": "no memory" for z in range(0, 8, 2)}
    said = "parts of the stack have no cells (4 in all): no memory"
    assert describe_losses(NO_CELLS, parts) == [said]


def test_lost_sections_are_told_as_they_come_until_there_are_many() -> None:
    notes = LossNotes(LEFT_OUT)
    told = [len(list(notes.add(z, "cut short"))) for z in range(6)]
    assert told == [1, 1, 1, 0, 0, 0]
    (last,) = notes.rest()
    assert last.message == "sections 0…5 are left out (6 in all): cut short"
    few = LossNotes(LEFT_OUT)
    assert [len(list(few.add(z, "cut short"))) for z in range(3)] == [1, 1, 1]
    assert list(few.rest()) == []


def touch(path: Path) -> None:
    """Change the time of change as writing would, however coarse the clock is."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


def change(path: Path) -> None:
    """Flip a byte, so that the size stays; time passes, however coarse the clock is."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    touch(path)


def folder_of(path: Path, stack: np.ndarray) -> Path:
    path.mkdir()
    for z, section in enumerate(stack):
        tifffile.imwrite(path / f"s{z}.tif", section)
    return path


@pytest.mark.parametrize("name", ["a.tif", "a.zarr", "a.h5", "a.mrc", "sections"])
def test_a_source_that_stays_is_no_error(tmp_path, stack, name) -> None:
    path = tmp_path / name
    made = folder_of(path, stack) if name == "sections" else save_stack(path, stack)
    opened = open_stack(made)
    with require_unchanged(opened):
        assert opened.data[:].any()


@pytest.mark.parametrize("name", ["a.tif", "a.zarr", "a.h5", "a.mrc", "sections"])
def test_a_source_that_goes_away_is_named(tmp_path, stack, name) -> None:
    path = tmp_path / name
    made = folder_of(path, stack) if name == "sections" else save_stack(path, stack)
    opened = open_stack(made)
    with (
        pytest.raises(SourceChangedError, match=f"{name} is no longer there"),
        require_unchanged(opened),
    ):
        made.rename(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("name", "inside"),
    [("a.tif", ""), ("a.zarr", "0/c/2/0/0"), ("a.zarr", "zarr.json"), ("s", "s3.tif")],
)
def test_a_source_that_changes_is_named(tmp_path, stack, name, inside) -> None:
    path = tmp_path / name
    made = folder_of(path, stack) if name == "s" else save_stack(path, stack)
    opened = open_stack(made)
    with (
        pytest.raises(SourceChangedError, match=f"{name} was changed or replaced"),
        require_unchanged(opened),
    ):
        change(made / inside if inside else made)


@pytest.mark.parametrize("name", ["a.tif", "a.zarr", "s", "s/s*.tif"])
def test_a_source_that_is_merely_touched_is_the_same(tmp_path, stack, name) -> None:
    path = tmp_path / name
    made = folder_of(tmp_path / "s", stack) if name[0] == "s" else None
    opened = open_stack(save_stack(path, stack) if made is None else path)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    with require_unchanged(opened):
        for file in files:
            touch(file)
            shutil.copyfile(file, tmp_path / "copy")
            shutil.copyfile(tmp_path / "copy", file)  # the same bytes once more
    with pytest.raises(SourceChangedError), require_unchanged(opened):
        change(files[-1])


def test_of_a_large_source_the_times_count(tmp_path, stack, monkeypatch) -> None:
    """To read all of it before a run would take as long as the run."""
    opened = open_stack(save_stack(tmp_path / "a.tif", stack))
    monkeypatch.setattr("napari_emseg.io.fingerprint.MOST_COMPARED", stack.nbytes)
    with pytest.raises(SourceChangedError), require_unchanged(opened):
        touch(tmp_path / "a.tif")


def test_a_section_that_goes_away_is_named(tmp_path, stack) -> None:
    opened = open_stack(folder_of(tmp_path / "s", stack))
    with (
        pytest.raises(SourceChangedError, match=r"s: s3\.tif is no longer there"),
        require_unchanged(opened),
    ):
        (tmp_path / "s" / "s3.tif").unlink()


def test_labels_that_are_added_to_an_image_change_nothing(tmp_path, stack) -> None:
    opened = open_stack(save_stack(tmp_path / "a.zarr", stack))
    with require_unchanged(opened):
        zarr.open_group(tmp_path / "a.zarr" / "labels", mode="w")


@pytest.mark.parametrize("foreign", ["notes.txt", ".DS_Store", "Thumbs.db"])
@pytest.mark.parametrize("kind", ["sections", "glob", "a.zarr"])
def test_a_foreign_file_that_comes_beside_sections_changes_nothing(
    tmp_path, stack, kind, foreign
) -> None:
    folder = tmp_path / "made"
    if kind == "a.zarr":
        save_stack(folder, stack, format="zarr")
    else:
        folder_of(folder, stack)
    opened = open_stack(folder / "s*.*" if kind == "glob" else folder)
    before = fingerprint(str(folder), opened)
    with require_unchanged(opened):
        (folder / foreign).write_text("of somebody else")
    assert fingerprint(str(folder), opened) == before
    named = (p for p in folder.rglob("*") if p.name in ("s1.tif", "0"))
    read = next(p for p in named if p.is_file())
    with pytest.raises(SourceChangedError), require_unchanged(opened):
        change(read)


def test_a_section_that_comes_in_mid_run_is_not_one_of_those_read(
    tmp_path, stack
) -> None:
    opened = open_stack(folder_of(tmp_path / "made", stack))
    with require_unchanged(opened):
        tifffile.imwrite(tmp_path / "made" / "s9.tif", stack[0])


def test_arrays_come_from_no_file(stack) -> None:
    assert source_state(Stack(stack)) is None
    assert source_state(Stack(stack, source="/no/such/file.tif")) is None


def test_another_error_is_not_hidden(tmp_path, stack) -> None:
    made = save_stack(tmp_path / "a.tif", stack)

    def fail() -> None:
        with require_unchanged(open_stack(made)):
            made.unlink()
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def test_what_is_saved_of_a_source_that_changed_gets_no_name(tmp_path, stack) -> None:
    made = save_stack(tmp_path / "a.zarr", stack)
    work = iter_save(tmp_path / "b.tif", open_stack(made))

    def change_in_mid_run(record: Record) -> None:
        if isinstance(record, SectionDone) and record.done == 2:
            change(made / "zarr.json")

    with pytest.raises(SourceChangedError, match="may be wrong"):
        drain(work, change_in_mid_run)
    assert not (tmp_path / "b.tif").exists()


def test_fingerprints_tell_stacks_apart(tmp_path, stack) -> None:
    found = set()
    for nth, values in enumerate((stack, stack + 1)):
        for name in ("a.tif", "a.zarr"):
            path = tmp_path / f"{nth}" / name
            path.parent.mkdir(exist_ok=True)
            save_stack(path, values)
            digits = fingerprint(str(path), open_stack(path))
            assert digits == fingerprint(str(path), open_stack(path))
            found.add(digits)
    assert len(found) == 4


def test_a_glob_has_a_fingerprint(tmp_path, stack) -> None:
    folder_of(tmp_path / "s", stack)
    place = str(tmp_path / "s" / "*.tif")
    before = fingerprint(place, open_stack(place))
    change(tmp_path / "s" / "s1.tif")
    assert fingerprint(place, open_stack(place)) != before


def test_sections_in_words() -> None:
    assert describe_sections([]) == ""
    assert describe_sections([4]) == "section 4"
    assert describe_sections([9, 1, 2, 3]) == "sections 1…3, 9"


def test_a_zarr_whose_store_is_gone_is_unreadable(tmp_path, stack) -> None:
    made = save_stack(tmp_path / "a.zarr", stack)
    opened = open_stack(made)
    shutil.move(made, tmp_path / "b.zarr")
    with pytest.raises(OSError, match="section 2: the store is no longer there"):
        opened.section(2)
    with pytest.raises(OSError, match="no longer there"):
        opened.data[2, 3:5, 3:5]
    shutil.move(tmp_path / "b.zarr", made)
    np.testing.assert_array_equal(opened.section(2), stack[2])


def test_a_missing_chunk_of_a_zarr_that_is_there_holds_the_fill_value(
    tmp_path, stack
) -> None:
    made = save_stack(tmp_path / "a.zarr", stack)
    shutil.rmtree(made / "0" / "c" / "2")
    opened = open_stack(made)
    assert not opened.section(2).any()
    np.testing.assert_array_equal(opened.section(3), stack[3])


def test_a_zarr_that_is_out_of_reach_is_unreadable(stack) -> None:
    store = zarr.storage.FsspecStore.from_url("memory://a.zarr")
    array = zarr.create_array(
        store, data=stack, chunks=(1, 20, 33), fill_value=0, overwrite=True
    )
    opened = open_stack("memory://a.zarr")
    np.testing.assert_array_equal(opened.section(1), stack[1])
    state = source_state(opened)
    fsspec.filesystem("memory").rm("/a.zarr", recursive=True)
    with pytest.raises(OSError, match="can't be reached"):
        opened.section(2)
    assert source_state(opened) != state
    assert array.shape == stack.shape


def test_a_part_of_a_virtual_dataset_that_is_gone_is_unreadable(
    tmp_path, stack
) -> None:
    layout = h5py.VirtualLayout(stack.shape, stack.dtype)
    for z, section in enumerate(stack):
        with h5py.File(tmp_path / f"s{z}.h5", "w") as file:
            file["d"] = section
        layout[z] = h5py.VirtualSource(f"s{z}.h5", "d", section.shape)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    opened = open_stack(tmp_path / "all.h5")
    np.testing.assert_array_equal(opened.data[:], stack)
    with (
        pytest.raises(SourceChangedError, match=r"s3\.h5 is no longer there"),
        require_unchanged(opened),
    ):
        (tmp_path / "s3.h5").unlink()
    with pytest.raises(OSError, match=r"section 3: a part of it lies in .*s3\.h5"):
        opened.section(3)
    np.testing.assert_array_equal(opened.section(2), stack[2])
    again = open_stack(tmp_path / "all.h5")
    with pytest.raises(OSError, match=r"s3\.h5, which is not there"):
        again.section(3)


@pytest.mark.parametrize("source", ["s.h5", "through.h5", "."])
def test_a_virtual_dataset_without_its_source_dataset_is_unreadable(
    tmp_path, stack, source
) -> None:
    def mapped(file, name):
        layout = h5py.VirtualLayout(stack.shape, stack.dtype)
        for z in range(2):
            layout[z] = h5py.VirtualSource(name, "gone", stack.shape)[z]
        layout[2:] = h5py.VirtualSource("s.h5", "d", stack.shape)[2:]
        file.create_virtual_dataset("gone" if name == "s.h5" else "raw", layout)

    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["d"] = stack
    with h5py.File(tmp_path / "through.h5", "w") as file:
        mapped(file, "s.h5")
    with h5py.File(tmp_path / "all.h5", "w") as file:
        mapped(file, source)
    (key,) = (item.key for item in describe(tmp_path / "all.h5").items)
    opened = open_stack(tmp_path / "all.h5", dataset=key)
    np.testing.assert_array_equal(opened.section(4), stack[4])
    with pytest.raises(OSError, match=r"section 1: .*dataset gone of .* has none such"):
        opened.section(1)
