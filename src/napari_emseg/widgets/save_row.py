"""Save… under a result: for which program, and what to do if ids don't fit."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QVBoxLayout, QWidget

from napari_emseg.core.records import Record
from napari_emseg.io import OUTPUT_KINDS, OutputKind
from napari_emseg.session.exports import Target
from napari_emseg.widgets.desk import Desk
from napari_emseg.widgets.jobs import Job, Outcome
from napari_emseg.widgets.running import in_words
from napari_emseg.widgets.theme import button, set_role, text_label

Work = Generator[Record, None, Path]


@dataclass(frozen=True, slots=True)
class Choice:
    """A line in the dialog's list of formats, and what it means."""

    words: str
    suffixes: tuple[str, ...]
    target: Target | None = None
    """Format and options; None for the table of cells."""

    @property
    def filter(self) -> str:
        """As Qt wants it."""
        return f"{self.words} ({' '.join(f'*{suffix}' for suffix in self.suffixes)})"


def picture_choices() -> list[Choice]:
    """Return what probabilities can be saved as."""
    kinds = [kind for kind in OUTPUT_KINDS if not kind.cells_only]
    plain = [_choice(kind) for kind in kinds]
    small = [
        replace(
            each,
            words=f"{each.words}, 8 bit",
            target=replace(each.target, stored="uint8") if each.target else None,
        )
        for each in plain
    ]
    return plain + small


def cells_choices() -> list[Choice]:
    """Return what cells can be saved as."""
    plain = [_choice(kind) for kind in OUTPUT_KINDS if not kind.missing]
    with_image = [
        replace(
            each,
            words=f"{each.words}, with the EM",
            target=replace(each.target, with_image=True),
        )
        for each in plain
        if each.target is not None and each.target.format in ("zarr", "zarr-0.4")
    ]
    table = Choice("Table – spreadsheets, R, Python", (".csv",))
    return [*plain, *with_image, table]


def _choice(kind: OutputKind) -> Choice:
    return Choice(kind.words, kind.suffixes, Target(Path(), kind.name))


class SaveRow(QWidget):
    """A button that saves a result in a thread.

    Parameters
    ----------
    choices
        Formats to choose from.
    name
        What the file is called at first, without its ending.
    work
        Makes the work that writes; of None as target, the table at the path.
    """

    def __init__(
        self,
        desk: Desk,
        choices: list[Choice],
        name: Callable[[], str],
        work: Callable[[Target | None, Path], Work],
    ) -> None:
        super().__init__()
        self._desk = desk
        self._choices = choices
        self._name = name
        self._work = work
        self._asked: tuple[Target | None, Path] | None = None
        self.job = Job(in_activity_dock=False)
        self.save = button("Save…", tooltip="For Fiji, IMOD, webKnossos and others.")
        self.message = text_label()
        self.renumber = button("Renumber", tooltip="Count cells anew from 1.")
        self.as_float = button("As float", tooltip="Exact up to id 16,777,216.")
        self._lay_out()
        self._say("", "hint")
        self.save.clicked.connect(self._on_save)
        self.renumber.clicked.connect(lambda: self._again("renumber"))
        self.as_float.clicked.connect(lambda: self._again("float"))
        self.job.ended.connect(self._on_ended)

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        for widget in (self.save, self.renumber, self.as_float):
            row.addWidget(widget)
        row.addStretch()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self.message)

    def save_as(self, path: Path, choice: Choice) -> None:
        """Save as a format; the path gets its ending if it has none of it."""
        if path.suffix.lower() not in choice.suffixes:
            path = path.with_name(path.name + choice.suffixes[0])
        self._start(choice.target, path)

    def _start(self, target: Target | None, path: Path) -> None:
        if self.job.busy:
            return
        if self._desk.job.busy:
            self._say(f"{self._desk.job.title} is running; save after it", "error")
            return
        self._asked = target, path
        try:
            work = self._work(target and replace(target, path=path), path)
        except (OSError, ValueError) as e:
            self._say(str(e), "error")
            return
        self._say(f"saving {path.name} …", "hint")
        self.save.setEnabled(False)
        self.job.start(work, f"Save {path.name}")

    def _again(self, ids: str) -> None:
        if self._asked is None or self._asked[0] is None:
            return
        target, path = self._asked
        self._start(replace(target, ids=ids), path)

    def _on_save(self) -> None:
        filters = [choice.filter for choice in self._choices]
        name, chosen = QFileDialog.getSaveFileName(
            self, "Save", self._name(), ";;".join(filters)
        )
        if name:
            nth = filters.index(chosen) if chosen in filters else 0
            self.save_as(Path(name), self._choices[nth])

    def _on_ended(self, outcome: Outcome) -> None:
        self.save.setEnabled(True)
        if outcome.cause is not None:
            self._say(in_words(outcome.cause), "error")
            return
        if isinstance(outcome.result, Path):
            self._say(f"saved as {outcome.result.name}", "hint")

    def _say(self, message: str, role: str) -> None:
        self.message.setText(message)
        set_role(self.message, role)
        self.message.setVisible(bool(message))
        self.renumber.setVisible("ids renumber" in message)
        self.as_float.setVisible("ids float" in message)
