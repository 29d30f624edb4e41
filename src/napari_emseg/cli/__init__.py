"""The command line: `emseg …`, thin commands over the same generators as the panels."""

from napari_emseg.cli.app import main

__all__ = ["main"]
