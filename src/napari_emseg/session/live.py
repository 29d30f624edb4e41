"""The field of view predicted while one moves: shallow first, then deeper.

A view goes in, finished pictures of it come out. They are for the eyes only: nothing is
written into results. What each depth of a network costs and gives is told before.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.card import Card, Variant
from napari_emseg.core.intensity import (
    Polarity,
    normalise,
    padding,
    polarity,
    section_range,
)
from napari_emseg.core.records import Progress, Record, TileDone
from napari_emseg.core.regions import Area, RunScope
from napari_emseg.core.settings import (
    Heads,
    Invert,
    LiveSettings,
    Normalisation,
    PredictSettings,
)
from napari_emseg.core.stack import Stack, VoxelSize
from napari_emseg.core.tiles import TilePlan
from napari_emseg.models.weights import Weights
from napari_emseg.session.session import Session
from napari_emseg.session.stack_state import StackState

if TYPE_CHECKING:
    from napari_emseg.inference import Predictor


@dataclass(frozen=True, slots=True)
class Depth:
    """One depth of the chosen weights, with the heads that are chosen.

    Parameters
    ----------
    seconds
        That the run would take on this machine; None if it can't be told.
    measured
        Whether this depth ran here, else its time follows from another's.
    v_rand
        On held-out sections, by the card; None if never scored.
    """

    depth: int
    parameters: int
    seconds: float | None
    measured: bool
    v_rand: float | None


def depths_of(
    weights: Weights,
    settings: PredictSettings,
    stack: Stack | None = None,
    region: RunScope | None = None,
) -> list[Depth]:
    """Say what a run over a region would take at each depth; empty without depth."""
    card = weights.card
    if len(card.depths) < 2:
        return []
    ways = [settings.model_copy(update={"depth": d}) for d in card.depths]
    times = [_seconds(weights, way, stack, region) for way in ways]
    if times[-1] is None:  # the deepest may have run as what weights are by default
        whole = settings.model_copy(update={"depth": None})
        times[-1] = _seconds(weights, whole, stack, region)
    known = next((i for i, time in enumerate(times) if time is not None), None)
    found = []
    for i, way in enumerate(ways):
        facts = _variant(card, way)
        scored = card.variant(way.depth, _heads(way), tta=way.tta)
        seconds = times[i]
        if seconds is None and known is not None:
            # the ratio of two depths is much the same on all machines, times are not
            seconds = _by_another(card, way, ways[known], times[known])
        score = None if scored is None else scored.scores.get("v_rand")
        parameters = 0 if facts is None else facts.parameters
        measured = times[i] is not None
        found.append(Depth(card.depths[i], parameters, seconds, measured, score))
    return found


def iter_measure_depths(
    weights: Weights, settings: PredictSettings, depths: Sequence[int]
) -> Generator[Record, None, None]:
    """Time a small window at each depth; `depths_of` knows from then on.

    Raises
    ------
    ValueError
        If the device isn't there.
    """
    from napari_emseg.inference import Predictor

    for done, depth in enumerate(depths):
        yield Progress("measuring", done, len(depths))
        way = settings.model_copy(update={"depth": depth})
        Predictor(weights).measure(way)
    yield Progress("measuring", len(depths), len(depths))


def _seconds(
    weights: Weights,
    settings: PredictSettings,
    stack: Stack | None,
    region: RunScope | None,
) -> float | None:
    """Return what the run takes if this depth ran here before."""
    from napari_emseg.inference import estimate

    if stack is None or region is None:
        return None
    try:
        return estimate(
            stack, weights, settings=settings, sections=region.sections, roi=region.roi
        ).seconds
    except ValueError:
        return None


def _by_another(
    card: Card, way: PredictSettings, known: PredictSettings, seconds: float | None
) -> float | None:
    """Scale the time of a depth that ran here by what the card measured of both."""
    mine, other = _variant(card, way), _variant(card, known)
    if mine is None or other is None or seconds is None:
        return None
    for device, ms in mine.ms_per_megapixel.items():
        reference = other.ms_per_megapixel.get(device)
        if reference:
            return seconds * ms / reference
    return None


def _variant(card: Card, way: PredictSettings) -> Variant | None:
    """Return what the card knows of a way to run; facts don't depend on mirrors."""
    return card.variant(way.depth, _heads(way))


def _heads(way: PredictSettings) -> Heads:
    """Return the heads; the mean of one is itself."""
    return "last" if way.depth == 1 else way.heads


SIDE = 512
"""Of the view whose time is told, px."""

Paces = dict[int | None, float]
"""Seconds that a view of `SIDE`² px takes at each depth; None: a network without."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Rows and columns of a section that are on screen, and what predicts them."""

    source: StackState
    weights: Weights
    settings: PredictSettings
    z: int
    area: Area

    @property
    def shape(self) -> tuple[int, int]:
        """`(y, x)` in px."""
        rows, columns = self.area
        return rows.stop - rows.start, columns.stop - columns.start


