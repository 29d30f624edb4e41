"""Projects from somebody else: nothing outside of the folder is written or deleted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from thin import thin_weights

from napari_emseg.core.paths import UnsafePathError
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, save_stack
from napari_emseg.io.errors import UnreadableError
from napari_emseg.project import Project
from napari_emseg.project.folder import keep_weights
from napari_emseg.proofreading import Change, Edit

WHOLE = slice(0, 40), slice(0, 50)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user's own."""
    mine = tmp_path / "mine"
    (mine / "folder").mkdir(parents=True)
    (mine / "file").write_text("precious")
    (mine / "folder" / "thesis").write_text("precious")
    return mine


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A project, which its maker may have changed since."""
    values = np.random.default_rng(0).integers(0, 255, (3, 40, 50), np.uint8)
    stack = open_stack(save_stack(tmp_path / "em.tif", Stack(values)))
    Project.create(tmp_path / "theirs.emseg", stack).close()
    return tmp_path / "theirs.emseg"


@pytest.fixture(autouse=True)
def untouched(mine: Path, theirs: Path):
    """Whatever happens, nothing of the user's changes."""
    before = contents(mine)
    yield
    assert contents(mine) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        if path.is_file()
        else b""
        for path in folder.rglob("*")
    }


def an_edit() -> Edit:
    change = Change.between(
        "corrections",
        0,
        WHOLE,
        np.zeros((40, 50), np.uint8),
        np.ones((40, 50), np.uint8),
    )
    return Edit("paint", "painted", (change,))


@pytest.mark.parametrize(
    "name",
    [
        "{mine},file@0",
        "{mine},file",
        "..,mine,file",
        "..,mine,file@0",
        "..,mine,new,folder,file",
        "cells.zarr,..,..,mine,file",
        "weights,x.safetensors",
        "project.json.part",
        "Project.json",
        "cells.zarr,zarr.json",
        "cells.zarr,c,0,0",
        "cells.zarr,c,0,0,0,0",
        "cells.zarr,c,0,0,..",
        "cells.zarr,c,-1,0,0",
        "membranes.zarr,c,0,0,0",
        "edits.jsonl@",
        "edits.jsonl@x",
        "edits.jsonl@-1",
        "edits.jsonl@99999999",
        "edits.jsonl@9999999999999999999999",
        "lock",
        "C:,x",
    ],
)
def test_only_what_a_save_writes_is_moved(mine: Path, theirs: Path, name: str) -> None:
    staged = theirs / "staged"
    staged.mkdir()
    (staged / "edits.jsonl@0").write_text("")
    (staged / "review.json").write_text("taken over, if all were good")
    odd = name.format(mine=str(mine).replace("/", ","))
    (staged / odd).write_text("evil")
    (theirs / "holder.json").unlink(missing_ok=True)
    before = contents(theirs)
    with pytest.raises(UnsafePathError) as refused:
        Project(theirs)
    assert str(theirs) in str(refused.value)
    assert "\n" not in str(refused.value)
    after = contents(theirs)
    assert {k: after[k] for k in before} == before, "nothing is moved at all"


@pytest.mark.parametrize("target", ["file", "folder", "nowhere"])
@pytest.mark.parametrize("name", ["lock", "holder.json"])
def test_with_a_link_for_what_opening_writes_it_only_reads(
    mine: Path, theirs: Path, name: str, target: str
) -> None:
    (theirs / name).unlink(missing_ok=True)
    (theirs / name).symlink_to(mine / target)
    with Project(theirs) as opened:
        assert opened.read_only
        assert "is a link to" in opened.why_read_only


@pytest.mark.parametrize("target", ["file", "folder", "nowhere"])
def test_a_link_for_what_is_staged_is_refused(
    mine: Path, theirs: Path, target: str
) -> None:
    (theirs / "staged").symlink_to(mine / target)
    with pytest.raises(UnsafePathError, match="is a link to"):
        Project(theirs)


def test_a_staged_link_is_refused(mine: Path, theirs: Path) -> None:
    (theirs / "staged").mkdir()
    (theirs / "staged" / "review.json").symlink_to(mine / "file")
    with pytest.raises(UnsafePathError, match="no regular file"):
        Project(theirs)
    (theirs / "staged" / "review.json").unlink()
    (theirs / "staged" / "review.json").mkdir()
    with pytest.raises(UnsafePathError, match="no regular file"):
        Project(theirs)


@pytest.mark.parametrize("target", ["file", "folder", "nowhere"])
def test_a_link_in_the_way_of_saving_is_removed(
    mine: Path, theirs: Path, target: str
) -> None:
    (theirs / "staged.part").symlink_to(mine / target)
    with Project(theirs) as project:
        project.do(an_edit())
    with Project(theirs) as project:
        assert (project.section("corrections", 0) == 1).all()


