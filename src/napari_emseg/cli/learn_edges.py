"""`emseg learn-edges`: corrected cells in, a classifier of edges out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from cyclopts import Group, Parameter
from numpy.typing import NDArray

from napari_emseg.cli.options import (
    CELLS,
    RUN,
    Exclude,
    InputOptions,
    Json,
    Overwrite,
    Region,
    ScopeOptions,
    Sections,
)
from napari_emseg.cli.outputs import check_outputs
from napari_emseg.cli.predict import refuse_if_unreadable, settled_run
from napari_emseg.cli.printing import option_name, print_json, print_line, say
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.cli.segment import (
    InputIs,
    InputKind,
    cropped,
    files_of_weights,
    kind_of_input,
    predict_through,
    with_threshold,
    without_excluded,
)
from napari_emseg.cli.weights import claimed_weights, find_weights
from napari_emseg.core.records import Provenance
from napari_emseg.core.regions import RunScope
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.io.fingerprint import describe_sections, require_unchanged
from napari_emseg.io.stored import own_ids
from napari_emseg.models.weights import DEFAULT_WEIGHTS, Weights
from napari_emseg.project.folder import PROJECT_SUFFIX, is_project
from napari_emseg.segmentation.edge_classifier import (
    SEEN,
    EdgeClassifier,
    default_classifier,
    read_edges,
    save_edges,
)
from napari_emseg.segmentation.stack import ReadProbabilities

if TYPE_CHECKING:
    from napari_emseg.inference import PredictionResult
    from napari_emseg.project import Project
    from napari_emseg.segmentation.affinities import Affinities
    from napari_emseg.session.session import Session

CELLS_FILE = Group("How to read the cells", sort_key=3)


def learn_edges(
    input: str,  # noqa: A002 - the word on the command line
    cells: str,
    output: Path | None = None,
    /,
    *,
    input_is: InputKind = None,
    weights: Annotated[
        str | None,
        Parameter(
            help="Bundled weights (emseg weights list), or a .safetensors file; by "
            f"default those of the project, or {DEFAULT_WEIGHTS}."
        ),
    ] = None,
    start: Annotated[
        Literal["default", "nothing"] | Path,
        Parameter(
            help="What learns on: a classifier of edges (.json), default (that of the "
            "project, or of napari-emseg-data, where it is installed), or nothing."
        ),
    ] = "default",
    sections: Sections = None,
    exclude: Exclude = (),
    roi: Region = None,
    threshold: Annotated[
        float | None,
        Parameter(
            group=CELLS,
            help="Probability above which a pixel is membrane, as for the cells that "
            "will be found; by default that of the project, or of the weights.",
        ),
    ] = None,
    shift: Annotated[
        int | None,
        Parameter(
            group=CELLS, help=f"{CellSettings.model_fields['shift'].description} Px."
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    run: Annotated[PredictSettings, Parameter(name="*", group=RUN)] = PredictSettings(),  # noqa: B008 - frozen
    source: InputOptions = InputOptions(),  # noqa: B008
    cells_source: Annotated[
        InputOptions, Parameter(name="cells", group=CELLS_FILE)
    ] = InputOptions(),  # noqa: B008
) -> None:
    """Let a classifier of edges learn from cells that are right through the stack.

    It says which fragments are one cell where emseg segment and emseg batch go by one
    graph of all sections: give it to these with --through graph --edges. Cells are ids
    that a person has corrected; 0 says nothing, so a few neurites are a beginning. From
    EM, membranes are predicted first, and affinities by weights that give them. Of a
    project (emseg learn-edges PROJECT OUTPUT) it learns what the window would: from
    cells that were reviewed, locked, merged or split in 3-D. Says how many of the edges
    that it wasn't shown it gets right, and how many before.

    Parameters
    ----------
    input
        EM sections or probabilities of membrane: a file, a folder or a glob; or a
        project, NAME.emseg, which has cells of its own.
    cells
        Cells through the stack, of the same shape; of a project the output.
    output
        The classifier to write: .json.
    """
    of_cells = {"threshold": threshold, "shift": shift}
    by = _LearningOptions(
        weights, start, {n: v for n, v in of_cells.items() if v is not None}, run
    )
    known: Callable[[Path], _LearntEdges]
    if is_project(input):
        files = {
            **{"input_is": input_is, "sections": sections, "roi": roi},
            **{"exclude": exclude, **vars(source)},
            **{f"cells.{name}": value for name, value in vars(cells_source).items()},
        }
        place = _only_output(cells, output, files)
        known = partial(_from_project, Path(input).expanduser(), by)
    else:
        place = _named_output(input, cells, output)
        scope = ScopeOptions.of(source.open(input), sections, roi)
        truth = own_ids(cells_source.open(cells, prefix="cells"))
        kind = kind_of_input(scope.stack, input_is)
        known = partial(_from_files, scope, truth, kind, exclude, by)
    with claimed_weights(place, overwrite=overwrite, suffix=".json"):
        learnt = known(place)
    if json:
        print_json({"output": str(place), **learnt.facts})
    else:
        print_line(f"{place}: {learnt.words}")


@dataclass(frozen=True)
class _LearningOptions:
    """What was said of how edges are learnt.

    Parameters
    ----------
    weights
        None for the usual ones.
    cells
        Settings of cells that were given.
    """

    weights: str | None
    start: str | Path
    cells: Mapping[str, Any]
    run: PredictSettings

    @property
    def files(self) -> list[Path]:
        """Files that they name."""
        return [self.start] if isinstance(self.start, Path) else []


@dataclass(frozen=True)
class _LearntEdges:
    """A classifier that was written, and what it learnt by.

    Parameters
    ----------
    start
        What learnt on; None for nothing.
    weights
        Those that predicted; None where probabilities were given.
    """

    classifier: EdgeClassifier
    start: EdgeClassifier | None
    settings: CellSettings
    weights: Weights | None

    @property
    def facts(self) -> dict[str, Any]:
        """For JSON."""
        start, used, about = self.start, self.weights, self.classifier.about
        return {
            "sha256": self.classifier.sha256,
            "start": None if start is None else start.name,
            "start_sha256": None if start is None else start.sha256,
            "weights": None if used is None else used.card.name,
            "weights_sha256": None if used is None else used.sha256,
            "affinities": self.classifier.knows_affinities("between"),
            "threshold": self.settings.threshold,
            "shift": self.settings.shift,
            "edges": about["edges"],
            "scores": about["scores"],
        }

    @property
    def words(self) -> str:
        """For people."""
        within, between = (self.classifier.about["edges"][k] for k in SEEN)
        before = "nothing"
        if self.start is not None:
            before = f"the classifier {self.start.sha256[:8]}"
        return (
            f"learnt from {within:,} edges within sections and {between:,} "
            f"between them, beginning from {before}"
        )


def _from_files(
    scope: ScopeOptions,
    cells: Stack,
    kind: InputIs,
    exclude: Sequence[int],
    by: _LearningOptions,
    output: Path,
) -> _LearntEdges:
    """Learn from cells in a file, and write what was learnt."""
    from napari_emseg.training.edges import check_linked, iter_learn_edges

    truth, begun = _cells_of(cells, scope), _classifier(by.start)
    weights = by.weights or DEFAULT_WEIGHTS
    chosen = find_weights(weights, by.run) if kind == "em" else None
    used = files_of_weights(weights) if chosen is None else [chosen.path]
    with require_unchanged(scope.stack, cells):
        check_outputs(output, stacks=[scope.stack, cells], files=[*used, *by.files])
        check_linked(truth)
        settings = _edge_settings(scope.stack, chosen, by.cells)
        membrane, affinities = _learnt_from(scope, chosen, by.run, exclude)
        work = iter_learn_edges(
            membrane,
            truth,
            settings,
            affinities=affinities,
            start=begun,
            about=f"cells of {cells.name}",
        )
        found = run_with_progress(work)
        save_edges(found, output)
    return _LearntEdges(found, begun, settings, chosen)


def _named_output(source: str, cells: str, output: Path | None) -> Path:
    """Return where to write what cells in a file teach.

    Raises
    ------
    ValueError
        If it isn't said.
    FileNotFoundError
        If a project is named that isn't there.
    """
    if output is not None:
        return output
    if Path(source).suffix == PROJECT_SUFFIX:
        msg = f"no such project: {source}"
        raise FileNotFoundError(msg)
    msg = (
        f"only {source} and {cells} are named; name an input, its cells and what to "
        "write (.json), or a project (NAME.emseg) and what to write"
    )
    raise ValueError(msg)


def _only_output(cells: str, output: Path | None, files: Mapping[str, Any]) -> Path:
    """Return where to write what a project teaches.

    Raises
    ------
    ValueError
        If anything is said that a project says itself.
    """
    if output is not None:
        msg = f"a project has cells of its own; leave out {cells}"
        raise ValueError(msg)
    said = [option_name(n) for n, value in files.items() if value not in (None, ())]
    if said:
        msg = (
            f"{said[0]} is for files; a project says how its stack is read and which "
            "cells are right"
        )
        raise ValueError(msg)
    return Path(cells)


def _from_project(folder: Path, by: _LearningOptions, output: Path) -> _LearntEdges:
    """Learn what a person has done in a project, which is only read."""
    from napari_emseg.session.edge_learning import sections_to_predict
    from napari_emseg.session.projects import adopt, iter_open_project
    from napari_emseg.session.session import Session

    opened = run_with_progress(iter_open_project(folder, read_only=True))
    with closing(opened.keeping) as keeping, require_unchanged(opened.stack):
        check_outputs(output, stacks=[opened.stack], files=[folder, *by.files])
        found = keeping.project.compare_source(opened.stack)
        if found.state == "changed":
            raise ValueError(found.words)
        begun = _own_classifier(keeping.project, by.start) or _classifier(by.start)
        session = Session(redo_reviewed=True)
        source = adopt(session, folder.name, opened)
        lacking = sections_to_predict(source)
        for note in keeping.notes:
            say(note)
        _choose(session, by, needed=bool(lacking))
        learnt = _learnt_in(session, lacking, begun)
        save_edges(learnt, output)
    used = session.weights if lacking else None
    return _LearntEdges(learnt, begun, session.cell_settings, used)


def _own_classifier(project: Project, start: str | Path) -> EdgeClassifier | None:
    """Return the classifier of a project, if that shall learn on.

    Raises
    ------
    ValueError
        If it can't be read.
    """
    if start != "default":
        return None
    try:
        return project.edges()
    except (OSError, ValueError) as e:
        msg = (
            f"the project's classifier of edges can't be read ({e}); put the file "
            "back, or say with --start what learns on"
        )
        raise ValueError(msg) from e


def _choose(session: Session, by: _LearningOptions, *, needed: bool) -> None:
    """Choose what is asked for in the place of what a project says.

    Raises
    ------
    ValueError
        If there are no weights, and some are needed.
    """
    run = by.run
    given = {name: getattr(run, name) for name in run.model_fields_set}
    session.choose_settings(session.predict_settings.model_copy(update=given))
    if by.weights is not None:
        session.choose_weights(find_weights(by.weights, run))
    if needed and session.weights is None:
        msg = "the weights of the project are not known; name some with --weights"
        raise ValueError(msg)
    # weights are asked for affinities only where cells go through the stack
    cells = session.cell_settings.model_dump() | {"through": "graph", **by.cells}
    session.cell_settings = CellSettings(**cells)


def _learnt_in(
    session: Session, lacking: Sequence[int], start: EdgeClassifier | None
) -> EdgeClassifier:
    """Predict sections that lack membranes, and learn."""
    from napari_emseg.session.edge_learning import learn_edges
    from napari_emseg.session.run_factory import RunFactory

    if lacking:
        run = RunFactory(session).predict(RunScope(tuple(lacking)))
        if run.check is not None:
            run.check()
        _warn_of_lost(run_with_progress(run.work))
    work = learn_edges(session.at_work, session.cell_settings, start)
    return run_with_progress(work).classifier


def _warn_of_lost(result: PredictionResult) -> None:
    """Say which sections teach nothing, since they can't be read.

    Raises
    ------
    OSError
        If not a single one can be read.
    """
    refuse_if_unreadable(result)
    if result.damaged:
        words = describe_sections(result.damaged)
        say(f"warning: {words} can't be read, so nothing is learnt there")


@dataclass(frozen=True)
class _SectionsAsked:
    """Sections of an array `(z, y, x)`, counted from the first that is asked for."""

    data: LazyArray
    sections: range
    excluded: Sequence[int] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.sections), *self.data.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Return a section; NaN if it is excluded."""
        z = self.sections[int(key)]
        if z in self.excluded:
            return np.full(self.shape[1:], np.nan, np.float32)
        return np.asarray(self.data[z])


