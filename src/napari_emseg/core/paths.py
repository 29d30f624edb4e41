"""Names that a file claims → paths inside a folder; files read within bounds.

A folder may come from somebody else. Whatever it says, nothing outside of it is
written, moved or deleted, and no link in it is followed there.
"""

import os
import re
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from napari_emseg.core.atomic import remove_tree

_MOUNT_POINT = 0xA0000003
"""`stat.IO_REPARSE_TAG_MOUNT_POINT`, which only Windows has: a junction."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class UnsafePathError(OSError):
    """A name leads out of its folder or through a link, or isn't one to expect there.

    Or what is there is no file of a size to expect.
    """


class FolderInsteadError(UnsafePathError, IsADirectoryError):
    """A file is asked for, and a folder was named."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is a folder, not a file")


def path_inside(
    folder: Path, name: str, *, allowed: re.Pattern[str] | None = None
) -> Path:
    """Return where `name` is in a folder, if it can be nowhere else.

    The same names are accepted on every system, so a folder that opens on one opens on
    another. `folder` itself is the user's choice, and may be a link.

    Parameters
    ----------
    name
        Relative, with slashes; there needn't be anything.
    allowed
        Pattern of whole names, where only those that the program writes may occur.

    Raises
    ------
    UnsafePathError
        If the name is empty, absolute, has a drive, a backslash, `.` or `..`, control
        characters or a part that ends in a dot or space; if it isn't allowed; or if it
        or a folder on the way is a link.
    OSError
        If a folder on the way can't be looked into.
    """
    path = _named(folder, name, allowed)
    _refuse_links(folder, path)
    return path


def remove_inside(
    folder: Path, name: str, *, allowed: re.Pattern[str] | None = None
) -> None:
    """Delete what `name` is in a folder: of a link, the link and not what it leads to.

    If there is nothing, nothing happens.

    Raises
    ------
    UnsafePathError
        As `path_inside`, but for a link that `name` itself is.
    OSError
        If it can't be deleted.
    """
    path = _named(folder, name, allowed)
    _refuse_links(folder, path.parent)
    remove_tree(path)


def file_stem(name: str, default: str) -> str:
    """Return a name as one of a file, without ending: letters, digits and `_.+- `.

    Parameters
    ----------
    default
        What stands for a name of which nothing is left.
    """
    return re.sub(r"[^\w.+ -]+", "_", name)[:100].strip("_. ") or default


def is_link(path: Path) -> bool:
    """Tell if a path is a symbolic link, or a junction of Windows.

    Raises
    ------
    OSError
        If the folder around it can't be looked into.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    tag = getattr(found, "st_reparse_tag", 0)
    return stat.S_ISLNK(found.st_mode) or tag == _MOUNT_POINT


def read_bounded(path: Path, most: int) -> bytes:
    """Read a file of at most so many bytes.

    Raises
    ------
    UnsafePathError
        If it is larger, or no regular file.
    OSError
        If it can't be read.
    """
    size = size_of_regular(path)
    if size > most:
        msg = f"{path} has {size} bytes; at most {most} are expected there"
        raise UnsafePathError(msg)
    return path.read_bytes()


def size_of_regular(path: Path) -> int:
    """Return the bytes of a file.

    Raises
    ------
    UnsafePathError
        If it is no file: a pipe would be waited for, a device has no end, and of a
        folder that is said.
    OSError
        If it isn't there, or can't be looked at.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise FolderInsteadError(path)
    if not stat.S_ISREG(found.st_mode):
        msg = f"{path} is no regular file"
        raise UnsafePathError(msg)
    return found.st_size


def _named(folder: Path, name: str, allowed: re.Pattern[str] | None) -> Path:
    """Return the path of a name that can't lead out of a folder by its letters."""
    why = _fault(name)
    if not why and allowed is not None and not allowed.fullmatch(name):
        why = "no file of that name belongs there"
    if why:
        msg = f"{folder} names {name[:200]!r}, which is refused: {why}"
        raise UnsafePathError(msg)
    return folder / name


def _fault(name: str) -> str:
    """Return what is wrong with a name; empty if nothing is."""
    parts = name.split("/")
    if not name:
        return "it is empty"
    if _CONTROL.search(name):
        return "it has control characters"
    if any(part in ("", ".", "..") for part in parts):
        return "it isn't a plain relative path"
    if any(part[-1] in ". " for part in parts):
        return "a part of it ends in a dot or a space"
    # what one system takes for one file name may be a drive or a way up for another
    readings = PurePosixPath(name), PureWindowsPath(name)
    if any(found.anchor or list(found.parts) != parts for found in readings):
        return "it has a drive or a backslash"
    return ""


def _refuse_links(folder: Path, path: Path) -> None:
    """Raise UnsafePathError if a path, or a folder on the way to it, is a link."""
    # part by part from the folder down: a link on the way
    # leads elsewhere as well as the last
    step = folder
    for part in path.relative_to(folder).parts:
        step /= part
        try:
            linked = is_link(step)
        except NotADirectoryError as e:
            msg = f"{step} can't be: {step.parent} is no folder"
            raise UnsafePathError(msg) from e
        if linked:
            msg = f"{step} is a link to {os.readlink(step)}, and links aren't followed"
            raise UnsafePathError(msg)