@pytest.mark.parametrize(
    "name",
    ["project.json", "review.json", "edits.jsonl", "cells.zarr", "weights"],
)
def test_what_is_a_link_is_only_read(theirs: Path, name: str) -> None:
    (theirs / name).rename(theirs.parent / "kept")
    (theirs / name).symlink_to(theirs.parent / "kept")
    with Project(theirs) as project:
        assert project.read_only
        assert f"{name} is a link to" in project.why_read_only


def test_saving_through_a_link_deeper_in_fails_and_says_so(
    mine: Path, theirs: Path
) -> None:
    (theirs / "corrections.zarr" / "c").symlink_to(mine)
    project = Project(theirs)
    project.do(an_edit())
    with pytest.raises(OSError, match="c is a link to"):
        project.close()


def test_weights_are_not_kept_behind_a_link(
    mine: Path, theirs: Path, tmp_path: Path
) -> None:
    (theirs / "weights").rmdir()
    (theirs / "weights").symlink_to(mine / "folder")
    with pytest.raises(OSError, match="is a link to"):
        keep_weights(theirs, thin_weights(tmp_path))


@pytest.mark.parametrize("name", ["project.json", "review.json", "edits.jsonl"])
@pytest.mark.skipif(os.name == "nt", reason="has no such files")
def test_pipes_and_devices_are_refused(theirs: Path, name: str) -> None:
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (theirs / name).unlink()
        make(theirs / name)
        with pytest.raises(OSError, match=rf"{name} is no regular file"):
            Project(theirs).edits()


def changed(path: Path, **values: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("review.json", {"regions": [[0, 5, 5, 5, 9]]}),
        ("review.json", {"regions": [[0, 0, 0, 41, 9]]}),
        ("review.json", {"regions": [[3, 0, 0, 4, 9]]}),
        ("review.json", {"regions": [[-1, 0, 0, 4, 9]]}),
        ("review.json", {"sections": {"3": "reviewed"}}),
        ("review.json", {"settled": {"0": 1}}),
        ("review.json", {"last_id": 2**32}),
        ("review.json", {"last_id": float("nan")}),
        ("review.json", {"locked": [-1]}),
        ("project.json", {"segmented": {"0": [[0, 41, 0, 5]]}}),
        ("project.json", {"segmented": {"3": [[0, 4, 0, 5]]}}),
        ("project.json", {"linked": [3]}),
        ("project.json", {"created": "2026-01-01T00:00:00"}),
        ("project.json", {"source": None}),
        ("project.json", {"format": "x"}),
        ("cells.zarr/zarr.json", {"shape": [3, 40, 51]}),
        ("cells.zarr/zarr.json", {"shape": [10**12] * 3}),
        ("cells.zarr/zarr.json", {"data_type": "uint64"}),
        ("cells.zarr/zarr.json", {"codecs": []}),
        ("cells.zarr/zarr.json", {"codecs": 7}),
        ("cells.zarr/zarr.json", {"chunk_grid": []}),
        ("cells.zarr/zarr.json", {"zarr_format": 2}),
    ],
)
def test_odd_values_end_in_a_line_that_names_the_file(
    theirs: Path, name: str, values: dict[str, object]
) -> None:
    changed(theirs / name, **values)
    with pytest.raises(UnreadableError) as refused:
        Project(theirs)
    assert str(theirs / name) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"shape": [3, 40, 0]},
        {"shape": [10**9, 40, 50]},
        {"path": "a\0b"},
        {"choice": {"voxel_size_nm": 3}},
        {"voxel_size_nm": [40, float("nan"), 4]},
        {"voxel_size_nm": [40, -4, 4]},
    ],
)
def test_odd_values_of_the_stack(theirs: Path, values: dict[str, object]) -> None:
    content = json.loads((theirs / "project.json").read_text())
    changed(theirs / "project.json", source=content["source"] | values)
    with pytest.raises(UnreadableError, match=r"project\.json is damaged: source"):
        Project(theirs)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 9**5, b'{"source":' * 999],
)
@pytest.mark.parametrize(
    "name", ["project.json", "review.json", "cells.zarr/zarr.json"]
)
def test_files_that_are_no_objects(theirs: Path, name: str, content: bytes) -> None:
    (theirs / name).write_bytes(content)
    with pytest.raises(OSError, match=name):
        Project(theirs)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff",
        b"null",
        b"{}",
        b'{"time": "2026-01-01T00:00:00", "what": "paint"}',
        b'{"time": "2026-01-01T00Z", "what": "cut", "areas": {"0": [5, 5, 0, 1]}}',
        b'{"time": "2026-01-01T00Z", "what": "cut", "areas": {"-1": [0, 5, 0, 1]}}',
        b'{"time": NaN, "what": "paint"}',
    ],
)
def test_odd_edits(theirs: Path, line: bytes) -> None:
    (theirs / "edits.jsonl").write_bytes(line + b"\n")
    damaged = pytest.raises(UnreadableError, match=r"edits\.jsonl is damaged")
    with Project(theirs) as project, damaged:
        project.edits()
