"""Membrane probabilities → cells, in each section and through the stack; no torch."""

from napari_emseg.segmentation.fragments import Fragments
from napari_emseg.segmentation.linking import LinkResult, link_stack, scratch
from napari_emseg.segmentation.overlap import overlap_of
from napari_emseg.segmentation.rag import MergeTree
from napari_emseg.segmentation.section import (
    section_fragments,
    segment_section,
    usual_cells,
)
from napari_emseg.segmentation.stack import (
    CellsResult,
    cells_provenance,
    segment_stack,
    settle_through,
)

__all__ = [
    "CellsResult",
    "Fragments",
    "LinkResult",
    "MergeTree",
    "cells_provenance",
    "link_stack",
    "overlap_of",
    "scratch",
    "section_fragments",
    "segment_section",
    "segment_stack",
    "settle_through",
    "usual_cells",
]