@dataclass(frozen=True, slots=True, eq=False)
class PictureDone(Record):
    """A view is predicted.

    `values` `(y, x)` are probabilities of membrane; `depth` None means a network
    without depth; `seconds` don't count loading the network; `done` of `total` pictures
    of this view are there.
    """

    view: View
    values: NDArray[np.float32]
    depth: int | None
    seconds: float
    done: int
    total: int


def view_of(
    session: Session, z: int, area: Area | None, settings: LiveSettings
) -> View:
    """Return what to predict of a section on screen; area None is all of it.

    Raises
    ------
    ValueError
        With the reason in words, if there is to be no preview.
    """
    source, weights = session.source, session.weights
    if source is None or weights is None:
        what = "stack" if source is None else "weights"
        msg = f"no preview: choose {what} first"
        raise ValueError(msg)
    if source.is_probabilities:
        msg = f"no preview: {source.name} holds probabilities already"
        raise ValueError(msg)
    if z in source.excluded:
        msg = f"no preview: section {z} is excluded"
        raise ValueError(msg)
    if z in source.reviewed and not session.redo_reviewed:
        msg = f"no preview: section {z} is reviewed"
        raise ValueError(msg)
    _, height, width = source.stack.shape
    rows, columns = area or (slice(0, height), slice(0, width))
    own = session.predict_settings.model_copy(
        update={
            **{"tta": False, "views": 1},
            **{"tile": _tile(weights, settings), "batch": None},
        }
    )
    view = View(source, weights, own, z, (rows, columns))
    y, x = view.shape
    if y * x > settings.most_megapixels * 1e6:
        side = int((settings.most_megapixels * 1e6) ** 0.5)
        msg = f"zoom in: {y} × {x} px are on screen, at most {side}² are predicted"
        raise ValueError(msg)
    return view


def _tile(weights: Weights, settings: LiveSettings) -> int:
    """Return the largest tile side; more than the setting if the network needs it."""
    geometry = weights.card.geometry
    if geometry is None:
        return settings.tile
    return max(settings.tile, TilePlan.smallest_tile(geometry))


class Live:
    """Predicts views; keeps the networks loaded, and the section in view."""

    def __init__(self, settings: LiveSettings | None = None) -> None:
        self.settings = settings or LiveSettings()
        self._predictor: Predictor | None = None

    def run(self, view: View) -> Generator[Record, None, None]:
        """Predict a view: yields a `Progress` for each tile, and each `PictureDone`.

        What is asked for is worked out at the first `next`, which loads the network
        where it isn't yet. Closing the generator stops after the tile in hand.

        Raises
        ------
        ValueError
            If the same is on screen already, or the run isn't possible.
        OSError
            If the section can't be read.
        """
        if is_shown(view):
            msg = "up to date"
            raise ValueError(msg)
        predictor = self._predictor
        if predictor is None or predictor.weights != view.weights:
            from napari_emseg.inference import Predictor

            predictor = Predictor(
                view.weights, at_hand=3, remember=True, settles="known"
            )
            self._predictor = predictor
        # one picture for each way, shallow first: each
        # replaces the one before on screen
        ways = passes_of(view, self.settings)
        for nth, way in enumerate(ways, start=1):
            yield Progress("loading", nth - 1, len(ways))
            choice = yield from predictor.settle(
                view.source.stack, way, sections=[view.z], roi=view.area
            )
            way = choice.settings
            predictor.runtime(way)
            predictor.measure(way)  # else a first window would tell, which is slow
            start = perf_counter()
            values = yield from _picture(predictor, view, way)
            seconds = perf_counter() - start
            yield PictureDone(view, values, way.depth, seconds, nth, len(ways))


def _picture(
    predictor: Predictor, view: View, way: PredictSettings
) -> Generator[Record, None, NDArray[np.float32]]:
    """Return probabilities `(y, x)` of a view.

    Raises
    ------
    OSError
        If the section can't be read.
    """
    work = predictor.run(
        view.source.stack,
        settings=way,
        sections=[view.z],
        roi=view.area,
        excluded=view.source.excluded,
    )
    with closing(work):
        while True:
            try:
                record = next(work)
            except StopIteration as stop:
                result = stop.value
                break
            if isinstance(record, TileDone):
                yield Progress("preview", record.done, record.total)
    if view.z in result.damaged:
        msg = f"section {view.z} can't be read: {result.damaged[view.z]}"
        raise OSError(msg)
    values: NDArray[np.float32] = result.probabilities[0]
    return values


def passes_of(view: View, settings: LiveSettings) -> tuple[PredictSettings, ...]:
    """Say at which depths a view is predicted, one after the other.

    The chosen depth at once where that is quick; else the lowest first, then the next,
    then the deepest that the chosen one allows; each only if it is quick enough here,
    as far as that is known. The lowest always comes.
    """
    depths = view.weights.card.depths
    if len(depths) < 2:
        return (view.settings,)
    chosen = view.settings.depth or max(depths)
    region = RunScope((view.z,), view.area)
    found = depths_of(view.weights, view.settings, view.source.stack, region)
    times = {depth.depth: depth.seconds for depth in found}
    whole = times.get(chosen)
    if whole is not None and whole <= settings.first_s:
        return (_at(view, chosen),)
    quick = [
        depth
        for depth in sorted(times)
        if depth <= chosen and _is_quick(depth, times[depth], settings.refined_s)
    ]
    # the lowest, the next one, the deepest, without doubles: a dict keeps their order
    wanted = dict.fromkeys((min(depths), *quick[1:2], *quick[-1:]))
    return tuple(_at(view, depth) for depth in wanted)


