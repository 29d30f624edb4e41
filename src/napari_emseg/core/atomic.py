"""Files and folders that appear under their name when they are whole, or not at all.

What is being written lies beside its final name as `NAME.COMPUTER-PROCESS-NUMBER.part`,
which no other process writes and no file of the user is called. It is flushed to the
disk before it is renamed, and so is the folder after, so that neither a kill nor a
power cut leaves half a file under a name that promises a whole one.
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from platform import node
from secrets import token_hex
from typing import BinaryIO, Literal

LONGEST_NAME = 255
"""Bytes that file systems allow for a name."""

_NO_SUCH_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}
"""What flushing a folder ends in on file systems that know no such thing."""

_FULL_WORDS = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "no space is left of your quota",
    errno.EFBIG: "files there may not be that large",
}
FULL = frozenset(_FULL_WORDS)
"""Numbers of the system's errors of a full disk."""

_in_use: set[Path] = set()
"""Parts that this process is writing; others of its number are of a process before."""


class DiskFullError(OSError):
    """No room is left for a file, or for this user."""

    def __str__(self) -> str:
        """Return the words without the system's number."""
        return self.strerror or super().__str__()


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Say of a full disk what couldn't be written, and what to do.

    Raises
    ------
    DiskFullError
        Instead of the system's error, which names no file.
    """
    try:
        yield
    except OSError as e:
        if e.errno not in FULL or isinstance(e, DiskFullError):
            raise
        msg = (
            f"{path} can't be written: {_FULL_WORDS[e.errno]}; make room or choose "
            "another folder, and do it again"
        )
        raise DiskFullError(e.errno, msg) from e


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write a file; it gets its name at the end of the block, unless that raises.

    A file that it replaces lends it its permissions, else the umask counts.

    Raises
    ------
    OSError
        If it can't be written; what was there before stays.
    """
    with atomic_path(path) as part, part.open("r+b") as file:
        yield file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Let others write a file to the path given; see `atomic_write`."""
    part = private_part(path)
    try:
        with naming_full_disk(path):
            with part.open("xb"):
                mode = _mode(part)
            yield part
            if _mode(part) != mode:  # by a library that lets nobody else read it
                part.chmod(mode)
            publish(part, path)
    finally:
        part.unlink(missing_ok=True)
        release(part)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill the folder given; it gets its name at the end, unless the block raises.

    Parameters
    ----------
    replace
        Take the place of a folder that is there, which is removed then.

    Raises
    ------
    OSError
        If it can't be written, or there is something of that name by then.
    """
    clear_leftovers(path)
    part = private_part(path)
    try:
        with naming_full_disk(path):
            part.mkdir()
            yield part
            if replace and path.exists():
                exchange(part, path)
            else:
                publish(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        release(part)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file that is there as a whole or not at all; text as UTF-8.

    Raises
    ------
    OSError
        As `atomic_write`.
    """
    with atomic_write(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def private_part(path: Path, ending: Literal["part", "old"] = "part") -> Path:
    """Return a name beside `path` that nobody else has, until it is released."""
    mark = f"{_computer()}-{os.getpid()}-{token_hex(3)}"
    part = path.with_name(f"{short_name(path)}.{mark}.{ending}")
    # known before it exists, or another thread could take it for a leftover
    _in_use.add(part.absolute())
    return part


def release(part: Path) -> None:
    """Say that a private name isn't written to any more, whatever is there."""
    _in_use.discard(part.absolute())


def publish(part: Path, path: Path) -> None:
    """Give what is finished its final name; a file may replace a file.

    A file that is replaced lends its permissions.

    Raises
    ------
    OSError
        If it can't be flushed to the disk or renamed, or would replace a folder.
    """
    if path.is_file() and not path.is_symlink() and _mode(part) != _mode(path):
        part.chmod(_mode(path))
    # contents first: a name on the disk without its contents would be a file of zeros
    sync_all(part)
    if part.is_dir():
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        part.rename(path)
    else:
        part.replace(path)
    sync(path.parent)


def exchange(part: Path, path: Path) -> None:
    """Give what is finished the name of something else, which is removed after.

    A kill between the two renames leaves the former one under a private name, which
    `clear_leftovers` gives back.
    """
    sync_all(part)
    former = private_part(path, "old")
    try:
        path.rename(former)
        part.rename(path)
        sync(path.parent)
        remove_tree(former)
    finally:
        release(former)


def move(path: Path, target: Path) -> None:
    """Give a file or folder that is whole another name, on the same disk.

    Raises
    ------
    OSError
        If that can't be done; then it stays where it is.
    """
    path.replace(target)
    sync(target.parent)
    sync(path.parent)


def leftovers(path: Path) -> list[Path]:
    """Return private parts of `path` whose process was ended, or that were kept."""
    shape = re.compile(rf"{re.escape(short_name(path))}\.(\w+)-(\d+)-\w+\.(part|old)")
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for each in path.absolute().parent.iterdir():
            match = shape.fullmatch(each.name)
            # process numbers mean something on one computer
            # only, and a folder may be shared
            if match and match[1] == _computer() and not _is_busy(each, int(match[2])):
                found.append(each)
    return sorted(found)


def clear_leftovers(path: Path) -> None:
    """Remove what ended processes left of `path`; whole folders get their name back.

    Raises
    ------
    OSError
        If that can't be done.
    """
    for each in leftovers(path):
        if each.suffix == ".old" and not os.path.lexists(path):
            each.rename(path)
        else:
            remove_tree(each)


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with all in it; links are removed, not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make sure that a file's content, or the names in a folder, are on the disk.

    Raises
    ------
    OSError
        If they can't be; a full disk may say so only now.
    """
    folder = path.is_dir()
    if folder and os.name == "nt":  # which has and needs no such thing
        return
    try:
        handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as e:
        if not folder or e.errno not in _NO_SUCH_SYNC:
            raise


def sync_all(path: Path) -> None:
    """Make sure that a file, or a folder with all that is in it, is on the disk.

    Raises
    ------
    OSError
        As `sync`.
    """
    if path.is_dir() and not path.is_symlink():
        for folder, _, names in os.walk(path):
            for name in names:
                sync(Path(folder, name))
            sync(Path(folder))
    else:
        sync(path)


def short_name(path: Path) -> str:
    """Return the name of a file, or one as good where it leaves no room for more."""
    if len(os.fsencode(path.name)) <= LONGEST_NAME - 40:
        return path.name
    short = os.fsencode(path.name)[:150].decode(errors="ignore")
    return f"{short}-{blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}"


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _is_busy(part: Path, process: int) -> bool:
    if process == os.getpid():
        return part in _in_use
    import psutil

    return bool(psutil.pid_exists(process))


@cache
def _computer() -> str:
    return blake2b(node().encode(), digest_size=3).hexdigest()


def check_replaceable(path: Path) -> None:
    """Check that an existing file or folder can give up its name.

    Windows lets nobody rename what is open or mapped, by a layer or another program;
    that is known before any work by renaming it to the name it has. Elsewhere this
    changes nothing, as renaming would succeed.

    Raises
    ------
    PermissionError
        If it can't.
    """
    try:
        path.rename(path)
    except PermissionError as e:
        msg = (
            f"{path} can't be replaced ({e.strerror}): close it first where it is "
            "open, in a layer or another program, or choose another name"
        )
        raise PermissionError(msg) from e
