"""`emseg batch`: many stacks, or one larger than memory, unattended."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from rich.live import Live
from rich.table import Table
from rich.text import Text

from napari_emseg.batch import (
    BatchConfig,
    BatchSettings,
    ClusterSettings,
    OpenedRecipe,
    Plan,
    Row,
    RowChanged,
    Summary,
    estimate_batch,
    find_inputs,
    plan_batch,
    read_recipe,
    recipe_of,
    run_batch,
    write_recipe,
)
from napari_emseg.batch.recipe import Preset, RecipeExistsError, check_recipe_path
from napari_emseg.batch.recipe import preset as preset_settings
from napari_emseg.batch.where import share_arenas
from napari_emseg.cli.options import (
    CELLS,
    RUN,
    Edges,
    InputOptions,
    Json,
    Overwrite,
    Sections,
)
from napari_emseg.cli.predict import made_facts
from napari_emseg.cli.printing import (
    print_json,
    print_line,
    print_table,
    say,
    talk,
    usage_message,
)
from napari_emseg.cli.progress import LOG_SECONDS, stop_on_signals
from napari_emseg.cli.weights import find_weights
from napari_emseg.core.records import Note, Provenance, Record
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.io import open_stack
from napari_emseg.io.formats import OutputFormat
from napari_emseg.models.weights import DEFAULT_WEIGHTS, Weights
from napari_emseg.segmentation.edge_classifier import check_used, read_edges


class BatchDisplay:
    """The table as it changes where somebody watches, else a line now and then."""

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._watched = sys.stderr.isatty()
        console = talk()
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._console = console
        self._drawn = 0.0

    def __enter__(self) -> BatchDisplay:
        if self._watched:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._watched:
            self._live.stop()

    def show(self, record: Record) -> None:
        """Show what happened."""
        if isinstance(record, Note):
            self._console.print(Text(record.message))
        if isinstance(record, RowChanged):
            before = self._rows.get(record.nth)
            self._rows[record.nth] = record.row
            if not self._watched and _is_news(before, record.row):
                say(_line(record.row))
        now = perf_counter()
        if self._watched and now - self._drawn > 0.25:
            self._drawn = now
            self._live.update(self._table(), refresh=True)
        elif not self._watched and now - self._drawn > LOG_SECONDS:
            self._drawn = now
            for row in self._rows.values():
                if row.state == "running":
                    say(_line(row))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("input", "state", "step", "done", "left"):
            table.add_column(name)
        for row in self._rows.values():
            table.add_row(*map(Text, _shown(row)))
        return table


def _is_news(before: Row | None, now: Row) -> bool:
    return before is not None and before.state != now.state


def _line(row: Row) -> str:
    name, state, step, done, left = _shown(row)
    words = [f"{name}: {state}", step, done if row.state == "running" else "", left]
    return ", ".join(word for word in words if word)


def _shown(row: Row) -> tuple[str, str, str, str, str]:
    left = "" if row.seconds_left is None else f"{duration(row.seconds_left)} left"
    return row.name, row.state, row.step, f"{row.share:.0%}", left


def duration(seconds: float) -> str:
    """Say a time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


WORK = Group("The batch", sort_key=2)

FAILED = 1


def _names(field: str) -> Parameter:
    """Take words with commas between them, with the help that settings have."""
    words = BatchSettings.model_fields[field].description
    return Parameter(metavar="A,B", negative=(), help=words)


@Parameter(name="*", group=WORK)
class BatchOptions(BatchSettings):
    """What a batch does with its inputs, but for the settings of each step."""

    # any word: which steps there are is asked when settings are made
    steps: Annotated[tuple[str, ...], _names("steps")] = ("membranes", "cells")
    export: Annotated[tuple[OutputFormat, ...], _names("export")] = ()
    predict: Annotated[PredictSettings, Parameter(parse=False)] = PredictSettings()
    cells: Annotated[CellSettings, Parameter(parse=False)] = CellSettings()