def _cells_of(stack: Stack, scope: ScopeOptions) -> LazyArray:
    """Return the cells of what is asked for, from a file of these or of all sections.

    Raises
    ------
    ValueError
        If they have another shape, or the file says that it holds something else.
    """
    made = Provenance.of(stack)
    if made is not None and made.kind != "cells":
        msg = f"{stack.name} holds {made.kind}, not cells"
        raise ValueError(msg)
    if stack.shape == scope.shape:
        return stack.data
    if stack.shape == scope.stack.shape:
        return _SectionsAsked(cropped(stack, scope.region).data, scope.sections)
    here, asked = (" × ".join(map(str, s)) for s in (stack.shape, scope.shape))
    msg = f"{stack.name} has {here} voxels (z, y, x), but {asked} are asked for"
    raise ValueError(msg)


def _classifier(start: str | Path) -> EdgeClassifier | None:
    """Return what learns on; None where it begins from nothing."""
    if isinstance(start, Path):
        return read_edges(start)
    return default_classifier() if start == "default" else None


def _edge_settings(
    stack: Stack, weights: Weights | None, asked: Mapping[str, Any]
) -> CellSettings:
    """Return the settings by which edges are found, as cells will be."""
    settings = CellSettings(**asked)
    made = Provenance.of(stack)
    known = None if made is None else made.threshold
    known = known if weights is None else weights.card.threshold
    return settings if known is None else with_threshold(settings, known)


def _learnt_from(
    scope: ScopeOptions,
    weights: Weights | None,
    run: PredictSettings,
    exclude: Sequence[int],
) -> tuple[LazyArray, Affinities | None]:
    """Return membranes, NaN where nothing is known, and affinities; predict of EM."""
    kept = without_excluded(scope, exclude)
    if weights is None:
        read = ReadProbabilities(cropped(scope.stack, scope.region))
        return _SectionsAsked(read, scope.sections, exclude), None
    run, _ = settled_run(scope, weights, run, kept, excluded=exclude)
    seen = predict_through(scope, weights, run, exclude)
    _warn_of_lost(seen.result)
    membrane = ReadProbabilities(seen.stack)
    found = seen.affinities
    first = scope.sections[0]
    return (
        _SectionsAsked(membrane, scope.sections, (*exclude, *seen.result.damaged)),
        None if found is None else found.starting(first),
    )
