"""`emseg segment`: an EM stack or its probabilities in, a file of cells out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from napari_emseg.cli.cells import cells_from_em, cells_from_probabilities
from napari_emseg.cli.evaluate import provenance_of
from napari_emseg.cli.options import (
    CELLS,
    RUN,
    Exclude,
    Ids,
    InputOptions,
    Json,
    OutputFormat,
    Overwrite,
    Region,
    Sections,
)
from napari_emseg.cli.outputs import OutputTarget, check_outputs
from napari_emseg.cli.printing import print_json, print_line
from napari_emseg.cli.scope import ScopeOptions
from napari_emseg.cli.table import Table, TablePath
from napari_emseg.cli.weights import WeightsName, find_weights
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import DEFAULT_WEIGHTS

InputIs = Literal["em", "probabilities"]


def segment(
    input: str,  # noqa: A002 - the word on the command line
    output: Path,
    /,
    *,
    input_is: Annotated[
        InputIs | None,
        Parameter(
            help="Grey values of EM, or probabilities of membrane; known by itself "
            "for files that emseg wrote."
        ),
    ] = None,
    weights: WeightsName = DEFAULT_WEIGHTS,
    sections: Sections = None,
    exclude: Exclude = (),
    roi: Region = None,
    format: OutputFormat = None,  # noqa: A002
    ids: Ids = "keep",
    table: TablePath = None,
    overwrite: Overwrite = False,
    json: Json = False,
    cells: Annotated[CellSettings, Parameter(name="*", group=CELLS)] = CellSettings(),  # noqa: B008 - frozen
    run: Annotated[PredictSettings, Parameter(name="*", group=RUN)] = PredictSettings(),  # noqa: B008
    source: InputOptions = InputOptions(),  # noqa: B008
) -> int:
    """Make cells, uint32 ids, from an EM stack or from probabilities of membrane.

    0 is membrane. No id is in two sections, unless --link finds which profiles are one
    cell. The threshold is that of the weights unless --threshold is given. From
    probabilities the weights and the options of the run are not used. Sections that
    can't be read have no cells: the result is incomplete, and the exit code 1.

    Parameters
    ----------
    input
        A file, a folder or a glob of sections.
    output
        What to write: .tif, .zarr, .mrc, .h5 or .precomputed; --format has more.
    """
    scope = ScopeOptions.of(source.open(input), sections, roi)
    place = OutputTarget(output, format, overwrite, ids)
    asked = None if table is None else Table(table, place)
    is_em = _input_is(scope.stack, input_is) == "em"
    chosen = find_weights(weights, run) if is_em else None
    used = _files_of(weights) if chosen is None else [chosen.path]
    check_outputs(output, table, stacks=[scope.stack], files=used)
    if chosen is not None:
        found = cells_from_em(
            scope, place, chosen, run, cells, exclude=exclude, table=asked
        )
    else:
        found = cells_from_probabilities(
            scope, place, cells, exclude=exclude, table=asked
        )
    if json:
        print_json(found.record)
    else:
        print_line(found.words)
    return int(found.record["state"] == "incomplete")


def _files_of(weights: str) -> list[Path]:
    """Return the file that was named as weights, also where they aren't used."""
    path = Path(weights)
    return [path] if path.is_file() else []


def _input_is(stack: Stack, said: InputIs | None) -> InputIs:
    """Return what the input holds: what the user says, else what it says itself.

    Raises
    ------
    ValueError
        If neither says it, or it holds cells already.
    """
    if said is not None:
        return said
    made = provenance_of(stack)
    if made is not None and made.kind == "membrane":
        return "probabilities"
    what = "doesn't say what it is" if made is None else f"holds {made.kind}"
    msg = f"{stack.name} {what}; say it with --input-is em or probabilities"
    raise ValueError(msg)
