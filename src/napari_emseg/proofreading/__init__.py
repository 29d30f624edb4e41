"""Correcting by hand: each tool returns an Edit over linked pictures; no Qt."""

from napari_emseg.proofreading.delete_fill_lock import delete_membrane, fill, lock
from napari_emseg.proofreading.draw_membrane import cut
from napari_emseg.proofreading.edits import (
    INSIDE,
    MEMBRANE,
    NO_OPINION,
    Change,
    Edit,
    joined,
)
from napari_emseg.proofreading.gap import close_gap, find_gap
from napari_emseg.proofreading.history import Correction, History
from napari_emseg.proofreading.linked import LinkedLabels, merge_through, split_through
from napari_emseg.proofreading.marking import (
    Status,
    clear_section,
    mark_reviewed,
    mark_to_do,
    next_section,
)
from napari_emseg.proofreading.merge import merge
from napari_emseg.proofreading.painted import paint, replace_values
from napari_emseg.proofreading.rerun import Rerun, SmallestPieces, burnt_in
from napari_emseg.proofreading.section_view import SectionView, burn_in
from napari_emseg.proofreading.table import CellRow, cells_table
from napari_emseg.proofreading.wire import WireField, draw_wire, wire_field

__all__ = [
    "INSIDE",
    "MEMBRANE",
    "NO_OPINION",
    "CellRow",
    "Change",
    "Correction",
    "Edit",
    "History",
    "LinkedLabels",
    "Rerun",
    "SectionView",
    "SmallestPieces",
    "Status",
    "WireField",
    "burn_in",
    "burnt_in",
    "cells_table",
    "clear_section",
    "close_gap",
    "cut",
    "delete_membrane",
    "draw_wire",
    "fill",
    "find_gap",
    "joined",
    "lock",
    "mark_reviewed",
    "mark_to_do",
    "merge",
    "merge_through",
    "next_section",
    "paint",
    "replace_values",
    "split_through",
    "wire_field",
]
