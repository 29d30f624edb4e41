"""Save… in 2 Membranes: the probabilities of membrane, or of another class."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QWidget

from napari_emseg.io import output_format
from napari_emseg.session.exports import Target, saving_class, saving_membranes
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.save_row import SaveRow, Work, picture_choices
from napari_emseg.widgets.theme import combo_box, follow, form_layout, row_label

MEMBRANES = "membranes"


class ClassSave(SaveRow):
    """Saves membranes; asks which class where runs gave more."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__(controller, picture_choices(), self._proposed, self._saving)
        self._session = controller.session
        self.what = combo_box()
        self.what.setToolTip("Probabilities of which class Save… writes.")
        self._choice = QWidget()
        form = form_layout(self._choice)
        form.addRow(row_label("Save"), self.what)
        self.layout().insertWidget(0, self._choice)
        follow(self, controller.session.events.source, self.list_classes)
        controller.job.ended.connect(self.list_classes)
        self.list_classes()

    def list_classes(self, *_: object) -> None:
        """Offer what there is; nothing is asked where it is membranes only."""
        source, chosen = self._session.source, self.what.currentText()
        further = () if source is None else source.results.classes
        self.what.clear()
        self.what.addItems([MEMBRANES, *further])
        self.what.setCurrentIndex(max(0, self.what.findText(chosen)))
        self._choice.setVisible(bool(further))

    def _proposed(self) -> str:
        source, what = self._session.source, self.what.currentText()
        return what if source is None else f"{source.name}-{what}"

    def _saving(self, target: Target | None, path: Path) -> Work:
        source, what = self._session.at_work, self.what.currentText()
        target = target or Target(path, output_format(path))
        if what == MEMBRANES:
            return saving_membranes(source, target)
        return saving_class(source, what, target)
