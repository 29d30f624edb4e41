"""What a file claims, against what it holds and what memory is free.

A header of a few bytes can ask for any amount of memory. Every reader asks here before
anything is allocated. A stack may be larger than memory, and a packed or sparse file
larger than its bytes: what counts is what is allocated at once (a section, or a chunk),
and whether the bytes that are stored can hold what they are said to.
"""

import os
import stat
from math import prod

from napari_emseg.core.memory import free_ram
from napari_emseg.io.errors import UnreadableError

MOST_SECTIONS = 2**20
"""Sections, points in time or channels; the largest stacks have some ten thousand."""

MOST_SIDE = 2**24
"""Pixels; a whole mouse brain at 4 nm/px would have 2.5 million."""

MOST_AXES = 8

UNASKED = 2**26
"""Bytes that are allocated without a look at the memory that is free."""

SLACK = 2**16
"""Bytes that a few stored ones may stand for, whatever their packing."""

DEFLATE = 1032
"""Times that zlib can shrink: a match of 258 bytes takes two bits."""

JPEG = 4096
"""Pixels in a byte: Huffman coding takes a bit or more for each block of 8 × 8."""


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse a shape that no stack of sections has.

    Raises
    ------
    UnreadableError
        If it has too many axes, or one that is negative or too long.
    """
    sides = (0, len(shape)) if len(shape) < 3 else (len(shape) - 3, len(shape))
    for axis, n in enumerate(shape):
        most = MOST_SIDE if sides[0] <= axis < sides[1] else MOST_SECTIONS
        if not 0 <= n <= most or len(shape) > MOST_AXES:
            msg = f"is damaged: no stack of sections has the shape {shape}"
            raise UnreadableError(msg)


def check_count(claimed: int, most: int, what: str, where: str) -> None:
    """Refuse more pages or sections than there can be.

    Raises
    ------
    UnreadableError
        If more than `most` are claimed; `where` says by whom, such as `its OME-XML`.
    """
    if claimed > most:
        msg = f"is damaged: {where} claims {claimed:,} {what}, it can't have as many"
        raise UnreadableError(msg)


def check_packed(
    shape: tuple[int, ...], itemsize: int, stored: int, ratio: int
) -> None:
    """Refuse a picture that the bytes stored of it can't hold.

    Parameters
    ----------
    shape, itemsize
        Of the picture, and the bytes of one of its values.
    stored
        Bytes in the file.
    ratio
        Bytes that its packing can make of one, at most.

    Raises
    ------
    UnreadableError
        If they are too few.
    """
    needed = prod(shape) * itemsize
    if needed > stored * ratio + SLACK:
        size = " × ".join(f"{n:,}" for n in shape)
        msg = f"is damaged: {stored:,} bytes can't hold the {size} values they claim"
        raise UnreadableError(msg)


def check_memory(needed: int, what: str) -> None:
    """Refuse what would be read at once if memory has no room for it.

    Raises
    ------
    UnreadableError
        If more bytes are needed than are free.
    """
    if needed <= UNASKED:
        return
    free = free_ram()
    if needed > free:
        msg = (
            f"{what} takes {needed / 1e9:,.1f} GB of memory at once, "
            f"of which {free / 1e9:,.1f} GB are free"
        )
        raise UnreadableError(msg)


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse what is neither a file nor a folder: reading it may wait without end.

    Raises
    ------
    UnreadableError
        If it is a pipe, a socket or a device.
    FileNotFoundError
        If there is nothing.
    """
    mode = os.stat(path).st_mode
    kinds = (
        ("a named pipe", stat.S_ISFIFO(mode)),
        ("a socket", stat.S_ISSOCK(mode)),
        ("a device", stat.S_ISCHR(mode) or stat.S_ISBLK(mode)),
    )
    for kind, found in kinds:
        if found:
            msg = f"is {kind}, not a file; save what it gives to a file first"
            raise UnreadableError(msg)
