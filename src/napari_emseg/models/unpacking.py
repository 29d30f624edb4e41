"""Files out of zips that others made: in memory, within limits, with clear errors."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

MOST_RATIO = 100
"""Times that a file may grow when it is unpacked; trained weights hardly do."""

UNPACKING = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError),
    *(OSError, RuntimeError, ValueError),
)
"""What unpacking raises when a zip file is damaged."""


def opened(file: Path | io.BytesIO, name: str) -> zipfile.ZipFile:
    """Open a zip file.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as e:
        msg = f"{name} is a damaged zip file: {e}"
        raise ValueError(msg) from e


def member_of(package: zipfile.ZipFile, member: str, most: int, name: str) -> bytes:
    """Read one file of a zip into memory.

    Raises
    ------
    ValueError
        If it isn't there, is damaged, or has more than `most` bytes.
    """
    try:
        info = package.getinfo(member)
    except KeyError as e:
        msg = f"{name} lacks {member}, which its manifest names"
        raise ValueError(msg) from e
    refuse_bomb([info], most, f"{member} in {name}")
    try:
        with package.open(info) as file:
            data = file.read(most + 1)
    except UNPACKING as e:
        msg = f"{member} in {name} is damaged, encrypted or oddly packed: {e}"
        raise ValueError(msg) from e
    if len(data) > most:
        msg = f"{member} in {name} is larger than {most / 2**20:g} MiB"
        raise ValueError(msg)
    return data


def refuse_bomb(members: list[zipfile.ZipInfo], most: int, name: str) -> None:
    """Raise a ValueError if members are too large, or grow too much when unpacked."""
    size = sum(info.file_size for info in members)
    packed = sum(info.compress_size for info in members)
    if size > most:
        msg = f"{name} is larger than {most / 2**20:g} MiB"
        raise ValueError(msg)
    if size > MOST_RATIO * packed + 2**20:
        msg = f"{name} would grow {size / max(packed, 1):.0f} times: it is not unpacked"
        raise ValueError(msg)
