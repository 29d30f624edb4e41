"""Save… under a result: for which program, and what to do if ids don't fit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog

from napari_emseg.core.records import Note, Record
from napari_emseg.io import OUTPUT_KINDS, Ids, OutputKind, output_kind
from napari_emseg.io.errors import IdsDontFitError, OutputExistsError
from napari_emseg.io.output import refuse_to_replace
from napari_emseg.session.exports import Meshes, Target
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.run import JobControls
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.theme import button, follow_stack

if TYPE_CHECKING:
    from napari_emseg.segmentation.meshes import MeshFormat

SAVE = "Save…"

SHOWN_NOTES = 3
"""Of what the work told."""

MESHES: dict[MeshFormat, str] = {
    "ply": "Blender, MeshLab, ParaView",
    "obj": "Blender, nearly every program",
    "stl": "printing, CAD",
}

Work = Generator[Record, None, Path]


@dataclass(frozen=True, slots=True)
class SaveFormat:
    """A line in the dialog's list of formats, and what it means."""

    words: str
    suffixes: tuple[str, ...]
    target: Target | Meshes | None = None
    """Format and options; None for the table of cells."""

    @property
    def filter(self) -> str:
        """As Qt wants it."""
        return f"{self.words} ({' '.join(f'*{suffix}' for suffix in self.suffixes)})"


def picture_choices() -> list[SaveFormat]:
    """Return what probabilities can be saved as."""
    kinds = [kind for kind in OUTPUT_KINDS if not kind.cells_only]
    plain = [_choice(kind) for kind in kinds]
    small = [
        replace(
            each,
            words=f"{each.words}, 8 bit",
            target=replace(each.target, stored="uint8")
            if isinstance(each.target, Target)
            else None,
        )
        for each in plain
    ]
    return plain + small


def cells_choices() -> list[SaveFormat]:
    """Return what cells can be saved as."""
    kinds = [kind for kind in OUTPUT_KINDS if not kind.missing]
    plain = [_choice(kind) for kind in kinds]
    with_image = [
        SaveFormat(
            f"{kind.words}, with the EM",
            kind.suffixes,
            Target(Path(), kind.name, with_image=True),
        )
        for kind in kinds
        if kind.holds_both
    ]
    table = SaveFormat("Table – spreadsheets, R, Python", (".csv",))
    return [*plain, *with_image, *_meshes_choices(), table]


def _meshes_choices() -> list[SaveFormat]:
    plain = [
        SaveFormat(
            f"Meshes, {name.upper()}, in a folder – {programs}", ("",), Meshes(name)
        )
        for name, programs in MESHES.items()
    ]
    kind = output_kind("neuroglancer")
    beside = SaveFormat(
        "Meshes for Neuroglancer, with the cells",
        kind.suffixes,
        Meshes("neuroglancer"),
    )
    return [
        *(plain if find_spec("trimesh") is not None else []),
        *([] if kind.missing else [beside]),
    ]


def _choice(kind: OutputKind) -> SaveFormat:
    return SaveFormat(kind.words, kind.suffixes, Target(Path(), kind.name))


class SaveRow(JobControls):
    """A button that saves a result in a thread, and is Cancel meanwhile.

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
        controller: ViewerController,
        choices: list[SaveFormat],
        name: Callable[[], str],
        work: Callable[[Target | Meshes | None, Path], Work],
    ) -> None:
        self.renumber = button("Renumber", tooltip="Count cells anew from 1.")
        self.as_float = button("As float", tooltip="Exact up to id 16,777,216.")
        super().__init__(
            SAVE,
            "plain",
            tooltip="For Fiji, IMOD, webKnossos and others.",
            after=(self.renumber, self.as_float),
        )
        self._controller = controller
        self._choices = choices
        self._name = name
        self._work = work
        self._asked: tuple[Target | Meshes | None, Path] | None = None
        self._notes: list[str] = []
        self.job = BackgroundJob(in_activity_dock=False)
        self.save = self.button
        self._say("", "hint")
        self._show_state()
        self.save.clicked.connect(self._on_save)
        self.renumber.clicked.connect(lambda: self._again("renumber"))
        self.as_float.clicked.connect(lambda: self._again("float"))
        self.job.recorded.connect(self._on_recorded)
        self.job.advanced.connect(self.show_advance)
        self.job.cancelling.connect(self._on_cancelling)
        self.job.ended.connect(self._on_ended)
        follow_stack(self, controller.session, self._on_stack)

    def save_as(self, path: Path, choice: SaveFormat) -> None:
        """Save as a format; the path gets its ending if it has none of it."""
        if path.suffix.lower() not in choice.suffixes:
            path = path.with_name(path.name + choice.suffixes[0])
        self._start(choice.target, path)

    def _start(self, target: Target | Meshes | None, path: Path) -> None:
        if self.job.busy:
            return
        if self._controller.job.busy:
            self._say(
                f"{self._controller.job.title} is running; save after it", "error"
            )
            return
        self._asked = target, path
        if isinstance(target, Target):
            target = replace(target, path=path)
        try:
            refuse_to_replace(path, self._controller.stacks())
            work = self._work(target, path)
        except (OSError, ValueError) as e:
            self._say(str(e), "error")
            return
        self._notes = []
        self._say(f"saving {path.name} …", "hint")
        self.show_share()
        self.left.setText("")
        self.job.start(work, f"Save {path.name}")
        self._show_state()

    def _again(self, ids: Ids) -> None:
        if self._asked is None:
            return
        target, path = self._asked
        if isinstance(target, Target):
            self._start(replace(target, ids=ids), path)

    def _on_save(self) -> None:
        if self.job.busy:
            self.job.cancel()
            return
        filters = [choice.filter for choice in self._choices]
        name, chosen = QFileDialog.getSaveFileName(
            self, "Save", self._name(), ";;".join(filters)
        )
        if name:
            nth = filters.index(chosen) if chosen in filters else 0
            self.save_as(Path(name), self._choices[nth])

    def _on_stack(self) -> None:
        if not self.job.busy:
            self._say("", "hint")

    def _on_recorded(self, records: Sequence[Record]) -> None:
        self._notes += [r.message for r in records if isinstance(r, Note)]

    def _on_cancelling(self) -> None:
        self.show_stopping()

    def _on_ended(self, outcome: JobResult) -> None:
        self._show_state()
        if outcome.cause is not None:
            taken = isinstance(outcome.cause, OutputExistsError)
            other = "; choose another name" if taken else ""
            self._say(f"{format_record(outcome.cause)}{other}", "error")
            self._offer(outcome.cause)
        elif outcome.cancelled:
            self._say("cancelled", "hint")
        elif isinstance(outcome.result, Path):
            saved = f"saved as {outcome.result.name}"
            self._say("\n".join([saved, *self._notes[:SHOWN_NOTES]]), "hint")

    def _show_state(self) -> None:
        self.show_busy(self.job.busy)

    def _say(self, message: str, role: str) -> None:
        self.say(message, role)
        self._offer(None)

    def _offer(self, error: BaseException | None) -> None:
        """Show the ways out of an error, if it has some."""
        choices = error.ways if isinstance(error, IdsDontFitError) else {}
        self.renumber.setVisible("renumber" in choices)
        self.as_float.setVisible("float" in choices)
