"""`emseg train`: images and labels in, a weights file out."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from napari_emseg.cli.options import (
    NETWORK,
    RUN,
    InputOptions,
    Json,
    Meaning,
    NetworkShape,
    Overwrite,
    Sections,
    network_config,
    pick_sections,
)
from napari_emseg.cli.outputs import check_outputs
from napari_emseg.cli.printing import print_json, say
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.cli.weights import claimed_weights, print_card
from napari_emseg.core.card import Context
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import TrainSettings
from napari_emseg.io.fingerprint import require_unchanged
from napari_emseg.io.stored import own_ids

LABELS_FILE = Group("How to read the labels", sort_key=3)


def train(
    images: str,
    labels: str,
    output: Path,
    /,
    *,
    labels_are: Annotated[
        Meaning,
        Parameter(help="membrane and inside are masks (> 0), cells are ids."),
    ],
    arch: Annotated[
        str, Parameter(help="Architecture of the network.", group=NETWORK)
    ] = "unet",
    network: NetworkShape = None,
    context: Annotated[
        Context,
        Parameter(
            group=NETWORK,
            help="Neighbouring sections that the network sees, with the one that it "
            "predicts in the middle.",
        ),
    ] = 1,
    affinities: Annotated[
        bool,
        Parameter(
            group=NETWORK,
            help="Learn which voxels are of one cell, too: with the next section, and "
            "1, 3 and 9 px away. For labels that are cells above all.",
        ),
    ] = False,
    encoder_weights: Annotated[
        Path | None,
        Parameter(
            group=NETWORK,
            help="Begin with ImageNet weights of ResNet-34 from a file (.pth or "
            ".safetensors, names as in torchvision): cenet, or unetpp with "
            "--network.encoder resnet34, of width 64.",
        ),
    ] = None,
    sections: Sections = None,
    validation: Annotated[
        Sections,
        Parameter(
            help="Sections that choose the best weights and the threshold, counted "
            "from 0; the last sixth by default. Leave some between them and those "
            "learnt from."
        ),
    ] = None,
    held_out: Annotated[
        Sections,
        Parameter(
            help="Sections to score once, at the end, counted from 0; none by default."
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    settings: Annotated[
        TrainSettings, Parameter(name="*", group=RUN)
    ] = TrainSettings(),  # noqa: B008 - frozen
    source: InputOptions = InputOptions(),  # noqa: B008
    labels_source: Annotated[
        InputOptions, Parameter(name="labels", group=LABELS_FILE)
    ] = InputOptions(),  # noqa: B008
) -> None:
    """Train a network from images and labels of the same sections.

    Prints the scores on the validation sections as it goes, keeps the best weights, and
    goes on where it was stopped when called again in the same way. Sections in which
    nothing is labelled, and pixels without a label (NaN, -1 and the like), are unknown:
    nothing is learnt from them.

    Parameters
    ----------
    images
        EM sections: TIFF, MRC, DM3/DM4, HDF5, OME-Zarr, npy, PNG, a folder or a glob.
    labels
        Labels of the same shape.
    output
        The weights file to write: .safetensors.
    """
    stack = source.open(images)
    truth = own_ids(labels_source.open(labels, prefix="labels"))
    with claimed_weights(output, overwrite=overwrite):
        from napari_emseg.inference.torch_runtime import choose_device
        from napari_emseg.training.affinities import affinities_for
        from napari_emseg.training.dataset import check_shapes, labelled_sections
        from napari_emseg.training.run import (
            checkpoint_of,
            split_sections,
            train_weights,
        )

        checkpoint = checkpoint_of(output)
        begun = [] if encoder_weights is None else [encoder_weights]
        check_outputs(output, checkpoint, stacks=[stack, truth], files=begun)
        check_shapes(stack, truth)
        with require_unchanged(stack, truth):
            labelled = labelled_sections(truth, labels_are)
        split = split_sections(
            stack.shape[0],
            training=_spanned(sections, stack),
            validation=_spanned(validation, stack),
            held_out=_spanned(held_out, stack) or (),
            labelled=labelled,
        )
        work = train_weights(
            stack,
            truth,
            output,
            meaning=labels_are,
            split=split,
            architecture=arch,
            config={
                **network_config(network),
                **({"context": context} if context > 1 else {}),
                **({"affinities": affinities_for(stack)} if affinities else {}),
            },
            settings=settings,
            encoder_weights=encoder_weights,
            device=choose_device(settings.device),
        )
        if checkpoint.is_file():
            say(f"going on from {checkpoint}, if it is of this run")
        try:
            weights = run_with_progress(work)
        except KeyboardInterrupt as e:
            msg = f"the same command goes on from {checkpoint}"
            raise KeyboardInterrupt(msg) from e
    if json:
        print_json(
            {"output": str(output), "card": weights.card.model_dump(mode="json")}
        )
        return
    print_card(weights)


def _spanned(span: slice | None, stack: Stack) -> range | None:
    return None if span is None else pick_sections(span, stack)
