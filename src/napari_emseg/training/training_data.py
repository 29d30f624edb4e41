"""What is known of some stacks → all that a round of learning needs of it."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import log
from typing import cast

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.card import Card
from napari_emseg.core.intensity import zoom_of
from napari_emseg.core.records import Note, Progress, Record
from napari_emseg.core.regions import Region
from napari_emseg.core.tiles import Geometry
from napari_emseg.core.training import FinetuneSettings
from napari_emseg.inference.region import RegionPredictor
from napari_emseg.models.zoo import Network
from napari_emseg.training.corrections import TrainingSet, taken_as_shown
from napari_emseg.training.crops import (
    Border,
    Crop,
    cut_crops,
    reader_of,
    rehearsal_crops,
)
from napari_emseg.training.holdout import HoldoutSplit, Place, split_round
from napari_emseg.training.losses import IGNORE
from napari_emseg.training.patches import rehearsed
from napari_emseg.training.sparse_labels import INSIDE, MEMBRANE, SparseLabels

FEWEST_CHECKED = 4
"""With fewer places to stop by none is held out: one or two tell more of themselves
than of the weights, and are worth more when they are learnt."""

MOST_UNEVEN = 4.0
"""Factor by which pixels of a class count more or less than others at most."""


def balanced_weights(opinions: SparseLabels) -> NDArray[np.float32]:
    """Return what a pixel of each class counts: classes alike, within bounds.

    How much of a class was drawn by hand says what the weights got wrong, and nothing
    of how common it is. Reviewed regions do say that; but membranes are thin, and a
    network that counts pixels learns to call none where it is in doubt: then no
    threshold of before fits any more, and cells run together.
    """
    counts = opinions.counts[1:].astype(float)
    drawn = counts > 0
    weights = np.ones(len(counts), np.float32)
    weights[drawn] = counts.sum() / (drawn.sum() * counts[drawn])
    return np.clip(weights, 1 / MOST_UNEVEN, MOST_UNEVEN)


def split_validation(
    opinions: SparseLabels, sections: int
) -> tuple[SparseLabels, SparseLabels]:
    """Divide opinions into what is learnt and what tells when to stop.

    Parameters
    ----------
    sections
        Neighbours of a section, on each side, that show the same tissue.
    """
    blocks = opinions.blocks
    # whole places are held out: neighbouring pixels of one
    # stroke would tell of each other
    places = {b: Place.at(b.z, b.top, b.left, sections) for b in blocks}
    chosen = {place for place in places.values() if place.validates}
    if not FEWEST_CHECKED <= len(chosen) <= len(set(places.values())) / 2:
        return opinions, SparseLabels(opinions.shape)
    apart = [b for b in blocks if places[b] in chosen]
    rest = [b for b in blocks if places[b] not in chosen]
    return opinions.without(apart), opinions.without(rest)


EXPOSURES = 40
"""So often a place is seen in a round."""

FEWEST_STEPS, MOST_STEPS = 200, 600
"""Of a round: a few strokes take some, and nobody waits for more."""


def places_learnt(
    opinions: SparseLabels,
    *,
    side: tuple[float, float],
    sections: int,
    besides: Sequence[Region] = (),
) -> int:
    """Count places that don't show the same tissue.

    Parameters
    ----------
    side
        Of a place, rows and columns in px.
    sections
        Neighbours on each side that show the same.
    besides
        Further squares from which something is learnt.
    """
    return len(
        {
            (b.z // (sections + 1), int(b.top / side[0]), int(b.left / side[1]))
            for b in (*opinions.blocks, *besides)
        }
    )


def steps_for(places: int, settings: FinetuneSettings) -> int:
    """Return how many steps show so many places often enough, within bounds."""
    new = max(1, settings.batch - rehearsed(settings))
    return min(max(FEWEST_STEPS, EXPOSURES * places // new), MOST_STEPS)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All that is learnt, and judged by, in one round.

    Parameters
    ----------
    sets
        Complete: in reviewed regions everything is known.
    learnt
        Where each set is learnt from.
    held_out
        Reviewed regions of each set that judge the candidate.
    settings
        With a patch that fits the network, and so many steps as there is to learn.
    taught
        Opinions of each set that are learnt, and those that tell when to stop.
    """

    sets: tuple[TrainingSet, ...]
    crops: list[Crop]
    rehearsal: list[Crop]
    validation: list[Crop]
    learnt: tuple[tuple[Region, ...], ...]
    held_out: tuple[tuple[Region, ...], ...]
    settings: FinetuneSettings
    n_classes: int
    taught: tuple[tuple[SparseLabels, SparseLabels], ...]

    @property
    def fingerprint(self) -> str:
        """Checksum of what is known."""
        parts: list[object] = [
            (s.opinions.fingerprint, s.reviewed, s.excluded) for s in self.sets
        ]
        # as before where there are none, so that what was begun then goes on
        parts += [s.ids.fingerprint for s in self.sets if s.ids is not None]
        parts += [s.through for s in self.sets if s.through]
        return sha256(repr(parts).encode()).hexdigest()

    @property
    def usual_logits(self) -> list[float]:
        """Of each class, by how often it is among what is learnt."""
        # one of each (Laplace), so that no class has a logit of minus infinity
        counts = np.ones(self.n_classes)
        for crop in self.crops:
            known = crop.target[crop.target != IGNORE]
            counts += np.bincount(known, minlength=self.n_classes)
        share = counts / counts.sum()
        # as RetinaNet's prior (Lin et al. 2017): a rare class begins rare
        return [log(p / (1 - p)) for p in share]


