"""Files in and out: `open_stack`, `open_sink`, `save_stack`; formats load on demand."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "OUTPUT_KINDS": "formats",
    "AmbiguousFileError": "errors",
    "Description": "reading",
    "Ids": "stored",
    "Item": "reading",
    "OutputFormat": "formats",
    "OutputKind": "formats",
    "Stored": "writing",
    "UnreadableError": "errors",
    "describe": "reading",
    "iter_save": "writing",
    "open_sink": "writing",
    "open_stack": "reading",
    "output_format": "formats",
    "output_kind": "formats",
    "read_provenance": "reading",
    "save_stack": "writing",
}

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

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    # the errors of files are asked for by `emseg --help`, which writes none
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
