"""Tasks of an input, and what every stage of its way shares."""

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from napari_emseg.batch.completion_log import SUM, CompletionLog, Facts, checksum, stamp
from napari_emseg.batch.context import Context, Part, parts
from napari_emseg.batch.worker import TaskBody
from napari_emseg.core.records import Provenance
from napari_emseg.io.fingerprint import Loss, describe_losses


@dataclass(frozen=True, slots=True)
class Task:
    """A part of the work of a step; `stamp` is another one if anything differs."""

    step: str
    words: str
    work: TaskBody
    stamp: str
    pixels: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that failed for good, and why."""

    why: str


def is_whole(task: Task, known: Facts) -> bool:
    """Tell if the files of a task are what they were when it was done."""
    # what people may edit needs only be there
    if "path" in known and not Path(known["path"]).exists():
        return False
    if SUM not in known:  # of an older version
        return True
    try:
        return bool(known[SUM] == checksum(task.work.files()))
    except OSError:
        return False


TaskResult = Facts | Failure
Stages = Generator[list[Task], list[TaskResult], None]

Missing = tuple[tuple[int, tuple[int, int, int, int] | None], ...]
"""Places, and corners of their blocks (None: all of it), that have no probabilities."""


@dataclass
class StageResults:
    """What the steps of an input found out; each may build on those before it.

    Parameters
    ----------
    cells
        How many there are.
    seen
        Facts of sections that are too large to be read at once, by place.
    missing
        What has no probabilities.
    counts
        Profiles of each place.
    lost, errors, warnings
        Which sections and parts are left empty and why; what else went wrong; what else
        is worth a word.
    results
        Names of finished ones.
    files
        Paths of what was made of finished results.
    versions
        Of the program, that had a part in the results.
    """

    cells: int | None = None
    seen: dict[int, Facts] = field(default_factory=dict)
    missing: Missing = ()
    counts: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lost: dict[Loss, dict[int | str, str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    versions: tuple[str, ...] = ()

    @property
    def failures(self) -> list[str]:
        """All that went wrong in words; many sections alike are one line."""
        each = (describe_losses(loss, reasons) for loss, reasons in self.lost.items())
        return [*(line for lines in each for line in lines), *self.errors]


@dataclass
class TaskBuilder:
    """An input that results are made of.

    Parameters
    ----------
    base
        Stamp of the input and of all settings that count.
    provenance
        Of the probabilities.
    out
        Folder of finished results.
    versions
        Of the program, that worked on the input; this one is the last.
    places
        Where finished results are, by their names.
    """

    context: Context
    ledger: CompletionLog
    base: str
    provenance: Provenance
    out: Path
    first_id: int = 1
    versions: tuple[str, ...] = ()
    found: StageResults = field(default_factory=StageResults)
    places: dict[str, Path] = field(default_factory=dict)

    def task(
        self, step: str, words: str, work: TaskBody, n: int, *more: object
    ) -> Task:
        """Return a task of `n` sections; `more` is what else it follows from."""
        c = self.context
        number = stamp(self.base, step, words, *more)
        return Task(step, words, work, number, n * c.shape[0] * c.shape[1])

    def part_task(self, step: str, part: Part, work: TaskBody, *more: object) -> Task:
        """Return a task of a part."""
        number = stamp(self.base, step, part.words, *more)
        area = part.area
        height, width = (
            self.context.shape if area is None else (a.stop - a.start for a in area)
        )
        pixels = (part.stop - part.first) * height * width
        return Task(step, part.words, work, number, pixels)

    def parts(self) -> list[Part]:
        """Return the parts in which anything is to be done."""
        c = self.context
        return [
            part
            for part in parts(len(c.sections), c.shape, c.settings)
            if not all(p in c.excluded for p in range(part.first, part.stop))
        ]

    def is_done(self, task: Task) -> bool:
        """Tell if a task was done before, and its files are still there."""
        known = self.ledger.facts(task.stamp)
        return known is not None and not known.get("failed") and is_whole(task, known)

    def lose(self, which: int | str, loss: Loss, why: str) -> None:
        """Note what is left empty: a section of the input by number, or a part."""
        self.found.lost.setdefault(loss, {}).setdefault(which, why)
