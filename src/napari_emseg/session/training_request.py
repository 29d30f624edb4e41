"""The long part of a round: what is known is read, learnt and compared.

Everything that needs PyTorch is imported when the work has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_emseg.core.card import Card, DataSet
from napari_emseg.core.lock import Claim
from napari_emseg.core.records import Note, Record
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.core.training import FinetuneSettings, NewWeightsSettings
from napari_emseg.models.weights import Weights, replace_card
from napari_emseg.session.annotations import AnnotationSource, as_labels
from napari_emseg.session.round_preview import (
    NO_WHOLE,
    NOTHING,
    UNCORRECTED,
    any_corrected,
    by_stack,
    divided,
    united,
)
from napari_emseg.session.rounds import checkpoint_of, lesson_of
from napari_emseg.session.training_data_file import (
    read_training_data,
    write_training_data,
)
from napari_emseg.training.holdout import HoldoutSplit, Spacing, split_regions

if TYPE_CHECKING:
    from napari_emseg.training.corrections import TrainingSet
    from napari_emseg.training.measures import Comparison


Settings = FinetuneSettings | NewWeightsSettings

WITHIN_ONLY = (
    "the labels don't say which cells go on from section to section: affinities are "
    "learnt within sections only"
)

CLASSES = ("membrane", "inside")
"""Of all weights, at least; codes of corrections are one more."""


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """What a round gave; no comparison where there was nothing to compare with."""

    weights: Weights
    comparison: Comparison | None


@dataclass(eq=False)
class TrainingRequest:
    """What a round is to do.

    Parameters
    ----------
    parent
        Weights to begin with, or to compare new ones with.
    predict
        How weights are run in this window, polarity of the stacks included.
    names
        Of all classes, by code less one.
    sets
        What was read of the teachers; a round that goes on takes them as they are.
    """

    parent: Weights | None
    teachers: Sequence[AnnotationSource]
    output: Path
    predict: PredictSettings
    names: tuple[str, ...] = CLASSES
    stop: Callable[[], bool] = bool
    sets: list[TrainingSet] = field(default_factory=list)

    def read(self, settings: Settings) -> Generator[Record, None, None]:
        """Read what is known, one set for each stack, and keep it for another sitting.

        Raises
        ------
        ValueError
            If nothing is.
        OSError
            If it can't be read or written.
        """
        if self.sets:
            return
        found: dict[int, TrainingSet] = {}
        for teacher in self.teachers:
            known = yield from teacher.read(self.predict.invert)
            key = id(known.stack.data)
            found[key] = _together(found[key], known) if key in found else known
        self.sets += [s for s in found.values() if s.is_something]
        if not self.sets:
            raise ValueError(NOTHING)
        write_training_data(lesson_of(self.output), self.sets, settings, self.names)


def learning(
    lesson: TrainingRequest, settings: Settings
) -> Generator[Record, None, Learnt]:
    """Do what a round is to do; errors as of `fine_tuning` and `training_anew`.

    Raises
    ------
    OutputBusyError
        If another window or command is writing the same weights.
    """
    lesson.output.parent.mkdir(parents=True, exist_ok=True)
    with Claim(lesson.output):
        if isinstance(settings, NewWeightsSettings):
            return (yield from training_anew(lesson, settings))
        return (yield from fine_tuning(lesson, settings))


def fine_tuning(
    lesson: TrainingRequest, settings: FinetuneSettings
) -> Generator[Record, None, Learnt]:
    """Let the parent learn.

    Raises
    ------
    ValueError
        If there is no parent, nothing is known, or a class has no name.
    OSError
        If a file can't be read or written.
    """
    if lesson.parent is None:
        msg = "no weights to begin with; choose some in 2 Membranes, or train new ones"
        raise ValueError(msg)
    from napari_emseg.inference.torch_runtime import choose_device
    from napari_emseg.training.finetune import finetune_weights

    resumed = bool(lesson.sets)
    yield from lesson.read(settings)
    card = lesson.parent.card
    if not resumed and _judged_by_itself(lesson.teachers, card):
        yield Note(UNCORRECTED)
    classes = new_classes(lesson.parent.card, lesson.names, lesson.sets)
    found = yield from finetune_weights(
        lesson.parent,
        lesson.sets,
        lesson.output,
        settings=settings,
        device=choose_device(settings.device),
        predict=lesson.predict,
        new_classes=classes,
        stop=lesson.stop,
    )
    return Learnt(found.weights, found.comparison)


def _judged_by_itself(teachers: Sequence[AnnotationSource], card: Card) -> bool:
    """Tell if there is something held out, and nobody has corrected any of it."""
    if card.geometry is None or any_corrected(teachers, card):
        return False
    return any(divided(s, r, card).held_out for s, r in by_stack(teachers))


def new_classes(
    card: Card, names: Sequence[str], sets: Sequence[TrainingSet]
) -> tuple[str, ...]:
    """Return names of classes that were drawn and that the weights don't have.

    Raises
    ------
    ValueError
        If a code means another class in the weights.
    """
    known = card.pixel_classes
    for code, (name, own) in enumerate(zip(names, known, strict=False), start=1):
        if name != own:
            msg = (
                f"code {code} is {name} here, but {own} in {card.name}; choose other "
                f"weights, or draw {name} with another code"
            )
            raise ValueError(msg)
    drawn = max((each.opinions.largest for each in sets), default=0)
    return tuple(names[len(known) : drawn])


def training_anew(
    lesson: TrainingRequest, settings: NewWeightsSettings
) -> Generator[Record, None, Learnt]:
    """Train new weights from whole sections of one stack.

    Raises
    ------
    ValueError
        If no section is known as a whole, or holds no membrane.
    OSError
        If a file can't be read or written.
    """
    from napari_emseg.inference.torch_runtime import choose_device
    from napari_emseg.training.affinities import affinities_for
    from napari_emseg.training.card import Split
    from napari_emseg.training.run import train_weights

    yield from lesson.read(settings)
    known = max(lesson.sets, key=lambda s: len(_whole(s)))
    if not _whole(known):
        raise ValueError(NO_WHOLE)
    division = _division(known)
    learnt = [region.z for region in division.training]
    n_validation = max(1, len(learnt) // 6) if len(learnt) > 1 else 0
    split = Split(
        tuple(learnt[: len(learnt) - n_validation]),
        tuple(learnt[len(learnt) - n_validation :]),
    )
    device = choose_device(settings.device)
    affinities = affinities_for(known.stack)
    wanted = settings.affinities and settings.is_bundled
    through = wanted and _known_through(known, split.training)
    if wanted and not through:
        affinities = tuple(offset for offset in affinities if offset[0] == 0)
        yield Note(WITHIN_ONLY)
    weights = yield from train_weights(
        known.stack,
        as_labels(known, through=through),
        lesson.output,
        meaning="cells" if through else "inside",
        split=split,
        architecture=settings.architecture,
        config=settings.config(affinities),
        settings=settings.training,
        device=device,
        invert=known.invert,
        excluded=known.excluded,
        stop=lesson.stop,
    )
    return (yield from _compared(lesson, weights, known, division))


def _compared(
    lesson: TrainingRequest,
    weights: Weights,
    known: TrainingSet,
    division: HoldoutSplit,
) -> Generator[Record, None, Learnt]:
    """Measure new weights beside those in use, and write that into their card."""
    from napari_emseg.training.model_comparison import compare_weights

    comparison = None
    if lesson.parent is not None:
        comparison = yield from compare_weights(
            lesson.parent,
            weights,
            [known],
            held_out=[division.held_out],
            predict=lesson.predict,
        )
    card = _card(weights.card, known, division, comparison)
    return Learnt(replace_card(weights, card), comparison)


def _card(
    card: Card,
    known: TrainingSet,
    division: HoldoutSplit,
    comparison: Comparison | None,
) -> Card:
    """Say what was learnt and what judged, so that later rounds keep them apart."""
    parts = {"learnt": division.training, "held_out": division.held_out}
    regions = {key: [list(r.as_tuple()) for r in rs] for key, rs in parts.items()}
    settings = {**card.training.settings, "corrections": {known.stack.name: regions}}
    scores = {} if comparison is None else comparison.scores
    judged = ", ".join(str(region.z) for region in division.held_out)
    notes = () if comparison is None else (comparison.words,)
    return card.model_copy(
        update={
            "summary": f"trained on {known.stack.name}",
            "held_out_data": (DataSet(name=known.stack.name, sections=judged),)
            if judged
            else (),
            "scores": {**card.scores, **scores},
            "notes": (*card.notes, *notes),
            "training": card.training.model_copy(update={"settings": settings}),
        }
    )


def _known_through(known: TrainingSet, sections: Sequence[int]) -> bool:
    """Tell if it is known of cells in sections that follow how they go on."""
    if known.ids is None:
        return False
    there = set(sections) & known.ids.sections
    return any(z + 1 in there and known.ids.are_together(z, z + 1) for z in there)


def _whole(known: TrainingSet) -> tuple[Region, ...]:
    """Return sections of which everything is known that has a label."""
    shape = known.stack.shape[1:]
    return tuple(
        region
        for region in known.reviewed
        if region.z not in known.excluded
        and region.shape == shape
        and (region in known.partly or known.opinions.window(region).all())
    )


def _division(known: TrainingSet) -> HoldoutSplit:
    """Hold sections out; those that show the same tissue stay together."""
    next_to = Geometry(stride=1, context=1)
    return split_regions(_whole(known), Spacing.of(known.stack, next_to, (1.0, 1.0)))


def _together(first: TrainingSet, second: TrainingSet) -> TrainingSet:
    """Unite what is known of one stack; what was made by hand, the first, counts."""
    opinions = second.opinions.copy()
    for block in first.opinions.blocks:
        opinions.put(block, first.opinions.window(block))
    regions = united((*first.reviewed, *second.reviewed))
    partly = first.partly | second.partly
    return replace(first, opinions=opinions, reviewed=regions, partly=partly)


def going_on(
    lesson: TrainingRequest, settings: Settings, stacks: Sequence[Stack]
) -> Generator[Record, None, Learnt]:
    """Go on with a round that was stopped, with what it learnt from.

    Where that is gone or damaged, this is said, and it begins anew.

    Parameters
    ----------
    lesson, settings
        What is learnt if it begins anew.
    stacks
        That are open; among them are those that it learnt from.
    """
    try:
        sets, settings, names = read_training_data(lesson_of(lesson.output), stacks)
    except (OSError, ValueError) as e:
        yield Note(f"{e}: the round begins anew, with what is corrected now")
        checkpoint_of(lesson.output).unlink(missing_ok=True)
    else:
        lesson.sets, lesson.names = sets, names
    return (yield from learning(lesson, settings))
