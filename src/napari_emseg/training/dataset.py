"""Images and labels → examples: sections, with what is beside them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.card import Offset
from napari_emseg.core.intensity import normalise, padding, section_range, stack_range
from napari_emseg.core.labels import (
    Meaning,
    Numbering,
    as_labels,
    format_sections,
    inside_mask,
    is_drawn,
    only_class,
    unlabelled,
)
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.inference.sections import Section, SectionReader, stand_in
from napari_emseg.training.affinities import (
    UNKNOWN,
    connected_cells,
)
from napari_emseg.training.losses import (
    IGNORE,
    INSIDE,
    MEMBRANE,
)


@dataclass(frozen=True, slots=True, eq=False)
class Neighbour:
    """A section beside another one: grey values, and ids if they may be learnt from."""

    image: NDArray[np.float32]
    ids: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One section: normalised grey values and uint8 class numbers, both `(y, x)`.

    Parameters
    ----------
    section
        Its number in the stack that it was read from, if it was.
    context
        Sections that a network sees.
    ids
        Of its cells, see `training.affinities`; None if nobody asks for them.
    below, above
        Sections beside it, the nearest first, some more than are seen. Arrays are
        shared between examples.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    section: int | None = None
    context: int = 1
    ids: NDArray[np.int32] | None = None
    below: tuple[Neighbour, ...] = ()
    above: tuple[Neighbour, ...] = ()

    @property
    def seen(self) -> NDArray[np.float32]:
        """What a network sees, `(context, y, x)`."""
        half = self.context // 2
        below, above = (
            stand_in([near.image for near in side], self.image, half)
            for side in (self.below, self.above)
        )
        return np.stack([*below[::-1], self.image, *above])


def read_examples(
    images: Stack,
    labels: Stack,
    meaning: Meaning,
    *,
    sections: Iterable[int] | None = None,
    rule: Normalisation | None = None,
    invert: bool = False,
    excluded: Collection[int] = (),
    context: int = 1,
    affinities: Sequence[Offset] = (),
) -> list[Example]:
    """Read pairs of sections.

    Alignment padding and pixels without a label are ignored; blank sections, and those
    in which nothing is labelled, are left out.

    Parameters
    ----------
    excluded
        Sections that aren't shown beside others.
    context
        Sections that a network sees: neighbours are read with each, whichever are
        asked for. Labels are read of these only.
    affinities
        What ids are needed for.

    Raises
    ------
    ValueError
        If images and labels don't match, or no section has anything to learn from.
    """
    check_shapes(images, labels)
    rule = rule or Normalisation()
    whole = stack_range(images, rule) if rule.scope == "stack" else None
    examples, number = [], Numbering()
    for z in range(images.shape[0]) if sections is None else sections:
        section = images.section(z)
        mask = padding(section)
        grey = whole or section_range(section, rule, mask)
        if grey.blank:
            continue
        drawn = labels.section(z)
        target = target_of(drawn, meaning)
        if mask is not None:
            target[mask] = IGNORE
        if (target == IGNORE).all():
            continue
        ids = None
        if affinities and meaning == "cells":
            ids = number(as_labels(drawn, meaning))
            ids[target == IGNORE] = UNKNOWN
        elif affinities:
            ids = connected_cells(target)
        image = normalise(section, grey, invert=invert)
        examples.append(Example(image, target, z, ids=ids))
    if not examples:
        msg = (
            f"{images.name}: all sections are blank or without labels; there is "
            "nothing to learn from"
        )
        raise ValueError(msg)
    if not any((e.target == MEMBRANE).any() for e in examples):
        msg = (
            f"{labels.name}: no membrane in the labels when they are read as "
            f"{meaning!r}; say what they are"
        )
        raise ValueError(msg)
    farthest = max([context // 2, *(abs(z) for z, _, _ in affinities)])
    if farthest == 0:
        return examples
    # one more than is seen, for one that is missing in training
    reader = SectionReader(
        images,
        rule,
        invert=invert,
        context=2 * (farthest + 1) + 1,
        excluded=excluded,
    )
    go_on = _GoingOn(labels.data, examples) if meaning == "cells" else None
    return _with_neighbours(examples, reader, context, go_on)


@runtime_checkable
class LabelsOfRuns(Protocol):
    """Ids of cells that may be of several runs."""

    def are_together(self, first: int, second: int) -> bool:
        """Tell if different ids in two sections are different cells."""


class _GoingOn:
    """Tells if ids of one section say something of another."""

    def __init__(self, labels: object, examples: Sequence[Example]) -> None:
        self._labels = labels
        self._ids = {e.section: np.unique(e.ids) for e in examples if e.ids is not None}

    def __call__(self, own: int, other: int) -> bool:
        """Tell so; without knowing of runs, some cell must be in both."""
        if own not in self._ids or other not in self._ids:
            return False
        if isinstance(self._labels, LabelsOfRuns):
            return self._labels.are_together(own, other)
        both = np.intersect1d(self._ids[own], self._ids[other])
        return bool((both > 0).any())


def _with_neighbours(
    examples: Sequence[Example],
    reader: SectionReader,
    context: int,
    go_on: _GoingOn | None,
) -> list[Example]:
    """Put sections beside examples, those that a run would see.

    Parameters
    ----------
    go_on
        Tells if ids of one section say something of another; None if they never do.
    """
    known = {e.section: e for e in examples if e.section is not None}
    images = {z: e.image for z, e in known.items()}

    def side(z0: int, sections: Sequence[Section]) -> tuple[Neighbour, ...]:
        own = known[z0]
        found: list[Neighbour] = []
        for section in sections:
            z = section.z
            if z not in images:
                images[z] = section.window(slice(None), slice(None))
            image = images[z]
            if section.empty is not None:
                inner = found[-1].image if found else own.image
                gone = section.empty((slice(None), slice(None)))
                image = np.where(gone, inner, image)
            ids = known[z].ids if go_on is not None and go_on(z0, z) else None
            found.append(Neighbour(image, ids))
        return tuple(found)

    result = []
    for z, own in known.items():
        section = reader.open(z)
        below, above = (side(z, part) for part in (section.below, section.above))
        result.append(replace(own, context=context, below=below, above=above))
    return result


def target_of(labels: NDArray[Any], meaning: Meaning) -> NDArray[np.uint8]:
    """Return class numbers `(y, x)` of a section, `IGNORE` where nothing is known.

    In a section in which nothing is drawn that is everywhere: an empty section says
    that nobody labelled it, not that it is all membrane, or all inside.
    """
    inside = inside_mask(labels, meaning)
    # `inside_mask` alone would take an empty section for all membrane, or all inside
    if not is_drawn(labels, meaning):
        return np.full(labels.shape, IGNORE, np.uint8)
    target = np.where(inside, INSIDE, MEMBRANE).astype(np.uint8)
    unknown = unlabelled(labels, meaning)
    if unknown is not None:
        target[unknown] = IGNORE
    return target


def labelled_sections(
    labels: Stack, meaning: Meaning, sections: Iterable[int] | None = None
) -> tuple[int, ...]:
    """Return the sections in which anything is drawn, of some or all.

    Those that are one class from edge to edge are not among them: a section that nobody
    drew is filled with one value, which isn't 0 in all programs.

    Raises
    ------
    ValueError
        If nothing is drawn in any of them; what the labels hold is said.
    """
    wanted = list(range(labels.shape[0]) if sections is None else sections)
    classes = {z: only_class(labels.section(z), meaning) for z in wanted}
    found = tuple(z for z in wanted if classes[z] == "")
    if wanted and not found:
        full = sorted({name for name in classes.values() if name})
        what = "nothing is labelled"
        why = "no value above 0"
        if full:
            what, why = (
                f"nothing but {' or '.join(full)}",
                "no boundary between classes",
            )
        msg = (
            f"{labels.name}: {what} in {format_sections(wanted)}: {why} when they are "
            f"read as {meaning!r}; say what they are"
        )
        raise ValueError(msg)
    return found


def check_shapes(images: Stack, labels: Stack) -> None:
    """Check that labels have the shape of the images.

    Raises
    ------
    ValueError
        If they don't.
    """
    if images.shape != labels.shape:
        msg = f"images are {images.shape} (z, y, x), but labels are {labels.shape}"
        raise ValueError(msg)
