"""`emseg weights`: which weights there are, and what their cards say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from napari_emseg.cli.cards import card_record, card_row, print_card, size_of
from napari_emseg.cli.options import Json, Overwrite
from napari_emseg.cli.printing import print_json, print_line, print_table, say
from napari_emseg.core.settings import Heads, PredictSettings
from napari_emseg.models.weights import (
    SUFFIX,
    Weights,
    list_weights,
    load_weights,
    save_part,
)

DEFAULT_WEIGHTS = "isbi2012-unet"

WeightsName = Annotated[
    str, Parameter(help="Bundled weights (emseg weights list), or a .safetensors file.")
]

app = App(
    name="weights",
    help="List weights, or show what is known of one.",
    help_epilogue="Example: emseg weights list",
)


@app.command(name="list", help_epilogue="Example: emseg weights list")
def list_(*, json: Json = False) -> None:
    """List the weights that come with the package."""
    found = list_weights()
    if json:
        print_json({name: card_record(weights) for name, weights in found.items()})
        return
    if not found:
        say("no weights are bundled in this installation")
    print_table(
        ("name", "network", "trained at", "V_Rand", "V_Info", "size"),
        [card_row(name, weights) for name, weights in found.items()],
    )


@app.command(help_epilogue="Example: emseg weights show isbi2012-unet")
def show(weights: WeightsName, /, *, json: Json = False) -> None:
    """Show a card: what it learnt from, how well it does, its licence."""
    found = find_weights(weights)
    if json:
        print_json(card_record(found))
        return
    print_card(found)


@app.command(
    help_epilogue="Example: emseg weights prune isbi2012-unetpp small.safetensors "
    "--depth 2"
)
def prune(
    weights: WeightsName,
    output: Path,
    /,
    *,
    depth: Annotated[int, Parameter(help="Levels below the first that are kept.")],
    heads: Annotated[
        Heads, Parameter(help="last: only that head; mean: the mean of heads 1 to it.")
    ] = "last",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Cut a network with depth (U-Net++), and write what is left: a smaller file.

    Parameters
    ----------
    output
        The weights file to write: .safetensors.
    """
    part = find_weights(weights).at(depth, heads)
    refuse_output(output, overwrite=overwrite)
    written = save_part(output, part)
    if json:
        print_json(card_record(written))
    else:
        print_line(
            f"{output}: {written.card.parameters:,} of "
            f"{find_weights(weights).card.parameters:,} parameters, {size_of(written)}"
        )


def refuse_output(output: Path, *, overwrite: bool) -> None:
    """Check that a weights file may be written there, before hours are spent.

    Raises
    ------
    ValueError, OSError
        If its name won't do, it exists, or its folder is missing or not writable.
    """
    from napari_emseg.io.output import Output

    if output.suffix != SUFFIX:
        msg = f"weights files end in {SUFFIX}, got {output}"
        raise ValueError(msg)
    Output(output, overwrite=overwrite)


def find_weights(weights: str, run: PredictSettings | None = None) -> Weights:
    """Load weights by name or file, as deep as the options of a run say.

    Raises
    ------
    ValueError
        If there are none of that name, those that exist are named; or none so deep.
    FileNotFoundError
        If there is no such file.
    OSError
        If the file is damaged.
    """
    try:
        found = load_weights(weights)
    except ValueError as e:
        if Path(weights).is_file():
            raise OSError(str(e)) from e
        raise
    return found if run is None else found.at(run.depth, run.heads)
