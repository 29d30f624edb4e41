"""`emseg finetune`: weights learn from what a person corrected."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from napari_emseg.cli.options import (
    RUN,
    InputOptions,
    Json,
    Overwrite,
    Region,
    Sections,
    pick_region,
    pick_sections,
)
from napari_emseg.cli.outputs import check_outputs
from napari_emseg.cli.printing import print_json, print_line, say
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.cli.weights import claimed_weights, print_card
from napari_emseg.core.regions import Region as Reviewed
from napari_emseg.core.stack import Stack, doubt_size
from napari_emseg.core.training import FinetuneSettings
from napari_emseg.io.fingerprint import require_unchanged, source_states
from napari_emseg.io.stored import own_ids
from napari_emseg.models.weights import load_weights

LABELS_FILE = Group("How to read the labels", sort_key=3)


def finetune(
    images: str,
    labels: str,
    output: Path,
    /,
    *,
    labels_are: Annotated[
        Literal["corrections", "membrane", "inside", "cells"],
        Parameter(
            help="corrections: 0 unlabelled, 1 membrane, 2 inside, k + 1 class k; "
            "membrane and inside are masks (> 0), cells are ids."
        ),
    ],
    weights: Annotated[
        str, Parameter(help="What to begin with: a bundled name or a file.")
    ],
    reviewed: Annotated[
        Sections,
        Parameter(
            help="Sections in which everything counts, A up to B - 1, counted from 0; "
            "of corrections none, of other labels as --extent says."
        ),
    ] = None,
    extent: Annotated[
        Literal["complete", "sparse"] | None,
        Parameter(
            help="Of other labels than corrections. complete: all of each section with "
            "any label counts; sparse: only what is labelled. By default complete, if "
            "at least 5 % is labelled there; less could be strokes."
        ),
    ] = None,
    roi: Region = None,
    new_class: Annotated[
        tuple[str, ...],
        Parameter(help="Name of a class that the weights don't have yet."),
    ] = (),
    overwrite: Overwrite = False,
    json: Json = False,
    settings: Annotated[
        FinetuneSettings, Parameter(name="*", group=RUN)
    ] = FinetuneSettings(),  # noqa: B008 - frozen
    source: InputOptions = InputOptions(),  # noqa: B008
    labels_source: Annotated[
        InputOptions, Parameter(name="labels", group=LABELS_FILE)
    ] = InputOptions(),  # noqa: B008
) -> None:
    """Let weights learn from corrections.

    What is not labelled is unknown and counts for nothing. Says at the end whether the
    new weights are better than the old ones, on reviewed regions that were held out.
    Ctrl-C keeps the best so far; the same command with --overwrite goes on from there.

    Parameters
    ----------
    images
        EM sections: TIFF, MRC, DM3/DM4, HDF5, OME-Zarr, npy, PNG, a folder or a glob.
    labels
        Corrections or labels of the same shape.
    output
        The weights file to write: .safetensors.
    """
    stack = source.open(images)
    drawn = own_ids(labels_source.open(labels, prefix="labels"))
    parent = load_weights(weights)
    regions = _regions(reviewed, roi, stack)
    checkpoint = output.with_name(f"{output.stem}.checkpoint")
    check_outputs(output, checkpoint, stacks=[stack, drawn], files=[parent.path])
    from napari_emseg.inference.torch_runtime import choose_device
    from napari_emseg.training.corrections import ExtentNeededError, training_set
    from napari_emseg.training.finetune import finetune_weights

    with (
        claimed_weights(output, overwrite=overwrite),
        require_unchanged(stack, drawn),
    ):
        sources = source_states(stack, drawn)
        try:
            known = training_set(
                stack,
                drawn.data,
                labels_are,
                reviewed=regions,
                invert=settings.invert,
                extent=extent,
            )
        except ExtentNeededError as e:
            msg = f"{labels}: {e}: --extent sparse or --extent complete"
            raise ValueError(msg) from e
        for note in (doubt_size(stack, drawn), *known.notes):
            if note:
                say(note)
        say(f"learning from {known.words}")
        if checkpoint.is_file():
            say(f"going on from {checkpoint}, if it is of this round")
        work = finetune_weights(
            parent,
            [known],
            output,
            settings=settings,
            device=choose_device(settings.device),
            new_classes=new_class,
            sources=sources,
        )
        try:
            found = run_with_progress(work)
        except KeyboardInterrupt as e:
            msg = (
                f"the best so far is {output}; the same command with --overwrite "
                "goes on"
            )
            raise KeyboardInterrupt(msg) from e
    words = found.comparison.words
    if json:
        card = found.weights.card.model_dump(mode="json")
        print_json({"output": str(output), "comparison": words, "card": card})
        return
    print_card(found.weights)
    print_line(words)


def _regions(
    sections: slice | None, roi: tuple[slice, slice] | None, stack: Stack
) -> list[Reviewed]:
    """Return what `--reviewed` and `--roi` mean."""
    if sections is None and roi is None:
        return []
    area = pick_region(roi, stack)
    return [Reviewed.of(z, area) for z in pick_sections(sections, stack)]
