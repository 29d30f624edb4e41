"""What a round would learn from, and what would judge it: said before it begins."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from napari_emseg.core.card import Card
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.session.annotations import (
    AnnotationSource,
    ImportedLabels,
    ManualCorrections,
)
from napari_emseg.training.holdout import HoldoutSplit, split_round

NOTHING = (
    "Nothing to learn from yet: correct something or review a section in 4 Correct, "
    "or choose existing annotations."
)
THROUGH_ONLY = (
    "Merges and splits in 3-D teach only weights that see neighbouring sections and "
    "give affinities along z, such as fib-sem: choose those in 2 Membranes, or correct "
    "something else or review a section in 4 Correct."
)
NO_JUDGE = (
    "No validation regions: it will be measured only where you corrected. Review "
    "another section or region, away from these."
)
UNCORRECTED = (
    "No correction lies in the validation regions: they repeat what the current "
    "weights gave, and favour those. Review a region in which you corrected something."
)
NO_WHOLE = (
    "New weights learn from whole sections: review some in 4 Correct, or choose "
    "existing annotations."
)


@dataclass(frozen=True, slots=True)
class RoundPreview:
    """What a round would do, in words.

    Parameters
    ----------
    judges
        What would judge it; empty where that can't be told.
    ready
        False if there is nothing to learn from.
    doubtful
        What judges favours the current weights, or there is nothing that judges.
    """

    learns: str
    judges: str = ""
    ready: bool = True
    doubtful: bool = False

    def warned(self, warnings: Iterable[str]) -> Self:
        """Return it with what else to know before the round begins."""
        said = " ".join(warnings)
        if not said or not self.ready:
            return self
        return replace(self, judges=f"{self.judges} {said}".strip(), doubtful=True)


def preview_round(
    teachers: Sequence[AnnotationSource],
    pixels: Mapping[int, int],
    card: Card | None,
    *,
    new: bool = False,
) -> RoundPreview:
    """Say what a round would learn from; may read labels, so not for the window.

    Parameters
    ----------
    pixels
        That have an opinion, by number of the teacher; of those that are counted.
    card
        Of the weights to begin with.
    new
        New weights are trained, from whole sections only.
    """
    through = card is not None and card.links_sections
    parts = [
        _format_source(t, pixels.get(n, 0), new=new, through=through)
        for n, t in enumerate(teachers)
    ]
    said = [words for words in parts if words]
    if not said:
        told = any(isinstance(t, ManualCorrections) and t.told() for t in teachers)
        nothing = THROUGH_ONLY if told and not through else NOTHING
        return RoundPreview(NO_WHOLE if new else nothing, ready=False)
    learns = f"Training data: {'; '.join(said)}."
    if new:
        return RoundPreview(learns)
    if card is None or card.geometry is None:
        return RoundPreview(learns)
    held_out = [(s, divided(s, r, card).held_out) for s, r in by_stack(teachers)]
    names = [f"{_format_parts(r, s)} of {s.name}" for s, r in held_out if r]
    if not names:
        return RoundPreview(learns, NO_JUDGE, doubtful=True)
    judges = f"Validation regions: {'; '.join(names)}."
    if not any_corrected(teachers, card):
        return RoundPreview(learns, f"{judges} {UNCORRECTED}", doubtful=True)
    return RoundPreview(learns, judges)


def any_corrected(teachers: Sequence[AnnotationSource], card: Card) -> bool:
    """Tell if a person has changed anything in what is held out, or drawn it.

    Where nobody has, the current weights' own output would be the truth.
    """
    for stack, regions in by_stack(teachers):
        made: list[Region] = []
        for teacher in teachers:
            if teacher.stack.data is not stack.data:
                continue
            if isinstance(teacher, ManualCorrections):
                made += teacher.corrected
            else:
                made += teacher.regions()
        held_out = divided(stack, regions, card).held_out
        if any(region.overlap(other) for region in held_out for other in made):
            return True
    return False


def by_stack(
    teachers: Sequence[AnnotationSource],
) -> list[tuple[Stack, tuple[Region, ...]]]:
    """Return stacks with all their regions that may be learnt from."""
    found: dict[int, tuple[Stack, list[Region]]] = {}
    for teacher in teachers:
        _, regions = found.setdefault(id(teacher.stack.data), (teacher.stack, []))
        regions += [r for r in teacher.regions() if r.z not in teacher.excluded]
    return [(stack, united(regions)) for stack, regions in found.values()]


def united(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Return regions without those that overlap an earlier one."""
    kept: list[Region] = []
    for region in regions:
        if not any(region.overlap(other) for other in kept):
            kept.append(region)
    return tuple(kept)


def divided(stack: Stack, regions: Sequence[Region], card: Card) -> HoldoutSplit:
    """Return what a round with these weights would learn from, and what judges it.

    Raises
    ------
    ValueError
        If the card doesn't say how far the network looks.
    """
    if card.geometry is None:
        msg = f"the card of {card.name} doesn't say how far the network looks"
        raise ValueError(msg)
    return split_round(stack, regions, card, card.geometry)


def _format_source(
    teacher: AnnotationSource, pixels: int, *, new: bool, through: bool
) -> str:
    regions = [r for r in teacher.regions() if r.z not in teacher.excluded]
    if new:
        whole = [r for r in regions if r.shape == teacher.stack.shape[1:]]
        return f"{_count(len(whole), 'section')} of {teacher.stack.name}" * bool(whole)
    said = []
    if isinstance(teacher, ManualCorrections):
        said += _hand_made(teacher, pixels, through=through)
    if isinstance(teacher, ImportedLabels):
        said += _imported(teacher, regions)
    elif regions:
        said.append(_counted(regions, teacher.stack))
    return f"{' and '.join(said)} of {teacher.stack.name}" if said else ""


def _imported(teacher: ImportedLabels, regions: Sequence[Region]) -> list[str]:
    share = teacher.labelled().words
    if teacher.strokes:
        what = "corrections" if teacher.meaning == "corrections" else "sparse labels"
        return [f"{what} in {teacher.labels.name} ({share})"]
    if not regions:
        return []
    return [f"{_counted(regions, teacher.stack)} annotated elsewhere ({share})"]


def _hand_made(teacher: ManualCorrections, pixels: int, *, through: bool) -> list[str]:
    said = []
    if teacher.corrections:
        said.append(_count(teacher.corrections, "correction"))
    elif pixels and not teacher.reviewed:
        said.append(f"{pixels:,} corrected px")
    if teacher.locked:
        said.append(_count(len(teacher.locked), "locked cell"))
    if through and (told := teacher.told()):
        words = "merge or split" if told == 1 else "merges and splits"
        said.append(f"{told:,} {words} in 3-D")
    return said


def _counted(regions: Sequence[Region], stack: Stack) -> str:
    """Return e.g. `3 reviewed sections and 1 region`."""
    whole = sum(region.shape == stack.shape[1:] for region in regions)
    rest = len(regions) - whole
    said = [f"{_count(whole, 'reviewed section')}"] if whole else []
    said += [f"{_count(rest, 'reviewed region')}"] if rest else []
    return " and ".join(said)


def _format_parts(regions: Sequence[Region], stack: Stack) -> str:
    """Return e.g. `section 5 and 2 regions`."""
    whole = [r.z for r in regions if r.shape == stack.shape[1:]]
    said = []
    if whole:
        names = ", ".join(map(str, sorted(whole)))
        said.append(f"section{'s' * (len(whole) > 1)} {names}")
    if len(regions) > len(whole):
        said.append(_count(len(regions) - len(whole), "region"))
    return " and ".join(said)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"
