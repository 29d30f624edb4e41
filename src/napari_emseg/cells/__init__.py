"""Membrane probabilities → cells, section by section; no torch."""

from napari_emseg.cells.fragments import Fragments
from napari_emseg.cells.section import section_fragments, segment_section
from napari_emseg.cells.stack import CellsResult, cells_provenance, segment_stack
from napari_emseg.cells.tree import MergeTree

__all__ = [
    "CellsResult",
    "Fragments",
    "MergeTree",
    "cells_provenance",
    "section_fragments",
    "segment_section",
    "segment_stack",
]
