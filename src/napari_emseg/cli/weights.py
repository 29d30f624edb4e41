"""`emseg weights`: which weights there are, and what their cards say."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from napari_emseg.cli.options import (
    NETWORK,
    Json,
    NetworkShape,
    Overwrite,
    network_config,
)
from napari_emseg.cli.outputs import check_outputs
from napari_emseg.cli.printing import print_json, print_line, print_table, say
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.core.card import Card, DataSet, Variant, format_score
from napari_emseg.core.settings import Heads, PredictSettings
from napari_emseg.models.weights import (
    SUFFIX,
    Weights,
    list_weights,
    load_weights,
    missing_weights,
    own_folder,
    save_part,
)

WAYS = (
    *("way", "parameters", "V_Rand", "V_Info", "cells: V_Rand", "cells: VI"),
    *("threshold", "ms/Mpx on CPU"),
)


OF_WAYS = ("v_rand", "v_info", "cells_v_rand")


def _offsets(card: Card) -> str:
    """Return how far affinities lead along each axis: `z 1, y 1 3 9`."""
    names = [name.removeprefix("affinity ") for name in card.affinity_classes]
    along = {axis: [n[1:] for n in names if n[0] == axis] for axis in "zyx"}
    return ", ".join(f"{axis} {' '.join(n)}" for axis, n in along.items() if n)


def card_lines(weights: Weights) -> list[str]:
    """Return a card in words."""
    card, made = weights.card, weights.card.training
    pairs = [
        ("name", card.name),
        ("", card.summary),
        ("file", f"{weights.path} ({size_of(weights)})"),
        ("network", f"{card.architecture}, {card.parameters:,} parameters"),
        *([("sees", f"{card.context} sections")] if card.context > 1 else []),
        ("classes", ", ".join(card.pixel_classes)),
        *([("affinities", _offsets(card))] if card.affinities else []),
        ("trained at", _pixel_size(weights)),
        ("threshold", f"{card.threshold:g} ({_threshold_words(card)})"),
        *(("trained on", _data(each)) for each in card.training_data),
        *(("validated on", _data(each)) for each in card.validation_data),
        *(("held out", _data(each)) for each in card.held_out_data),
        (
            "scores",
            ", ".join(f"{k} {format_score(k, v)}" for k, v in card.scores.items()),
        ),
        ("training", f"{made.steps} steps, {made.seconds / 60:.0f} min, {made.date}"),
        ("", made.hardware),
        *(("note", note) for note in card.notes),
        ("licence", card.licence),
        *(("cite", each) for each in _citations(weights)),
    ]
    return [f"{key:<13}{value}" for key, value in pairs if value]


def _threshold_words(card: Card) -> str:
    """Say where a threshold comes from; one that isn't as at first was chosen."""
    if "corrections" in card.training.settings:  # a round of learning from them
        learnt = card.training.steps > 0
        return "best for cells in what was learnt" if learnt else "as its parent's"
    at_first = Card.model_fields["threshold"].default
    chosen = card.validation_data or card.threshold != at_first
    return "fixed on the validation set" if chosen else "not fixed: no validation set"


def print_card(weights: Weights) -> None:
    """Print a card, and a table of the ways to run it where it knows of several."""
    for line in card_lines(weights):
        print_line(line)
    ways = weights.card.variants
    if ways:
        print_line("")
        print_table(WAYS, [_way_row(weights.card, way) for way in ways])


def _way_row(card: Card, way: Variant) -> tuple[str, ...]:
    scores = way.scores.get
    ms = way.ms_per_megapixel.get("cpu")
    return (
        way.words,
        f"{way.parameters:,}" if way.parameters else "–",
        # the VI of cells of several data sets had no name of its own
        *(_score(scores(name)) for name in OF_WAYS),
        _score(scores("cells_vi", scores("vi"))),
        f"{card.threshold_of(way.depth, way.heads, tta=way.tta):g}",
        "–" if ms is None else f"{ms:.0f}",
    )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def card_row(name: str, weights: Weights) -> tuple[str, ...]:
    """Return a line of the list of weights."""
    card = weights.card
    scores = (card.scores.get(score) for score in ("v_rand", "v_info"))
    return (
        name,
        card.architecture,
        _pixel_size(weights),
        *map(_score, scores),
        size_of(weights),
    )


def card_record(weights: Weights) -> dict[str, Any]:
    """Return file and card for JSON."""
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
    return f"{data.words}{licence}"


def _pixel_size(weights: Weights) -> str:
    size = weights.card.pixel_size_nm
    if size is None:
        return "any size"
    y, x = size
    return f"{y:g} nm/px" if y == x else f"{y:g} × {x:g} nm/px"


def size_of(weights: Weights) -> str:
    """Say how large the file is."""
    return f"{weights.path.stat().st_size / 2**20:.1f} MiB"


