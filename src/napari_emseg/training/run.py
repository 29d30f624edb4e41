"""Images and labels in, a weights file with its card out: one training run."""

from collections.abc import Callable, Collection, Generator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from napari_emseg.core.card import Card, Offset
from napari_emseg.core.labels import (
    Meaning,
    doubt_share,
    format_sections,
    only_class,
)
from napari_emseg.core.records import Note, Record
from napari_emseg.core.stack import Stack, doubt_size
from napari_emseg.core.training import TrainSettings
from napari_emseg.io.fingerprint import raise_if_changed, source_states
from napari_emseg.models.encoders import load_encoder
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import (
    Network,
    affinities_of,
    build,
    check_config,
    context_of,
)
from napari_emseg.training.card import Split, fill_in
from napari_emseg.training.dataset import (
    Example,
    check_shapes,
    labelled_sections,
    read_examples,
    target_of,
)
from napari_emseg.training.losses import IGNORE, INSIDE, MEMBRANE
from napari_emseg.training.patches import PatchSource
from napari_emseg.training.trainer import Trainer
from napari_emseg.training.validation import isbi_validation, with_scores


def split_sections(
    n: int,
    *,
    training: Sequence[int] | None = None,
    validation: Sequence[int] | None = None,
    held_out: Sequence[int] = (),
    labelled: Sequence[int] | None = None,
) -> Split:
    """Share out `n` sections.

    Parameters
    ----------
    training
        All that are in no other set by default.
    validation
        By default the last sixth of what isn't held out, none of fewer than three.
    labelled
        Sections with labels, all by default; that sixth is taken of them.

    Raises
    ------
    ValueError
        If a section is in two sets or doesn't exist, or none is left to learn from.
    """
    apart = set(held_out)
    left = [z for z in range(n) if z not in apart]
    if validation is None:
        known = left if labelled is None else [z for z in left if z in set(labelled)]
        # the last ones together: neighbouring sections are alike, so those drawn one by
        # one from the middle would be half learnt already
        validation = known[-max(1, len(known) // 6) :] if len(known) > 2 else []
        validation = [z for z in validation if z not in set(training or ())]
    apart |= set(validation)
    training = [z for z in left if z not in apart] if training is None else training
    split = Split(tuple(training), tuple(validation), tuple(held_out))
    check_split(split, n)
    return split


def check_split(split: Split, n: int) -> None:
    """Check that sections exist, each in one set, and that some are left to learn from.

    Raises
    ------
    ValueError
        With the first that is wrong.
    """
    every = (*split.training, *split.validation, *split.held_out)
    outside = [z for z in every if not 0 <= z < n]
    if outside:
        msg = f"no section {outside[0]}; sections are 0..{n - 1}"
        raise ValueError(msg)
    twice = sorted(z for z in set(every) if every.count(z) > 1)
    if twice:
        msg = f"section {twice[0]} is in more than one of the three sets"
        raise ValueError(msg)
    if not split.training:
        msg = f"no section is left to learn from; there are {n}"
        raise ValueError(msg)


def labelled_split(
    split: Split, labels: Stack, meaning: Meaning
) -> tuple[Split, tuple[str, ...]]:
    """Leave out sections in which nothing is labelled; say what has no label.

    Raises
    ------
    ValueError
        If none is left to learn from, or to do what was asked for.
    """
    kept, empty, pixels, membrane, inside = [], set[int](), 0, 0, 0
    for sections in (split.training, split.validation, split.held_out):
        known = labelled_sections(labels, meaning, sections)
        empty |= set(sections) - set(known)
        for z in known:
            counts = np.bincount(
                target_of(labels.section(z), meaning).ravel(), minlength=IGNORE + 1
            )
            pixels += int(counts[IGNORE])
            membrane += int(counts[MEMBRANE])
            inside += int(counts[INSIDE])
        kept.append(known)
    notes = []
    full = {z for z in empty if only_class(labels.section(z), meaning)}
    empty -= full
    if full:
        notes.append(
            f"{format_sections(sorted(full))} of {labels.name} left out: one class "
            "from edge to edge, as where nobody drew"
        )
    if empty:
        notes.append(
            f"{format_sections(sorted(empty))} of {labels.name} left out: nothing is "
            "labelled there, so all of it is unknown"
        )
    if pixels:
        notes.append(f"{pixels:,} px of {labels.name} without a label left out")
    share = membrane / max(1, membrane + inside)
    if doubt := doubt_share(share, labels.name, meaning):
        notes.append(doubt)
    return Split(*kept), tuple(notes)


def train_weights(
    images: Stack,
    labels: Stack,
    output: Path,
    *,
    meaning: Meaning,
    split: Split,
    architecture: str = "unet",
    config: dict[str, Any] | None = None,
    settings: TrainSettings | None = None,
    encoder_weights: Path | None = None,
    device: torch.device | str = "cpu",
    about: Card | None = None,
    invert: bool = False,
    excluded: Collection[int] = (),
    stop: Callable[[], bool] = bool,
) -> Generator[Record, None, Weights]:
    """Train a network; yields what the trainer yields.

    Pixels without a label (see `core.labels.unlabelled`) and sections in which nothing
    is labelled are unknown: nothing is learnt from them, and a Note names the sections.

    A checkpoint lies beside `output` until the end; a run that was stopped goes on from
    it when called again in the same way. If it is damaged, a Note says so, and the run
    begins anew.

    Parameters
    ----------
    images, labels
        `(z, y, x)` of one shape.
    output
        The weights file that is written at the end, with a card.
    meaning
        What the labels are.
    split
        Sections to learn from, to choose the best weights and the threshold by, and to
        score once, at the end.
    architecture, config
        Name of the network, and its configuration.
    encoder_weights
        File with ImageNet weights to begin with; see `models.encoders.load_encoder`.
    device
        Where to train; `settings.device` has been resolved by the caller.
    about
        What the card is to say of itself: name, summary, licences, data by their names;
        the rest is filled in.
    invert
        Swap dark and bright.
    excluded
        Sections that a network with context isn't shown beside others.
    stop
        Asked after every step: if True, training ends there with the best so far, and
        the checkpoint stays.

    Raises
    ------
    ValueError
        If images and labels don't match, labels hold no membrane, the architecture
        doesn't exist, the encoder weights don't fit, or the checkpoint is of another
        run.
    SourceChangedError
        If files of images or labels changed meanwhile; no weights are written then.
    """
    settings = settings or TrainSettings()
    device = torch.device(device)
    sources = source_states(images, labels)
    check_shapes(images, labels)
    if doubt := doubt_size(images, labels):
        yield Note(doubt)
    shape = check_config(architecture, config)
    read = partial(
        _examples,
        images,
        labels,
        meaning,
        invert=invert,
        excluded=excluded,
        context=context_of(shape),
        affinities=affinities_of(shape),
    )
    split, notes = labelled_split(split, labels, meaning)
    yield from map(Note, notes)
    training, validation = read(split.training), scorable(read(split.validation))
    used = Split(_numbers(training), _numbers(validation), split.held_out)
    yield from _left_out(split, used, images.name)
    if not validation:
        yield Note("no sections to validate on: the last weights are taken")
    # before the network is built, whose first weights are drawn
    torch.manual_seed(settings.seed)
    network = build(architecture, config).to(device)
    if encoder_weights is not None:
        load_encoder(network, encoder_weights)
    patches = PatchSource(
        training,
        settings,
        n_classes=2,
        device=device,
        trim=cast("Network", network).geometry.trim,
        affinities=affinities_of(network),
    )
    trainer = Trainer(
        network,
        patches,
        settings,
        validation=isbi_validation(validation) if validation else None,
        facts={
            **facts_of(used, training, validation),
            "network": f"{architecture} {config or {}}",
            "inversion": invert,
            "encoder weights": str(encoder_weights and encoder_weights.name),
        },
        checkpoint=checkpoint_of(output),
        stop=stop,
    )
    result = yield from trainer.run()
    network.load_state_dict(result.state)
    network.eval()
    held_out = scorable(read(split.held_out))
    judged = Split(used.training, used.validation, _numbers(held_out))
    yield from _left_out(used, judged, images.name)
    about = about or Card(name=output.stem, architecture=architecture)
    card = fill_in(
        about.model_copy(update={"architecture": architecture, "config": config or {}}),
        network,
        result,
        images,
        judged,
        settings,
    )
    card = yield from with_scores(card, network, validation, held_out)
    raise_if_changed(sources)
    weights = save_weights(output, result.state, card)
    if not trainer.stopped:
        checkpoint_of(output).unlink(missing_ok=True)
    return weights


def checkpoint_of(output: Path) -> Path:
    """Where an unfinished run is kept."""
    return output.with_name(f"{output.stem}.checkpoint")


def scorable(examples: Sequence[Example]) -> list[Example]:
    """Return those with a cell in them: without, there is nothing to score."""
    return [e for e in examples if (e.target == INSIDE).any()]


def facts_of(
    split: Split, training: Sequence[Example], validation: Sequence[Example]
) -> dict[str, Any]:
    """Return what a checkpoint must be of: the split, and checksums by section."""
    known = {str(e.section): e for e in (*training, *validation)}
    return {
        "training on": format_sections(split.training),
        "validation on": format_sections(split.validation),
        "holding out": format_sections(split.held_out),
        "images": {z: _checksum(e.image) for z, e in known.items()},
        "labels": {z: _checksum(e.target) for z, e in known.items()},
    }


def _checksum(values: NDArray[Any]) -> str:
    return sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _numbers(examples: Sequence[Example]) -> tuple[int, ...]:
    return tuple(e.section for e in examples if e.section is not None)


def _left_out(wanted: Split, used: Split, name: str) -> Generator[Note, None, None]:
    """Say which sections can't be used although they have labels."""
    asked, found = ({*s.training, *s.validation, *s.held_out} for s in (wanted, used))
    if asked - found:
        words = format_sections(sorted(asked - found))
        yield Note(f"{words} of {name} left out: blank, or without a cell to score")


def _examples(
    images: Stack,
    labels: Stack,
    meaning: Meaning,
    sections: Sequence[int],
    *,
    invert: bool,
    excluded: Collection[int],
    context: int,
    affinities: Sequence[Offset],
) -> list[Example]:
    if not sections:
        return []
    return read_examples(
        images,
        labels,
        meaning,
        sections=sections,
        invert=invert,
        excluded=excluded,
        context=context,
        affinities=affinities,
    )