def batch(
    *inputs: str,
    out: Annotated[Path, Parameter(help="Folder of the results.")],
    recipe: Annotated[
        Path | None,
        Parameter(
            help="Settings and weights of a recipe (.json); options given here win. "
            "Without inputs, its project is the input."
        ),
    ] = None,
    preset: Annotated[
        Preset | None, Parameter(help="Stages and outputs for a common purpose.")
    ] = None,
    save_recipe: Annotated[
        Path | None,
        Parameter(help="Also write what is done as a recipe (.json), for elsewhere."),
    ] = None,
    weights: Annotated[
        str | None,
        Parameter(
            help="Bundled weights (emseg weights list), or a .safetensors file; "
            f"{DEFAULT_WEIGHTS} where neither this nor a recipe says which."
        ),
    ] = None,
    edges: Edges = None,
    only_sections: Sections = None,
    resume: Annotated[
        bool, Parameter(negative=(), help="Resume an interrupted batch.")
    ] = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Only say what it would take.")
    ] = False,
    workers: Annotated[
        int | None,
        Parameter(help="So many processes on this machine, instead of threads."),
    ] = None,
    scheduler: Annotated[
        str | None, Parameter(help="Address of a Dask scheduler, tcp://… or tls://….")
    ] = None,
    json: Json = False,
    work: BatchOptions = BatchOptions(),  # noqa: B008 - frozen
    cells: Annotated[CellSettings, Parameter(name="*", group=CELLS)] = CellSettings(),  # noqa: B008
    run: Annotated[PredictSettings, Parameter(name="*", group=RUN)] = PredictSettings(),  # noqa: B008
    source: InputOptions = InputOptions(),  # noqa: B008
) -> int:
    """Find membranes and cells of many stacks, or of one larger than memory.

    What is finished is kept whatever happens, and --resume does the rest. At the end
    there is a table of all inputs: summary.csv and summary.html.

    Parameters
    ----------
    inputs
        Files, folders of sections, OME-Zarrs (also URLs), projects; globs in quotes.
    """
    if resume and overwrite:
        msg = "--resume goes on with what is there, --overwrite begins anew: take one"
        raise ValueError(msg)
    opened = None if recipe is None else read_recipe(recipe)
    settings = _settings(opened, preset, work, cells, run)
    chosen = _weights(opened, weights, settings)
    project = None if opened is None else opened.project
    if not inputs and opened is not None and opened.recipe.project and project is None:
        msg = (
            f"{opened.path.name} names the project {opened.recipe.project}, which "
            "isn't there; name an input"
        )
        raise ValueError(msg)
    span, by = only_sections or slice(None), _edges(opened, edges)
    if by is not None:
        check_used(settings.cells)
    job = BatchConfig(
        find_inputs(
            inputs or (() if project is None else (str(project),)),
            first=span.start,
            stop=span.stop,
            voxel_size_nm=source.voxel_size,
            choice=_choice(source),
        ),
        out.expanduser(),
        chosen,
        settings,
        where=ClusterSettings(workers, scheduler),
        resume=resume,
        overwrite=overwrite,
        recipe=None if opened is None else opened.label,
        edges=None if by is None else read_edges(by),
        spared=tuple(p for p in (by, recipe and Path(recipe)) if p),
    )
    save = None if save_recipe is None else _RecipeFile(save_recipe, job, by)
    if dry_run:
        plan = plan_batch(job)
        if save is not None:
            save.write()
        return _say_what_it_takes(plan, json=json)
    summary = _follow(job, save)
    if json:
        print_json(_record(summary))
    else:
        _print(summary)
    return 0 if summary.ok else FAILED


def _settings(
    opened: OpenedRecipe | None,
    preset: Preset | None,
    work: BatchOptions,
    cells: CellSettings,
    run: PredictSettings,
) -> BatchSettings:
    """Return the recipe's settings, and over them the preset, and what was given."""
    base = BatchSettings() if opened is None else opened.settings
    if preset is not None:
        base = preset_settings(preset, base)
    given = {name: getattr(work, name) for name in work.model_fields_set}
    settings = BatchSettings(
        **{
            **{name: getattr(base, name) for name in BatchSettings.model_fields},
            **given,
            "predict": base.predict.model_copy(update=_given(run)),
            "cells": base.cells.model_copy(update=_given(cells)),
        }
    )
    if settings.cells.link and settings.steps[-1] == "cells":
        linked = (*settings.steps, "link")
        settings = settings.model_copy(update={"steps": linked})
    return settings


