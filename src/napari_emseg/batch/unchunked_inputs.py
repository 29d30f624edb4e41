"""Inputs of which no part of a section can be read without the rest of it."""

from __future__ import annotations

from napari_emseg.batch.context import Context
from napari_emseg.core.stack import Stack
from napari_emseg.io.sections import SectionArray

DECODED = 2.2
"""Times a section's bytes are held while it is decoded; 2.1 were seen of a TIFF in one
strip."""


def piece_bytes(context: Context, stack: Stack) -> float:
    """Return the memory that reading a block takes beside the block; mostly 0."""
    if context.whole or not isinstance(stack.data, SectionArray):
        return 0.0
    if stack.data.chunks[1:] != stack.shape[1:]:
        return 0.0
    return DECODED * stack.data.nbytes / stack.shape[0]


def advice(context: Context, stack: Stack) -> list[str]:
    """Return what to do about such an input; nothing if it isn't one."""
    held = piece_bytes(context, stack)
    if not held:
        return []
    name = context.given.name
    return [
        f"each section of {name} is stored in one piece, so workers decode all of it "
        f"for a block ({held / 1e9:.1f} GB of memory); it is better converted before: "
        f"emseg export {context.given.path} {name}.zarr"
    ]
