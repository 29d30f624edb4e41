"""Correcting by hand: each tool returns an Edit over linked pictures; no Qt."""

from napari_emseg.edit.clearing import cleared
from napari_emseg.edit.click import delete_membrane, fill, lock
from napari_emseg.edit.cut import cut
from napari_emseg.edit.edits import INSIDE, MEMBRANE, NO_OPINION, Change, Edit, joined
from napari_emseg.edit.gap import close_gap, find_gap
from napari_emseg.edit.history import Correction, History
from napari_emseg.edit.linked import Linked
from napari_emseg.edit.marking import mark_reviewed, mark_to_do
from napari_emseg.edit.merge import merge
from napari_emseg.edit.painted import paint, replace_values
from napari_emseg.edit.rerun import Rerun, burnt_in
from napari_emseg.edit.review import Status, next_section
from napari_emseg.edit.sheet import Sheet, burn_in
from napari_emseg.edit.table import CellRow, cells_table
from napari_emseg.edit.through import merge_through, split_through
from napari_emseg.edit.wire import WireField, draw_wire, wire_field

__all__ = [
    "INSIDE",
    "MEMBRANE",
    "NO_OPINION",
    "CellRow",
    "Change",
    "Correction",
    "Edit",
    "History",
    "Linked",
    "Rerun",
    "Sheet",
    "Status",
    "WireField",
    "burn_in",
    "burnt_in",
    "cells_table",
    "cleared",
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
