"""Suggested regions: found in a thread, listed, and gone through one by one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_emseg.session.review_queue import iter_suggest, next_region, sections_to_do
from napari_emseg.widgets.background import with_torch
from napari_emseg.widgets.camera import (
    area_in_view,
    go_to_place,
    nearest_section,
    section_here,
)
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.correcting import Correcting, Outlines, RegionRow
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.run import JobRow, Work
from napari_emseg.widgets.theme import (
    SPACING,
    button,
    combo_box,
    fit_rows,
    follow,
    text_label,
)

if TYPE_CHECKING:
    from napari_emseg.active_learning import Suggestion
    from napari_emseg.core.regions import Region

HEADS = ("", "section", "why")
ROWS_SHOWN = 6


class SuggestedRegions(QWidget):
    """Finds regions in a thread, lists them, and goes from one to the next.

    A region is done when all of it is reviewed: undoing that makes it one to do again.
    """

    said = Signal(str)
    refused = Signal(str)

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._correcting = controller.shared(Correcting)
        self._key = ""
        self._drawn: tuple[Sequence[Suggestion], frozenset[int]] = (), frozenset()
        """The list, and which of its regions were done, when it was last drawn."""
        self.where = combo_box()
        self.where.addItems(["near this section", "whole stack"])
        self.where.setToolTip("Sections to search; finished ones are skipped.")
        self.find = JobRow("Find regions", self._prepare)
        self.next = button(
            "Next region (N)", tooltip="Go to the next region in the list"
        )
        self.done = button(
            "Mark reviewed, next (J)",
            tooltip="All in this region is right now: it counts as reviewed",
        )
        self.regions = RegionRow(controller, self._correcting.layers)
        self.count = text_label()
        self.table = QTableWidget(0, len(HEADS))
        self._lay_out()
        self._connect()
        self._on_state()

    def _lay_out(self) -> None:
        self.table.setHorizontalHeaderLabels(list(HEADS))
        self.table.verticalHeader().hide()
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(len(HEADS) - 1, QHeaderView.ResizeMode.Stretch)
        header.sectionResized.connect(self._fit)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setToolTip("Click to go there.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addWidget(self.where)
        layout.addWidget(self.find)
        layout.addWidget(self.count)
        layout.addWidget(self.table)
        layout.addWidget(FlowRow(self.next, self.done, fill=True))
        layout.addWidget(self.regions)

    def _connect(self) -> None:
        self.find.done.connect(self._on_found)
        self.next.clicked.connect(self.go_next)
        self.done.clicked.connect(self.finish)
        self.regions.said.connect(self.said.emit)
        self.regions.refused.connect(self.refused.emit)
        self.table.cellClicked.connect(self._on_row)
        follow(self, self._correcting.changed, self._on_state)

    @property
    def suggestions(self) -> tuple[Suggestion, ...]:
        """The list."""
        return self._correcting.suggestions

    @property
    def outlines(self) -> Outlines:
        """What shows the list in the picture."""
        return self._correcting.outlines

    @property
    def _here(self) -> int | None:
        return self._correcting.here

    @property
    def left(self) -> int:
        """How many regions are to do."""
        return len(self.suggestions) - len(self._done())

    def _done(self) -> frozenset[int]:
        every = range(len(self.suggestions))
        return frozenset(nth for nth in every if self._correcting.is_done(nth))

    def go_next(self, *_: Any) -> None:
        """Go to the next region that is to do."""
        source = self._controller.session.source
        if source is None or not self.suggestions:
            self.refused.emit("there is no list yet; press Find regions")
            return
        found = next_region(source, self.suggestions, self._here)
        if found is None:
            self.said.emit("all regions are done; press Find regions for more")
            return
        self._go(found)

    def finish(self, *_: Any) -> None:
        """Mark the region as reviewed, and go on to the next."""
        if self._here is None or self._here >= len(self.suggestions):
            self.refused.emit("go to a region first (N)")
            return
        region = self.suggestions[self._here].region
        try:
            seen = self._is_seen(region)
        except ValueError as e:
            self.refused.emit(str(e))
            return
        if not seen:
            self._show(self._here)
            where = f"region {self._here + 1}, in section {region.z}, was out of view"
            self.refused.emit(f"{where}; look at it, and mark it then")
        elif self.regions.review(region) and self.left:
            self.go_next()

    def _is_seen(self, region: Region) -> bool:
        """Tell if a region is on screen, its middle at least.

        Raises
        ------
        ValueError
            If no section of the stack is.
        """
        viewer, layer = self._controller.viewer, self._controller.source_layer
        if layer is None:
            return True
        if section_here(viewer, layer) != region.z:
            return False
        area = area_in_view(viewer, layer)
        if area is None:
            return True
        pairs = zip(_middle(region), area, strict=True)
        return all(part.start <= at < part.stop for at, part in pairs)

    def _prepare(self) -> tuple[str, Work]:
        session, layer = self._controller.session, self._controller.source_layer
        if session.source is None or layer is None:
            msg = "no stack is chosen; choose one in 1 Data"
            raise ValueError(msg)
        here = nearest_section(self._controller.viewer, layer)
        whole = self.where.currentText() == "whole stack"
        where = "whole stack" if whole else "near this section"
        sections = sections_to_do(session.source, here, where)
        work = iter_suggest(session, sections)
        self._key = session.source.key
        return f"Regions in {session.source.name}", with_torch(work)

    def _on_found(self, found: Sequence[Suggestion]) -> None:
        source = self._controller.session.source
        if source is None or source.key != self._key:
            return
        self._correcting.list_suggestions(self._key, found)
        if found:
            self.go_next()
        else:
            self.said.emit("nothing found that is worth a look there")

    def _go(self, nth: int) -> None:
        if self._controller.source_layer is None:
            return
        self._show(nth)
        reason = self.suggestions[nth].reason
        self.said.emit(f"region {nth + 1} of {len(self.suggestions)}: {reason}")

    def _show(self, nth: int) -> None:
        """Bring a region on screen, and make it the current one."""
        layer = self._controller.source_layer
        if layer is None:
            return
        region = self.suggestions[nth].region
        go_to_place(self._controller.viewer, layer, (region.z, *_middle(region)))
        self._correcting.go_to(nth)

    def _on_row(self, row: int, _: int) -> None:
        self._go(row)

    def _on_state(self, *_: Any) -> None:
        self._fill()
        before, self._drawn = self._drawn, (self.suggestions, self._done())
        if before[0] is self.suggestions and len(before[1] - self._drawn[1]) == 1:
            # undone: what is marked next must not be the one that came up after it
            (undone,) = before[1] - self._drawn[1]
            self._show(undone)
        for made in (self.next, self.done):
            made.setEnabled(bool(self.suggestions))
        n = len(self.suggestions)
        words = f"{n - self.left} of {n} regions done" if n else ""
        self.count.setText(words)
        self.count.setVisible(bool(words))

    def _fill(self) -> None:
        self.table.setRowCount(len(self.suggestions))
        self.table.setVisible(bool(self.suggestions))
        for row, found in enumerate(self.suggestions):
            done = self._correcting.is_done(row)
            cells = ("✓" if done else "", str(found.region.z), found.reason)
            for column, words in enumerate(cells):
                item = QTableWidgetItem(words)
                item.setToolTip(found.reason)
                self.table.setItem(row, column, item)
        if self._here is not None:
            self.table.selectRow(self._here)
        self._fit()

    def _fit(self, *_: Any) -> None:
        fit_rows(self.table, ROWS_SHOWN)


def _middle(region: Region) -> tuple[int, int]:
    """Return the row and column in the middle."""
    return (region.top + region.bottom) // 2, (region.left + region.right) // 2


def key_acts(row: SuggestedRegions, otherwise: Any) -> dict[str, Any]:
    """Return acts of keys: the next region, or section when none is left."""
    return {"next_place": partial(_next, row, otherwise), "done_here": row.finish}


def _next(row: SuggestedRegions, otherwise: Any, *_: Any) -> None:
    if row.left:
        row.go_next()
    else:
        otherwise()
