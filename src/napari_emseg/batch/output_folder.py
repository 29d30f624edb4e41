"""May a batch begin? What is there already is never mixed, nor replaced unasked."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from napari_emseg.batch.completion_log import sum_of
from napari_emseg.batch.job import (
    LEDGER,
    BatchConfig,
    DifferentBatchError,
    Memory,
    UnfinishedBatchError,
    edges_path,
    refuse_links,
    remember,
    remembered,
)
from napari_emseg.batch.planning import Plan
from napari_emseg.batch.records import Row, State
from napari_emseg.batch.step import steps_of
from napari_emseg.core.atomic import check_replaceable, write_whole
from napari_emseg.core.errors import UnusableInputsError, first_fault
from napari_emseg.core.paths import is_link, read_bounded, remove_inside
from napari_emseg.io.errors import OutputExistsError
from napari_emseg.io.formats import output_kind
from napari_emseg.io.output import check_distinct, input_paths
from napari_emseg.segmentation.edge_classifier import save_edges

NAME, CSV = "summary.json", "summary.csv"

MOST_BYTES = 2**28
"""Of a summary; an input takes about 2,000."""


class FinishedInput(BaseModel):
    """An input of a batch that has ended: its row, and by what results are known.

    Parameters
    ----------
    outputs
        Names in the folder of results.
    made
        With which settings and weights, of which input; None of older batches.
    sections
        First and last that were asked for.
    sum
        Of names and sizes of all files of the results.
    recipe
        Name and checksum of the recipe that it went by.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    path: str
    state: State
    shape: tuple[int, int, int] | None = None
    cells: int | None = None
    seconds: float = 0.0
    outputs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    made: Memory | None = None
    sections: tuple[int, int] | None = None
    sum: str = ""
    recipe: str | None = None

    @field_validator("outputs")
    @classmethod
    def _beside(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what isn't in the folder of results itself."""
        for name in names:
            if name in ("", ".", "..") or set(name) & set("/\\"):
                msg = f"{name!r} is no name in the folder of results"
                raise ValueError(msg)
        return names

    @property
    def versions(self) -> tuple[str, ...]:
        """Of the program, that had a part in it; none are known of older batches."""
        return () if self.made is None else self.made.versions

    def row(self, out: Path) -> Row:
        """As the table shows it."""
        return Row(
            self.name,
            self.path,
            state=self.state,
            share=1.0 if self.state == "done" else 0.0,
            seconds=self.seconds,
            sections=None if self.shape is None else self.shape[0],
            shape=None if self.shape is None else self.shape[1:],
            cells=self.cells,
            outputs=tuple(out / name for name in self.outputs),
            warnings=self.warnings,
        )


class _Summary(BaseModel):
    inputs: tuple[FinishedInput, ...] = ()


def finished_input(
    row: Row,
    made: Memory | None,
    sections: range | None,
    recipe: str | None = None,
) -> FinishedInput:
    """Return what is remembered of a row when a batch ends."""
    return FinishedInput(
        name=row.name,
        path=row.path,
        state=row.state,
        shape=None
        if row.sections is None or row.shape is None
        else (row.sections, *row.shape),
        cells=row.cells,
        seconds=round(row.seconds, 3),
        outputs=tuple(path.name for path in row.outputs),
        warnings=row.warnings,
        made=made,
        sections=None if sections is None else (sections[0], sections[-1]),
        sum=sum_of(row.outputs),
        recipe=recipe,
    )


def read_finished(out: Path) -> dict[str, FinishedInput]:
    """Return what batches before finished in a folder of results, by name.

    Raises
    ------
    ValueError
        If the file holds what no summary does.
    OSError
        If it can't be read.
    """
    path = out / NAME
    if not os.path.lexists(path):
        return {row.name: row for row in _rows_of_csv(out / CSV)}
    try:
        found = _Summary.model_validate_json(read_bounded(path, MOST_BYTES))
    except ValidationError as e:
        msg = f"{path} is damaged ({first_fault(e)}); remove it to begin a new one"
        raise ValueError(msg) from e
    return {each.name: each for each in found.inputs}


def finished_before(job: BatchConfig) -> Memory | None:
    """Return by what an input is known that was finished before a batch goes on."""
    if not job.resume or job.overwrite:
        return None
    try:
        known = read_finished(job.out)
    except (OSError, ValueError):
        return None  # `check` says why
    finished = (known.get(given.name) for given in job.inputs)
    return next((one.made for one in finished if one and one.made), None)


def write_finished(out: Path, inputs: Iterable[FinishedInput]) -> Path:
    """Write what is finished by now.

    Raises
    ------
    OSError
        If it can't be written.
    """
    text = _Summary(inputs=tuple(inputs)).model_dump_json(indent=1)
    write_whole(out / NAME, f"{text}\n")
    return out / NAME


def merge_finished(
    before: dict[str, FinishedInput], now: Sequence[FinishedInput], out: Path
) -> list[FinishedInput]:
    """Return rows of batches before whose results are still there, then new ones."""
    names = {each.name for each in now}
    earlier = [each for each in before.values() if each.name not in names]
    # rows of inputs that this batch doesn't have stay in the
    # summary as long as their files
    kept = [e for e in earlier if all((out / name).exists() for name in e.outputs)]
    return [*kept, *now]


def is_finished(
    known: FinishedInput, job: BatchConfig, made: Memory, sections: range
) -> bool:
    """Tell if results are there as they were finished, and made as is wanted now.

    Raises
    ------
    ValueError
        If they were made of another input, or otherwise.
    """
    if known.state != "done" or known.made is None:
        return False
    other = known.made.differences(made, job.settled)
    if known.sections != (sections[0], sections[-1]):
        other.append("other sections are asked for")
    if other:
        msg = f"{known.name} in {job.out} was another one ({'; '.join(other)})"
        raise DifferentBatchError(msg)
    paths = [job.out / name for name in known.outputs]
    return all(p.exists() for p in paths) and sum_of(paths) == known.sum


def _rows_of_csv(path: Path) -> list[FinishedInput]:
    """Return rows of a summary that was written before there was one as JSON."""
    try:
        text = read_bounded(path, MOST_BYTES).decode()
        return [_row_of_csv(line) for line in csv.DictReader(text.splitlines())]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError):
        return []  # somebody else's table


