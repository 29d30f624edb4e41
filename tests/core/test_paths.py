"""A name from a file leads into its folder or is refused, whatever it is."""

import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from napari_emseg.core.paths import (
    UnsafePathError,
    file_stem,
    is_link,
    path_inside,
    read_bounded,
    remove_inside,
)

PARTS = st.sampled_from(
    ["..", ".", "", "a", "A", "cells.zarr", "é", "C:", "c:x", "\\", "..\\", "~", "a."]
)
NAMES = st.one_of(
    st.text(max_size=12),
    st.lists(PARTS, max_size=5).map("/".join),
    st.lists(PARTS, max_size=5).map("\\".join),
)
BAD = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "/etc/passwd",
    "//host/share",
    "a//b",
    "a/",
    "./a",
    "C:x",
    "C:/x",
    "c:\\x",
    "\\\\host\\share\\x",
    "a\\..\\..\\x",
    "a\\b",
    "a\0b",
    "a\nb",
    "\x7f",
    "a.",
    "a ",
    "a./b",
    "...",
    " /b",
]
GOOD = ["a", "a/b", "weights/my round.safetensors", ".hidden", "Ä/学.zarr", "~", "a..b"]


def inside(name: str) -> bool:
    """Whether a name stays in a folder, as both kinds of systems read it."""
    flat = PureWindowsPath("C:/f") / name
    posix = PurePosixPath(os.path.normpath(PurePosixPath("/f") / name))
    return (
        ".." not in flat.parts
        and flat.is_relative_to("C:/f")
        and flat != PureWindowsPath("C:/f")
        and posix.is_relative_to("/f")
        and posix != PurePosixPath("/f")
    )


@given(NAMES)
@example("a/C:\\x")
@example("a:b")
def test_what_is_accepted_is_inside_on_every_system(name):
    with suppress(UnsafePathError):
        path = path_inside(Path("/no/such/folder"), name)
        assert inside(name)
        assert path == Path("/no/such/folder", *name.split("/"))


@pytest.mark.parametrize("name", BAD)
def test_refused(name, tmp_path):
    with pytest.raises(UnsafePathError, match="which is refused"):
        path_inside(tmp_path, name)


@pytest.mark.parametrize("name", GOOD)
def test_accepted(name, tmp_path):
    assert path_inside(tmp_path, name) == tmp_path / name


def test_only_names_of_the_list_in_their_own_case(tmp_path):
    allowed = re.compile(r"project\.json|c/\d+")
    assert path_inside(tmp_path, "c/12", allowed=allowed) == tmp_path / "c" / "12"
    for name in ("Project.json", "project.json.part", "c/12\n", "c/x", "xc/1"):
        with pytest.raises(UnsafePathError):
            path_inside(tmp_path, name, allowed=allowed)


def test_message_names_folder_name_and_reason_in_one_line(tmp_path):
    with pytest.raises(UnsafePathError) as refused:
        path_inside(tmp_path, "../x\n" + "y" * 9000)
    message = str(refused.value)
    assert str(tmp_path) in message
    assert "control characters" in message
    assert "\n" not in message
    assert len(message) < 1000


@given(st.text(max_size=200))
@example("/home/x/.config/evil")
@example("../../evil")
@example("...")
def test_any_name_becomes_that_of_a_file(name):
    made = f"{file_stem(name, 'weights')}.safetensors"
    assert path_inside(Path("/f"), made) == Path("/f") / made
    assert "/" not in made


def test_names_of_files_stay_as_they_are():
    assert file_stem("isbi2012-unet v2.1", "x") == "isbi2012-unet v2.1"
    assert file_stem("../a/b", "x") == "a_b"
    assert file_stem("..", "x") == "x"


@pytest.fixture
def mine(tmp_path) -> Path:
    """A folder of the user's own, to which links lead."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    return mine


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A folder of a stranger's."""
    theirs = tmp_path / "theirs"
    (theirs / "c").mkdir(parents=True)
    return theirs


@pytest.mark.parametrize("name", ["link", "link/thesis.txt", "link/new", "c/up"])
def test_links_are_refused_wherever_they_lead(name, mine, theirs):
    (theirs / "link").symlink_to(mine)
    (theirs / "c" / "up").symlink_to("../c")
    with pytest.raises(UnsafePathError, match="is a link to"):
        path_inside(theirs, name)


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_links_that_lead_nowhere_are_refused(target, theirs):
    (theirs / "link").symlink_to(target)
    with pytest.raises(UnsafePathError, match="is a link to"):
        path_inside(theirs, "link")


def test_the_folder_itself_may_be_a_link(theirs, tmp_path):
    (tmp_path / "link").symlink_to(theirs)
    assert path_inside(tmp_path / "link", "c/1") == tmp_path / "link" / "c" / "1"


def test_a_file_where_a_folder_should_be_is_said(theirs):
    (theirs / "file").touch()
    with pytest.raises(UnsafePathError, match="is no folder"):
        path_inside(theirs, "file/x/y")


def test_removing_a_link_leaves_what_it_leads_to(mine, theirs):
    for name, target in (("folder", mine), ("file", mine / "thesis.txt")):
        (theirs / name).symlink_to(target)
        remove_inside(theirs, name)
        assert not is_link(theirs / name)
    assert (mine / "thesis.txt").read_text() == "precious"


def test_removing_a_folder_leaves_what_links_in_it_lead_to(mine, theirs):
    (theirs / "c" / "link").symlink_to(mine)
    remove_inside(theirs, "c")
    assert not (theirs / "c").exists()
    assert (mine / "thesis.txt").read_text() == "precious"


def test_removing_through_a_link_is_refused(mine, theirs):
    (theirs / "link").symlink_to(mine)
    for name in ("link/thesis.txt", "../mine"):
        with pytest.raises(UnsafePathError):
            remove_inside(theirs, name)
    assert (mine / "thesis.txt").read_text() == "precious"


def test_removing_files_and_nothing(theirs):
    (theirs / "x").touch()
    remove_inside(theirs, "x")
    remove_inside(theirs, "x")
    remove_inside(theirs, "no/such")
    assert [path.name for path in theirs.iterdir()] == ["c"]


def test_bounded_reading(theirs):
    file = theirs / "x"
    file.write_bytes(b"12345")
    assert read_bounded(file, 5) == b"12345"
    with pytest.raises(UnsafePathError, match="5 bytes; at most 4"):
        read_bounded(file, 4)
    with pytest.raises(FileNotFoundError):
        read_bounded(theirs / "y", 4)
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
        read_bounded(theirs, 4)


@pytest.mark.skipif(os.name == "nt", reason="has no such files")
def test_pipes_and_devices_are_not_read(theirs):
    os.mkfifo(theirs / "pipe")
    (theirs / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(UnsafePathError, match="is no regular file"):
            read_bounded(theirs / name, 100)