WeightsName = Annotated[
    str, Parameter(help="Bundled weights (emseg weights list), or a .safetensors file.")
]

DEPTH = Parameter(help="Levels below the first that are kept, of a U-Net++.")
HEADS = Parameter(help="last: only that head; mean: the mean of heads 1 to it.")

app = App(
    name="weights",
    help="List, show, cut, import and export weights.",
    help_epilogue="Example: emseg weights list",
)


@app.command(name="list", help_epilogue="Example: emseg weights list")
def list_(*, json: Json = False) -> None:
    """List the weights that come with the package, and your own."""
    found = list_weights(own_folder())
    for how in missing_weights().values():
        say(how)
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
    depth: Annotated[int, DEPTH],
    heads: Annotated[Heads, HEADS] = "last",
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
    check_outputs(output, files=[part.path])
    with claimed_weights(output, overwrite=overwrite):
        written = save_part(output, part)
    if json:
        print_json(card_record(written))
    else:
        print_line(
            f"{output}: {written.card.parameters:,} of "
            f"{find_weights(weights).card.parameters:,} parameters, {size_of(written)}"
        )


CREDITS = (
    "to publish it in the collection of BioImage.IO, give --author, --maintainer and "
    "--licence"
)


@app.command(help_epilogue="Example: emseg weights export isbi2012-unet unet.zip")
def export(
    weights: WeightsName,
    output: Path,
    /,
    *,
    depth: Annotated[int | None, DEPTH] = None,
    heads: Annotated[Heads, HEADS] = "last",
    author: Annotated[
        tuple[str, ...],
        Parameter(negative=(), help="Who made the weights; again for each of them."),
    ] = (),
    maintainer: Annotated[
        str, Parameter(help="Name of one of them at GitHub, for questions.")
    ] = "",
    licence: Annotated[
        str,
        Parameter(help="SPDX identifier such as CC-BY-4.0; by default the card's."),
    ] = "",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write weights as a BioImage.IO package, which other programs can run.

    Parameters
    ----------
    output
        The package to write: .zip.
    """
    from napari_emseg.models.exporting import (
        LEFT_OUT,
        credits_of,
        export_weights,
        keeps_affinities,
    )

    part = find_weights(weights).at(depth, heads)
    known = credits_of(part, authors=author, maintainer=maintainer, licence=licence)
    check_outputs(output, files=[part.path])
    with claimed_weights(output, overwrite=overwrite, suffix=".zip"):
        export_weights(part, output, known)
    if not keeps_affinities(part.card):
        say(f"{part.card.name}: {LEFT_OUT[0].lower()}{LEFT_OUT[1:-1]}")
    if known.missing:
        say(f"the package doesn't say {', '.join(known.missing)}: {CREDITS}")
    if json:
        print_json({"output": str(output), "weights": card_record(part)})
    else:
        size = output.stat().st_size / 2**20
        print_line(f"{output}: {part.card.name}, {size:.1f} MiB")


@app.command(
    name="import",
    help_epilogue="Example: emseg weights import unet.zip unet.safetensors",
)
def import_(
    file: Path,
    output: Path,
    /,
    *,
    arch: Annotated[
        str | None,
        Parameter(help="Architecture, if the file doesn't say it.", group=NETWORK),
    ] = None,
    network: NetworkShape = None,
    download: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Fetch weights that a package has at an address; the checksum that it "
            "says must be theirs.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make a weights file of a BioImage.IO package, a state dict or an ONNX file.

    Nothing in the file is run: of a package only its manifest and its weights are
    read. They must fit the network; the first key that doesn't is named.

    Parameters
    ----------
    file
        A package (.zip), or weights: .pt, .pth, .onnx, .safetensors.
    output
        The weights file to write: .safetensors.
    """
    from napari_emseg.models.importing import iter_import_weights

    config = network_config(network)
    check_outputs(output, files=[file])
    with claimed_weights(output, overwrite=overwrite):
        work = iter_import_weights(
            file, output, architecture=arch, config=config, download=download
        )
        written = run_with_progress(work)
    if json:
        print_json(card_record(written))
    else:
        print_card(written)


def claimed_weights(
    output: Path, *, overwrite: bool, suffix: str = SUFFIX
) -> AbstractContextManager[None]:
    """Check that a weights file may be written there, before hours are spent.

    No other run writes it within the block.

    Raises
    ------
    ValueError, OSError
        If its name won't do, it exists, another run is writing it, or its folder is
        missing or not writable.
    """
    from napari_emseg.io.output import claimed_output

    if output.suffix != suffix:
        msg = f"the output must end in {suffix}, got {output}"
        raise ValueError(msg)
    return claimed_output(output, overwrite=overwrite)


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
