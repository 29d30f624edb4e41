"""`emseg meshes`: surfaces of 3-D cells for Blender, MeshLab, ParaView and others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_emseg.cli.options import InputOptions, Json, numbers
from napari_emseg.cli.outputs import check_outputs
from napari_emseg.cli.printing import print_json, print_line
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.cli.table import WholeNumbers
from napari_emseg.segmentation.meshes import MeshFormat, saving_meshes


def meshes(
    input: str,  # noqa: A002 - the word on the command line
    output: Path,
    /,
    *,
    ids: Annotated[
        tuple[int, ...],
        Parameter(converter=numbers, n_tokens=1, metavar="ID,ID", help="Which cells."),
    ] = (),
    largest: Annotated[
        int, Parameter(help="How many of the largest cells, if --ids names none.")
    ] = 100,
    format: Annotated[MeshFormat, Parameter(help="Of the files.")] = "ply",  # noqa: A002
    json: Json = False,
    source: InputOptions = InputOptions(),  # noqa: B008
) -> None:
    """Write the surfaces of cells, in nm, a file for each.

    Parameters
    ----------
    input
        Cells that are linked through the stack.
    output
        The folder to make.
    """
    cells = source.open(input)
    check_outputs(output, stacks=[cells])
    whole = replace(cells, data=WholeNumbers(cells))
    work = saving_meshes(whole, output, ids=ids, largest=largest, format=format)
    written = run_with_progress(work)
    count = len(list(written.glob(f"cell_*.{format}")))
    if json:
        print_json({"output": str(written), "meshes": count})
    else:
        print_line(f"{written}: {count} meshes")