def _given(settings: CellSettings | PredictSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def _weights(
    opened: OpenedRecipe | None, given: str | None, settings: BatchSettings
) -> Weights | None:
    if not settings.need_weights:
        return None
    if given is None and opened is not None and opened.recipe.weights is not None:
        found = opened.weights()
        if found is not None:
            whole = found.whole or found
            return whole.at(settings.predict.depth, settings.predict.heads)
    return find_weights(given or DEFAULT_WEIGHTS, settings.predict)


def _edges(opened: OpenedRecipe | None, given: Path | None) -> Path | None:
    if given is None:
        return None if opened is None else opened.edges()
    return given.expanduser()


class _RecipeFile:
    """A recipe that is written once its batch has been accepted."""

    def __init__(self, path: Path, job: BatchConfig, edges: Path | None) -> None:
        self._path, self._overwrite = path.expanduser(), job.overwrite
        projects = [Path(each.path) for each in job.inputs if each.is_project]
        project = projects[0] if len(projects) == 1 else None
        folder = self._path.parent
        self._recipe = recipe_of(
            job.settings, job.weights, project, folder=folder, edges=edges
        )
        try:
            # what is certain to be refused is, before anything is done
            check_recipe_path(self._path, self._recipe, out=job.out)
        except RecipeExistsError:
            if not self._overwrite:
                raise

    def write(self) -> None:
        """Write it, and say so."""
        overwrite = self._overwrite
        path = write_recipe(self._path, self._recipe, overwrite=overwrite)
        say(f"{path}: the recipe")


def _choice(source: InputOptions) -> list[tuple[str, Any]]:
    names = ("dataset", "series", "level", "channel", "time")
    said = ((name, getattr(source, name)) for name in names)
    return [(name, value) for name, value in said if value is not None]


def _say_what_it_takes(plan: Plan, *, json: bool) -> int:
    found = estimate_batch(plan, timed=True)
    bad = [row for row in plan.rows if row.state == "failed"]
    if json:
        print_json(
            {
                "sections": found.sections,
                "seconds": found.seconds,
                "disk_bytes": found.disk_bytes,
                "memory_bytes": found.memory_bytes,
                "notes": list(found.notes),
                "refused": {row.name: _warnings(row)[0] for row in bad},
            }
        )
    else:
        print_table(("input", "sections", "y", "x", ""), [_size(r) for r in plan.rows])
        print_line(found.words)
        for note in found.notes:
            say(note)
    return FAILED if bad else 0


def _size(row: Row) -> tuple[str, str, str, str, str]:
    y, x = row.shape or ("–", "–")
    sections = "–" if row.sections is None else str(row.sections)
    return row.name, sections, str(y), str(x), "; ".join(_warnings(row))


def _warnings(row: Row) -> tuple[str, ...]:
    """Return the warnings of an input; of one that can't be used, why, and options."""
    if row.error is None:
        return row.warnings
    return (*row.warnings[:-1], usage_message(row.error))


def _follow(job: BatchConfig, recipe: _RecipeFile | None = None) -> Summary:
    """Run a batch to its end and show its table; write its recipe as it begins.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C or SIGTERM; what is finished is kept.
    """
    share_arenas()
    work = run_batch(job)
    with closing(work), ExitStack() as stack:
        display = stack.enter_context(BatchDisplay())
        stopped = stack.enter_context(stop_on_signals())
        while True:
            try:
                record = next(work)
            except StopIteration as end:
                summary: Summary = end.value
                return summary
            if recipe is not None:  # nothing is told before the batch is accepted
                recipe.write()
                recipe = None
            display.show(record)
            if stopped():
                raise stopped.error("; what is finished is kept, go on with --resume")


def _print(summary: Summary) -> None:
    rows = [
        (
            row.name,
            row.state,
            "–" if row.sections is None else str(row.sections),
            "–" if row.cells is None else str(row.cells),
            duration(row.seconds),
            ", ".join(path.name for path in row.outputs),
        )
        for row in summary.rows
    ]
    print_table(("input", "state", "sections", "cells", "time", "results"), rows)
    for row in summary.rows:
        for warning in _warnings(row):
            say(f"{row.name}: {warning}")
    print_line(f"{summary.pages[0]}, {summary.pages[1]}")


def _record(summary: Summary) -> dict[str, Any]:
    state: Literal["done", "incomplete"] = "done" if summary.ok else "incomplete"
    return {
        "state": state,
        "seconds": round(summary.seconds, 3),
        "tasks": summary.tasks,
        "reused": summary.reused,
        "inputs": [
            {
                "name": row.name,
                "path": row.path,
                "state": row.state,
                "sections": row.sections,
                "cells": row.cells,
                "seconds": round(row.seconds, 3),
                "outputs": list(map(str, row.outputs)),
                "warnings": list(_warnings(row)),
                **_made_facts(row),
            }
            for row in summary.rows
        ],
        "pages": list(map(str, summary.pages)),
    }


def _made_facts(row: Row) -> dict[str, Any]:
    """Return how the results of an input came to be, as they say themselves.

    Of cells if there are any; nothing of formats that don't say it.
    """
    told: dict[str, Any] = {}
    for path in row.outputs:
        try:
            made = Provenance.of(open_stack(path))
        except (OSError, ValueError):  # tables and pictures are no stacks
            continue
        if made is not None and (made.kind == "cells" or not told):
            told = made_facts(made)
    return told