def prepare(
    parent: RegionPredictor,
    sets: Sequence[TrainingSet],
    settings: FinetuneSettings,
    classes: Sequence[str],
) -> Generator[Record, None, TrainingData]:
    """Hold out, cut out, and predict what is to be rehearsed.

    Parameters
    ----------
    parent
        Weights, and how they are run: so they were shown where nobody corrected.

    Raises
    ------
    ValueError
        If nothing is left to learn from, or a class has no name.
    """
    card = parent.weights.card
    geometry = card.geometry or cast("Network", parent.weights.network()).geometry
    settings, note = _with_fitting_patch(settings, geometry)
    if note:
        yield Note(note)
    # what is rehearsed is what the weights say that learn on: all of them
    whole = parent.as_it_is()
    complete: list[TrainingSet] = []
    parts: list[_Part] = []
    for known in sets:
        _check_classes(known, classes)
        complete.append((yield from completed(known, parent)))
        parts.append(_part_of(complete[-1], card, geometry, settings))
    if settings.steps is None:
        places = sum(part.places for part in parts)
        settings = settings.model_copy(update={"steps": steps_for(places, settings)})
    rehearsal: list[Crop] = []
    for known in complete if settings.rehearsal and settings.steps else ():
        rehearsal += yield from rehearsal_crops(
            whole,
            known,
            side=settings.patch,
            sure=settings.rehearsed_share,
            confidence=settings.confidence,
            seed=settings.seed,
        )
    return TrainingData(
        sets=tuple(complete),
        crops=[crop for part in parts for crop in part.crops],
        rehearsal=rehearsal,
        validation=[crop for part in parts for crop in part.validation],
        learnt=tuple(tuple(c.region for c in part.crops) for part in parts),
        held_out=tuple(part.division.held_out for part in parts),
        settings=settings,
        n_classes=len(classes),
        taught=tuple((part.learnt, part.checked) for part in parts),
    )


def completed(
    known: TrainingSet, predictor: RegionPredictor
) -> Generator[Progress, None, TrainingSet]:
    """Take what weights show in reviewed regions for right where nobody corrected it.

    For sets whose result isn't at hand; the weights are those that were corrected. Gaps
    in walls stay unknown, see `taken_as_shown`.
    """
    missing = known.incomplete
    if not missing:
        return known
    threshold = predictor.threshold
    opinions, partly = known.opinions.copy(), set(known.partly)
    for done, region in enumerate(missing, start=1):
        p = predictor.membrane(known.stack, region, **known.seen)
        if p is not None:
            shown = np.where(p > threshold, MEMBRANE, INSIDE).astype(np.uint8)
            codes, gaps = taken_as_shown(known.opinions.window(region), shown)
            opinions.put(region, codes)
            partly |= {region} if gaps else set()
        yield Progress("reviewed regions", done, len(missing))
    return replace(known, opinions=opinions, partly=frozenset(partly))


@dataclass(frozen=True, slots=True)
class _Part:
    """What one set gives."""

    crops: list[Crop]
    validation: list[Crop]
    division: HoldoutSplit
    learnt: SparseLabels
    checked: SparseLabels
    places: int


def _part_of(
    known: TrainingSet, card: Card, geometry: Geometry, settings: FinetuneSettings
) -> _Part:
    zoom, _ = zoom_of(known.stack, card)
    reviewed = [r for r in known.reviewed if r.z not in known.excluded]
    division = split_round(known.stack, reviewed, card, geometry)
    # what judges is taken out with all that a network sees around it, in its
    # neighbouring sections too, before anything is learnt
    apart = division.zones(known.stack.shape)
    learnt, checked = split_validation(
        known.usable.without(apart), division.spacing.sections
    )
    sections = reader_of(known, card)
    border = Border(settings.border_weight, settings.border_sigma)
    # half a patch turned by 45° and enlarged reaches about so far
    margin = settings.patch * 3 // 4
    through = [
        part
        for part in (known.through if card.links_sections else ())
        if part.z not in known.excluded and not any(map(part.overlap, apart))
    ]
    crops = cut_crops(
        sections,
        learnt,
        zoom=zoom,
        margin=margin,
        reviewed=division.training,
        border=border,
        stroke_weights=balanced_weights(learnt.without(division.training)),
        reviewed_weights=balanced_weights(learnt),
        ids=known.ids if card.links_sections else None,
        through=through,
    )
    validation = cut_crops(sections, checked, zoom=zoom, margin=geometry.margin)
    places = places_learnt(
        learnt,
        side=(settings.patch / zoom[0], settings.patch / zoom[1]),
        sections=division.spacing.sections,
        besides=through,
    )
    return _Part(list(crops), list(validation), division, learnt, checked, places)


def _check_classes(known: TrainingSet, classes: Sequence[str]) -> None:
    found = known.opinions.first_above(len(classes))
    if found is not None:
        code, (z, y, x) = found
        listed = ", ".join(f"{nth} {name}" for nth, name in enumerate(classes, start=1))
        msg = (
            f"corrections of {known.stack.name} hold code {code}, class {code - 1}, in "
            f"section {z} at y {y}, x {x}, but the classes are {listed}; change or "
            "erase it there, or name the new class"
        )
        raise ValueError(msg)


def _with_fitting_patch(
    settings: FinetuneSettings, geometry: Geometry
) -> tuple[FinetuneSettings, str]:
    """Return settings whose patch a network takes, and what to say of it.

    Networks whose output is smaller than their input get so much more.
    """
    step, trim = geometry.stride, 2 * geometry.trim
    wanted = max(settings.patch, geometry.smallest, step) - geometry.remainder
    patch = -(-wanted // step) * step + geometry.remainder + trim
    if patch == settings.patch:
        return settings, ""
    note = f"this network takes patches of {patch} px instead of {settings.patch} px"
    return settings.model_copy(update={"patch": patch}), note
