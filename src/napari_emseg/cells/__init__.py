"""Membrane probabilities → cells, section by section; no torch."""

from napari_emseg.cells.section import segment_section
from napari_emseg.cells.stack import CellsResult, cells_provenance, segment_stack

__all__ = ["CellsResult", "cells_provenance", "segment_section", "segment_stack"]
