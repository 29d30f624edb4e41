"""`emseg export`: what is in one file, written for another program."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_emseg.cli.options import (
    Ids,
    InputOptions,
    Json,
    OutputFormat,
    Overwrite,
    Stored,
    numbers,
)
from napari_emseg.cli.outputs import WholeNumbers, check_outputs, say_kept
from napari_emseg.cli.predict import size_words
from napari_emseg.cli.printing import print_json, print_line
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.core.records import Provenance
from napari_emseg.io import iter_save, open_stack, output_format, output_kind
from napari_emseg.io.writing import iter_save_labelled
from napari_emseg.segmentation.meshes import MeshFormat, saving_meshes


def export(
    input: str,  # noqa: A002 - the word on the command line
    output: Path,
    /,
    *,
    format: OutputFormat = None,  # noqa: A002
    ids: Ids = "keep",
    stored: Stored = "as is",
    image: Annotated[
        str | None,
        Parameter(
            help="The EM that the cells belong to: both go into one OME-Zarr, the "
            "cells as its labels."
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    source: InputOptions = InputOptions(),  # noqa: B008
) -> None:
    """Write a picture, probabilities or cells for another program.

    Parameters
    ----------
    input
        A file, a folder or a glob of sections.
    output
        What to write: .tif, .zarr, .mrc, .h5 or .precomputed; --format has more.
    """
    stack = source.open(input)
    picture = None
    if image is not None:
        picture = open_stack(image).with_voxel_size(source.voxel_size)
    check_outputs(output, stacks=[stack] if picture is None else [stack, picture])
    made = Provenance.of(stack)
    kind = output_kind(format or output_format(output, made))
    if picture is None:
        run_with_progress(
            iter_save(
                output,
                stack,
                provenance=made,
                overwrite=overwrite,
                format=kind.name,
                ids=ids,
                stored=stored,
                on_kept=say_kept,
            )
        )
    else:
        work = iter_save_labelled(
            output,
            picture,
            stack,
            provenance=made,
            overwrite=overwrite,
            format=kind.name,
            on_kept=say_kept,
        )
        run_with_progress(work)
    facts = {"output": str(output), "shape": stack.shape, "format": kind.name}
    if json:
        print_json(facts)
    else:
        print_line(f"{output}: {kind.title}, {size_words(stack.shape)}")


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
    format: Annotated[  # noqa: A002
        MeshFormat,
        Parameter(
            help="Of the files; neuroglancer: in a precomputed folder with the cells."
        ),
    ] = "ply",
    overwrite: Overwrite = False,
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
    work = saving_meshes(
        whole, output, ids=ids, largest=largest, format=format, overwrite=overwrite
    )
    written = run_with_progress(work)
    pattern = "mesh/*.fragment" if format == "neuroglancer" else f"cell_*.{format}"
    count = len(list(written.glob(pattern)))
    if json:
        print_json({"output": str(written), "meshes": count})
    else:
        print_line(f"{written}: {count} meshes")
