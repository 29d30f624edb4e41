"""Files in and out: `open_stack`, `open_sink`, `save_stack`; formats load on demand."""

from napari_emseg.io.errors import AmbiguousFileError, UnreadableError
from napari_emseg.io.formats import (
    OUTPUT_KINDS,
    OutputFormat,
    OutputKind,
    output_format,
    output_kind,
)
from napari_emseg.io.reading import (
    Description,
    Item,
    describe,
    open_stack,
    read_provenance,
)
from napari_emseg.io.stored import Ids
from napari_emseg.io.writing import Stored, iter_save, open_sink, save_stack

__all__ = [
    "OUTPUT_KINDS",
    "AmbiguousFileError",
    "Description",
    "Ids",
    "Item",
    "OutputFormat",
    "OutputKind",
    "Stored",
    "UnreadableError",
    "describe",
    "iter_save",
    "open_sink",
    "open_stack",
    "output_format",
    "output_kind",
    "read_provenance",
    "save_stack",
]
