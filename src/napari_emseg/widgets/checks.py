"""What is wrong with sections: found by a button, listed, gone to, excluded."""

from napari.utils.notifications import show_warning
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_emseg.check import SectionCheck
from napari_emseg.widgets.camera import (
    go_to_section,
    no_section,
    section_here,
    section_on_screen,
)
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.run import JobControls
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.theme import fit_rows, follow

SECTION, FINDING, EXCLUDE = range(3)
ROWS_SHOWN = 6
EXCLUDED = "No run touches an excluded section."


class Checks(QWidget):
    """Checks all sections and lists what it found; a click goes there."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._job = BackgroundJob()
        self._checked = ""
        self.exclude = QCheckBox()
        self.controls = JobControls(
            "Check sections",
            "",
            tooltip="Look for blank, blurred and shifted sections.",
            after=[self.exclude],
        )
        self.button, self.summary = self.controls.button, self.controls.message
        self.table = QTableWidget(0, 3)
        self._lay_out()
        self._connect()
        self._on_source()

    def _lay_out(self) -> None:
        self.table.setHorizontalHeaderLabels(["section", "finding", "exclude"])
        self.table.verticalHeader().hide()
        header = self.table.horizontalHeader()
        fit = QHeaderView.ResizeMode.ResizeToContents
        for column, mode in (
            (SECTION, fit),
            (FINDING, QHeaderView.ResizeMode.Stretch),
            (EXCLUDE, fit),
        ):
            header.setSectionResizeMode(column, mode)
        header.sectionResized.connect(self._fit)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.controls)
        layout.addWidget(self.table)
        self.controls.show_busy(False)

    def _connect(self) -> None:
        self.button.clicked.connect(self._on_click)
        self.table.cellClicked.connect(self._on_cell)
        self.table.itemChanged.connect(self._on_item)
        self.exclude.clicked.connect(self._on_exclude)
        self._job.advanced.connect(self.controls.show_advance)
        self._job.ended.connect(self._on_ended)
        follow(self, self._controller.session.events.source, self._on_source)
        follow(self, self._controller.viewer.dims.events.point, self._on_view)

    def _on_click(self) -> None:
        if self._job.busy:
            self._job.cancel()
            return
        run = self._controller.runs.check()
        self._checked = run.source.key
        self.controls.say("")
        self.controls.show_advance(None)
        self.controls.show_busy(True)
        self._job.start(run.work, run.title)

    def _on_ended(self, outcome: JobResult) -> None:
        self.controls.show_busy(False)
        self._on_source()
        if isinstance(outcome.result, list):
            self._controller.session.note_findings(self._checked, outcome.result)
        elif outcome.cause is not None:
            self.controls.say(format_record(outcome.cause), "error")

    def _on_source(self) -> None:
        source = self._controller.session.source
        self.button.setEnabled(source is not None or self._job.busy)
        findings = None if source is None else source.findings
        words = "" if self._job.busy else _format_findings(findings)
        self.controls.say(words, "note" if findings else "hint")
        self.table.setVisible(bool(findings))
        self._fill(findings or (), frozenset() if source is None else source.excluded)
        self._on_view()

    def _fill(
        self, findings: tuple[SectionCheck, ...], excluded: frozenset[int]
    ) -> None:
        """List findings; the exclude box stands in each section's first row."""
        blocked = self.table.blockSignals(True)
        self.table.setRowCount(len(findings))
        boxed: set[int] = set()
        for row, found in enumerate(findings):
            self.table.setItem(row, SECTION, QTableWidgetItem(str(found.z)))
            words = QTableWidgetItem(found.words)
            words.setToolTip("Click to go there.")
            self.table.setItem(row, FINDING, words)
            box = QTableWidgetItem()
            if found.z not in boxed:
                out = found.z in excluded
                box.setFlags(
                    Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsEnabled
                )
                box.setCheckState(
                    Qt.CheckState.Checked if out else Qt.CheckState.Unchecked
                )
            boxed.add(found.z)
            self.table.setItem(row, EXCLUDE, box)
        self.table.blockSignals(blocked)
        self._fit()

    def _fit(self, *_: object) -> None:
        fit_rows(self.table, ROWS_SHOWN)

    def _on_cell(self, row: int, column: int) -> None:
        layer = self._controller.source_layer
        if layer is not None and column != EXCLUDE:
            go_to_section(self._controller.viewer, layer, self._z(row))

    def _on_item(self, item: QTableWidgetItem) -> None:
        if item.column() == EXCLUDE:
            out = item.checkState() == Qt.CheckState.Checked
            self._set_excluded(self._z(item.row()), out)

    def _z(self, row: int) -> int:
        return int(self.table.item(row, SECTION).text())

    def _on_view(self) -> None:
        """Offer to exclude the section on screen."""
        source, layer = self._controller.session.source, self._controller.source_layer
        many = source is not None and source.stack.shape[0] > 1
        self.exclude.setVisible(many)
        if source is not None and layer is not None and many:
            viewer = self._controller.viewer
            z = section_on_screen(viewer, layer)
            here = "this section" if z is None else f"section {z} (this one)"
            self.exclude.setText(f"Exclude {here}")
            why = no_section(viewer, layer) if z is None else EXCLUDED
            self.exclude.setToolTip(why)
            self.exclude.setEnabled(z is not None)
            self.exclude.setChecked(z in source.excluded)

    def _on_exclude(self, checked: bool) -> None:
        layer = self._controller.source_layer
        if layer is None:
            return
        try:
            z = section_here(self._controller.viewer, layer)
        except ValueError as e:
            show_warning(str(e))
            self._on_view()
            return
        self._set_excluded(z, checked)

    def _set_excluded(self, z: int, excluded: bool) -> None:
        try:
            self._controller.session.exclude(z, excluded=excluded)
        except ValueError as e:
            show_warning(str(e))
            self._on_source()


def _format_findings(findings: tuple[SectionCheck, ...] | None) -> str:
    if findings is None:
        return ""
    if not findings:
        return "nothing found"
    kinds: dict[str, int] = {}
    for found in findings:
        kinds[found.kind] = kinds.get(found.kind, 0) + 1
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items())
