"""`emseg weights`: which weights there are, and what their cards say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from napari_emseg.cli.options import Json, Overwrite
from napari_emseg.cli.printing import print_json, print_line, print_table, say
from napari_emseg.core.card import DataSet
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
        print_json({name: _record(weights) for name, weights in found.items()})
        return
    if not found:
        say("no weights are bundled in this installation")
    print_table(
        ("name", "network", "trained at", "V_Rand", "V_Info", "size"),
        [_row(name, weights) for name, weights in found.items()],
    )


@app.command(help_epilogue="Example: emseg weights show isbi2012-unet")
def show(weights: WeightsName, /, *, json: Json = False) -> None:
    """Show a card: what it learnt from, how well it does, its licence."""
    found = find_weights(weights)
    if json:
        print_json(_record(found))
        return
    for line in card_lines(found):
        print_line(line)


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
        print_json(_record(written))
    else:
        print_line(
            f"{output}: {written.card.parameters:,} of "
            f"{find_weights(weights).card.parameters:,} parameters, {_size(written)}"
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


def card_lines(weights: Weights) -> list[str]:
    """Return a card in words."""
    card, made = weights.card, weights.card.training
    pairs = [
        ("name", card.name),
        ("", card.summary),
        ("file", f"{weights.path} ({_size(weights)})"),
        ("network", f"{card.architecture}, {card.parameters:,} parameters"),
        ("classes", ", ".join(card.classes)),
        ("trained at", _pixel_size(weights)),
        ("threshold", f"{card.threshold:g} (fixed on the validation set)"),
        *(("trained on", _data(each)) for each in card.training_data),
        *(("validated on", _data(each)) for each in card.validation_data),
        *(("held out", _data(each)) for each in card.held_out_data),
        ("scores", ", ".join(f"{k} {v:.4f}" for k, v in card.scores.items())),
        ("training", f"{made.steps} steps, {made.seconds / 60:.0f} min, {made.date}"),
        ("", made.hardware),
        *(("note", note) for note in card.notes),
        ("licence", card.licence),
        *(("cite", each) for each in _citations(weights)),
    ]
    return [f"{key:<13}{value}" for key, value in pairs if value]


def _row(name: str, weights: Weights) -> tuple[str, ...]:
    card = weights.card
    scores = (card.scores.get(score) for score in ("v_rand", "v_info"))
    return (
        name,
        card.architecture,
        _pixel_size(weights),
        *("–" if value is None else f"{value:.4f}" for value in scores),
        _size(weights),
    )


def _record(weights: Weights) -> dict[str, Any]:
    return {
        "path": str(weights.path),
        "sha256": weights.sha256,
        "card": weights.card.model_dump(mode="json"),
    }


def _citations(weights: Weights) -> list[str]:
    card = weights.card
    sets = (*card.training_data, *card.validation_data, *card.held_out_data)
    return list(dict.fromkeys(each.citation for each in sets))


def _data(data: DataSet) -> str:
    licence = f" (licence: {data.licence})" if data.licence else ""
    return f"{data.name}, sections {data.sections}{licence}"


def _pixel_size(weights: Weights) -> str:
    size = weights.card.pixel_size_nm
    if size is None:
        return "any size"
    y, x = size
    return f"{y:g} nm/px" if y == x else f"{y:g} × {x:g} nm/px"


def _size(weights: Weights) -> str:
    return f"{weights.path.stat().st_size / 2**20:.1f} MiB"
