"""Files in and out: `open_stack`, `open_sink`, `save_stack`; formats load on demand."""

from __future__ import annotations

from napari_emseg.io.errors import ChoiceNeeded, UnreadableError
from napari_emseg.io.reading import (
    Description,
    Item,
    describe,
    open_stack,
    read_provenance,
)
from napari_emseg.io.writing import OutputFormat, open_sink, output_format, save_stack

__all__ = [
    "ChoiceNeeded",
    "Description",
    "Item",
    "OutputFormat",
    "UnreadableError",
    "describe",
    "open_sink",
    "open_stack",
    "output_format",
    "read_provenance",
    "save_stack",
]