def _is_quick(depth: int, seconds: float | None, limit: float) -> bool:
    # not measured yet: only the two shallowest are tried
    return depth <= 2 if seconds is None else seconds <= limit


def _at(view: View, depth: int) -> PredictSettings:
    return view.settings.model_copy(update={"depth": depth})


def is_shown(view: View) -> bool:
    """Tell if a run of the same weights has predicted all of a view already."""
    results = view.source.results
    made = results.made.get(view.z)
    if made is None or made.weights != view.weights.card.name:
        return False
    # by what was run, not by name alone: weights may have been
    # trained further under one name
    part = view.weights.at(view.settings.depth, view.settings.heads)
    now = {"depth": part.depth, "heads": part.heads, "invert": view.settings.invert}
    same = {key: made.settings.get(key) for key in now} == now
    if not same or made.weights_sha256 != part.sha256:
        return False
    unknown = results.unknown(view.z)
    return unknown is None or not unknown[view.area].any()


def paces_of(
    weights: Weights, settings: PredictSettings, voxel_size_nm: VoxelSize | None
) -> Paces:
    """Return seconds for 512² px at each depth up to the chosen one, where known."""
    from napari_emseg.inference import estimate

    # takes no memory; three views wide, so that the middle
    # has a halo as in a large section
    nothing = np.broadcast_to(np.uint8(0), (1, 3 * SIDE, 3 * SIDE))
    stack = Stack(nothing, voxel_size_nm=voxel_size_nm)
    middle = slice(SIDE, 2 * SIDE)
    region = RunScope((0,), (middle, middle))
    update = {"tta": False, "views": 1, "tile": None, "batch": None}
    settings = settings.model_copy(update=update)
    deepest = settings.depth or max(weights.card.depths, default=0)
    found = depths_of(weights, settings, stack, region)
    if found:
        known = {depth.depth: depth.seconds for depth in found}
        return {d: s for d, s in known.items() if s is not None and d <= deepest}
    seconds = estimate(
        stack, weights, settings=settings, sections=[0], roi=region.roi
    ).seconds
    return {} if seconds is None else {None: seconds}


def is_quick(paces: Paces, settings: LiveSettings) -> bool | None:
    """Tell if a preview keeps up with a person; None as long as that isn't known."""
    if not paces:
        return None
    if None in paces:
        return paces[None] <= settings.refined_s
    first, *others = (paces[depth] for depth in sorted(paces, key=_level))
    refined = others[:1]
    return first <= settings.first_s and all(s <= settings.refined_s for s in refined)


def format_paces(paces: Paces) -> str:
    """Say how long the preview takes: `512² px take 0.06 s at depth 1, …`."""
    named: Sequence[int | None] = sorted(paces, key=_level)[:2]
    times = [
        f"{paces[depth]:.2g} s" + (f" at depth {depth}" if depth is not None else "")
        for depth in named
    ]
    return f"{SIDE}² px take {', '.join(times)} here" if times else ""


def _level(depth: int | None) -> int:
    return depth or 0


MIDDLE_SIDE = 1024
"""Of the middle of the section, whose grey values the pictures are made with, px."""

THUMBNAIL = 88
"""Side of the small pictures, px."""


@dataclass(frozen=True, slots=True, eq=False)
class PolarityPreview:
    """What was seen of a stack.

    Parameters
    ----------
    z
        The section of the pictures.
    as_it_is, inverted
        Small pictures `(y, x)`, as a network would see them, float32 in [0, 1].
    polarity
        Of the stack: what a run with `invert` auto goes by, too.
    """

    z: int
    as_it_is: NDArray[np.float32]
    inverted: NDArray[np.float32]
    polarity: Polarity

    def inverts(self, invert: Invert) -> bool:
        """Tell whether a run would invert."""
        return invert == "yes" or (invert == "auto" and self.polarity.inverted is True)


def iter_polarity_preview(
    stack: Stack, z: int
) -> Generator[Record, None, PolarityPreview]:
    """Look at a stack, and at one section of it.

    Raises
    ------
    OSError, ValueError
        If the section can't be read.
    """
    yield Progress("looking", 0, 1)
    section = _middle(stack.section(z), MIDDLE_SIDE)
    grey = section_range(section, Normalisation(), padding(section))
    part = _middle(section, 2 * THUMBNAIL)[::2, ::2]
    as_it_is = np.clip(normalise(part, grey), 0, 1)
    return PolarityPreview(z, as_it_is, 1 - as_it_is, polarity(stack))


def _middle(values: NDArray[Any], side: int) -> NDArray[Any]:
    parts = (slice(max(0, (n - side) // 2), (n + side) // 2) for n in values.shape)
    return values[tuple(parts)]