def _row_of_csv(line: dict[str, str]) -> FinishedInput:
    if line["state"] not in get_args(State):
        raise ValueError(line["state"])
    size = [line[name] for name in ("sections", "height_px", "width_px")]
    z, y, x = (int(n) for n in size) if all(size) else (0, 0, 0)
    return FinishedInput(
        name=line["name"],
        path=line["source"],
        state=cast("State", line["state"]),
        shape=(z, y, x) if z else None,
        cells=int(line["cells"]) if line["cells"] else None,
        seconds=float(line["seconds"]),
        outputs=tuple(filter(None, line["results"].split("; "))),
        warnings=tuple(filter(None, line["warnings"].split("; "))),
    )


def check(plan: Plan) -> dict[int, FinishedInput]:
    """Refuse what would mix, or replace without being told to; nothing is changed.

    Returns what is finished already, by the numbers of rows.

    Raises
    ------
    ValueError
        If no input can be used, a result would replace or change one, or a batch that
        is gone on with was another one.
    FileExistsError
        If there are results, or an unfinished batch, and neither `resume` nor
        `overwrite` is set.
    OSError
        If something that a batch writes to is a link, or is held by a program.
    """
    job = plan.job
    refuse_links(job)
    if not any(plan.planned):
        raise UnusableInputsError([row.error for row in plan.rows if row.error])
    _spare_inputs(plan)
    if job.overwrite:
        finals = (x for p in plan.planned if p is not None for x in p.finals(job.out))
        for path in filter(Path.exists, finals):
            check_replaceable(path)
        return {}
    before = remembered(job)
    if before is not None and not job.resume:
        msg = f"an unfinished batch is in {job.out}"
        raise UnfinishedBatchError(msg)
    if before is not None and (other := before.differences(plan.memory)):
        msg = f"the batch in {job.out} was another one ({'; '.join(other)})"
        raise DifferentBatchError(msg)
    return {} if before is not None else _finished(plan)


def _spare_inputs(plan: Plan) -> None:
    """Refuse results in the place of inputs, of each other, or of what was read."""
    job = plan.job
    read = [*job.spared, *([] if job.weights is None else [job.weights.path])]
    endings = [step.ending for step in steps_of(job.settings) if step.ending]
    written = []
    for planned in filter(None, plan.planned):
        given = Path(planned.context.given.path)
        read += [*input_paths(planned.stack), *([given] if given.exists() else [])]
        for final in planned.finals(job.out):
            written.append(final)
            written += [final.with_suffix(e) for e in endings]
            for name in job.settings.export:
                kind = output_kind(name)
                stem = f"{final.stem}-{name}"
                written.append(final.with_name(f"{stem}{kind.suffixes[0]}"))
    check_distinct(written, read)


def _finished(plan: Plan) -> dict[int, FinishedInput]:
    """Return what no part is left of; refuse other results that are there.

    Of a batch that is gone on with, results that were finished and are damaged by now
    are made again.
    """
    job = plan.job
    known = read_finished(job.out) if job.resume else {}
    found: dict[int, FinishedInput] = {}
    for nth, planned in enumerate(plan.planned):
        if planned is None:
            continue
        finals = planned.finals(job.out)
        own = known.get(planned.context.given.name)
        if own is not None and _has_all(own, finals, job):
            if is_finished(own, job, planned.made, planned.context.sections):
                found[nth] = own
            continue
        there = [path for path in finals if os.path.lexists(path)]
        if there:
            raise OutputExistsError(there[0])
    return found


def _has_all(own: FinishedInput, finals: list[Path], job: BatchConfig) -> bool:
    """Tell if an input was finished with all results that are wanted now."""
    wanted = {path.name for path in finals}
    if own.state != "done" or own.made is None or not wanted <= set(own.outputs):
        return False
    endings = [step.ending for step in steps_of(job.settings) if step.ending]
    if not all(any(n.endswith(e) for n in own.outputs) for e in endings):
        return False
    return all(any(f"-{e}." in n for n in own.outputs) for e in job.settings.export)


def clear(plan: Plan) -> None:
    """Remove what is unfinished in the folder of results, if that is to be replaced."""
    job = plan.job
    if not job.overwrite:
        return
    for path in job.folder.iterdir():
        if path.is_dir() and not is_link(path):
            remove_inside(job.folder, path.name)
    remove_inside(job.folder, LEDGER)


def note(plan: Plan) -> None:
    """Write down what is done here, beside inputs of a run before, and by what."""
    own = (p.own_edges for p in plan.planned if p is not None)
    used = {e.sha256: e for e in (plan.job.edges, *own) if e is not None}
    for edges in used.values():
        save_edges(edges, edges_path(plan.job, edges.sha256))
    now = plan.memory
    known = {} if plan.before is None else plan.before.inputs
    merged = {**known, **now.inputs}
    remember(plan.job, now.model_copy(update={"inputs": merged}))
