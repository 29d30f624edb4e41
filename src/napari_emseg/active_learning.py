"""Weights and what is corrected already in, the regions to correct next out."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import Tensor, nn

from napari_emseg.core.records import Progress
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.training import SuggestSettings
from napari_emseg.inference.region import DoubtPredictor, RegionPredictor
from napari_emseg.inference.runtime import Runtime
from napari_emseg.inference.torch_runtime import TorchRuntime, choose_device
from napari_emseg.models.parts import modules_of
from napari_emseg.models.weights import Weights
from napari_emseg.segmentation import section_fragments
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.holdout import Place, same_tissue

UNDECIDED = 0.2
"""Walls whose strength is so near to where cells are joined are undecided."""

LARGE = 2000.0
"""Two cells of at least so many px count in full when they may be one, or two."""

AGAIN = 0.8
"""Every place that is listed of a section lowers what others in it are worth."""

PER_SECTION = 40
"""Of each section only the best candidates are kept."""

CANDIDATES = 6
"""So many times what is listed are the best, of which those are taken that are unlike
each other and unlike what is labelled."""

MOST_LABELLED = 40
"""So many labelled squares are looked at, to know what is labelled."""

DRAWN = 60
"""So often a place at random is drawn for each that is wanted."""

AT_RANDOM = "at random: shows how good the weights are, wherever it is"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A place worth a correction.

    Parameters
    ----------
    region
        What to look at.
    y, x
        The spot, px.
    gain
        Expected, relative to others of the same list.
    reason
        In words.
    """

    region: Region
    y: int
    x: int
    gain: float
    reason: str


def suggest_places(
    weights: Weights,
    known: TrainingSet,
    *,
    settings: SuggestSettings | None = None,
    sections: Sequence[int] | None = None,
    cells: CellSettings | None = None,
    device: torch.device | str = "cpu",
    predict: PredictSettings | None = None,
) -> Generator[Progress, None, tuple[Suggestion, ...]]:
    """Rank regions by what a correction there is worth, the best first.

    It is worth most at a wall that is neither there nor not, between two large cells,
    where the network contradicts itself; then where it is unsure of a whole area.
    Reviewed regions, excluded sections and places with corrections are left out, and
    places lie apart from each other. Of the best by that rank those are taken that are
    unlike for the network's encoder (k-centre, Sener and Savarese 2018), since a wall
    teaches little that looks like one that was taught. Some places lie anywhere, and
    come last: what is corrected there is held out to stop by.

    Parameters
    ----------
    known
        The stack, with what is corrected and reviewed in it.
    sections
        Look at these only; by default at some of all sections, evenly.
    cells
        By which cells are made: their threshold, and where they are joined. By default
        the threshold of the weights.
    predict
        How the weights are run; on `device` by default.
    """
    settings = settings or SuggestSettings()
    predict = predict or PredictSettings(device=str(device))
    predictor = DoubtPredictor(weights, predict)
    cells = cells or CellSettings(threshold=predictor.threshold)
    found: list[Suggestion] = []
    hidden_in: dict[int, NDArray[np.bool_] | None] = {}
    wanted = _sections(known, settings.sections, sections)
    for done, z in enumerate(wanted, start=1):
        whole = Region.whole(z, (known.stack.shape[1], known.stack.shape[2]))
        seen = predictor.membrane_and_doubt(known.stack, whole, **known.seen)
        if seen is not None:
            p, doubt = seen
            section = predictor.open(known.stack, z, **known.seen)
            hidden = None if section.empty is None else section.empty(whole.area)
            hidden_in[z] = hidden
            places = (
                *_walls(p, doubt, z, settings, cells, hidden),
                *_areas(p, doubt, z, settings, heads=predictor.by_heads),
            )
            shown = (s for s in places if hidden is None or not hidden[s.y, s.x])
            found += _best(s for s in shown if not _done(s, known))
        yield Progress("looking for regions", done, len(wanted))
    n_random = int(settings.at_random * settings.places)
    best = _diverse(found, settings.side, CANDIDATES * (settings.places - n_random))
    look = _Look(weights, known, predict)
    if n_random:
        best = _taught(best, known, settings.places - n_random)
    unlike = _unlike(best, known, look, settings.places - n_random)
    return (*unlike, *_random(known, hidden_in, settings, n_random, unlike))


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """Weights, and a stack as they see it."""

    weights: Weights
    known: TrainingSet
    predict: PredictSettings

    def features(self, regions: Iterable[Region]) -> NDArray[np.floating]:
        """Return what the encoder says of each region: means over it, `(n, d)`.

        Of the deepest convolution, and of the one before.
        """
        pooled: list[Tensor] = []

        def load(weights: Weights, settings: PredictSettings) -> Runtime:
            # by PyTorch, the only one that lets itself be looked into
            device = choose_device(settings.device)
            runtime = TorchRuntime(
                weights.network(), device, half=False, threads=settings.threads
            )
            for module in _convolutions(runtime.network)[-2:]:
                module.register_forward_hook(
                    lambda _module, _given, values: pooled.append(
                        values.mean((0, 2, 3))
                    )
                )
            return runtime

        predictor = RegionPredictor(self.weights, self.predict, load)
        found = []
        for region in regions:
            pooled.clear()
            predictor.membrane(self.known.stack, region, **self.known.seen)
            found.append(torch.cat(pooled[:2]).cpu().numpy() if pooled else None)
        size = next((len(f) for f in found if f is not None), 0)
        return np.stack([np.zeros(size) if f is None else f for f in found])


def _convolutions(network: nn.Module) -> list[nn.Module]:
    """Return those of the encoder."""
    return [m for m in modules_of(network, "encoder") if isinstance(m, nn.Conv2d)]


def _taught(
    best: Sequence[Suggestion], known: TrainingSet, n: int
) -> tuple[Suggestion, ...]:
    """Leave out what would be held out to stop by, as long as `n` are left."""
    near = same_tissue(known.stack)
    rest = [s for s in best if not Place.at(s.region.z, s.y, s.x, near).validates]
    return tuple(best if len(rest) < n else rest)


def _unlike(
    best: Sequence[Suggestion], known: TrainingSet, look: _Look, n: int
) -> tuple[Suggestion, ...]:
    """Choose `n` that are unlike, the best first."""
    together = np.array([[_overlap(a, b) for b in best] for a in best], bool)
    if len(best) <= n:
        return tuple(s for k, s in enumerate(best) if not together[k, :k].any())
    labelled = known.usable.blocks
    order = np.random.default_rng(0).permutation(len(labelled))[:MOST_LABELLED]
    regions = [*(s.region for s in best), *(labelled[k] for k in order)]
    features = look.features(regions)
    spread = features[: len(best)].std(axis=0)
    features = features / np.where(spread > 0, spread, 1)
    chosen = k_centre(features[: len(best)], features[len(best) :], n, together)
    return tuple(best[k] for k in sorted(chosen))


def k_centre(
    candidates: NDArray[np.floating],
    taken: NDArray[np.floating],
    n: int,
    together: NDArray[np.bool_] | None = None,
) -> list[int]:
    """Choose `n` candidates, each the farthest from all that are taken before it.

    Greedy, which is at most twice as far from all as the best choice there is.

    Parameters
    ----------
    candidates, taken
        Features `(n, d)`; `taken` may be empty, then the first candidate is.
    together
        Which candidates `(n, n)` can't both be chosen.
    """
    chosen: list[int] = []
    nearest = np.full(len(candidates), np.inf)
    for other in taken:
        nearest = np.minimum(nearest, np.linalg.norm(candidates - other, axis=1))
    while len(chosen) < n and (nearest >= 0).any():
        k = int(nearest.argmax())
        chosen.append(k)
        away = np.linalg.norm(candidates - candidates[k], axis=1)
        nearest = np.minimum(nearest, away)
        nearest[chosen] = -1
        if together is not None:
            nearest[together[k]] = -1
    return chosen


def _random(
    known: TrainingSet,
    hidden_in: Mapping[int, NDArray[np.bool_] | None],
    settings: SuggestSettings,
    n: int,
    taken: Sequence[Suggestion],
) -> list[Suggestion]:
    """Draw places anywhere in the sections looked at, those that validate first."""
    rng = np.random.default_rng(settings.seed)
    shape, near = known.stack.shape[1:], same_tissue(known.stack)
    sections = list(hidden_in)
    drawn: list[tuple[bool, Suggestion]] = []
    for _ in range(DRAWN * n if sections else 0):
        z = sections[int(rng.integers(len(sections)))]
        y, x = (int(rng.integers(size)) for size in shape)
        hidden = hidden_in[z]
        region = _around(np.array([y, x]), z, settings.side, shape)
        one = Suggestion(region, y, x, 0.0, AT_RANDOM)
        if (hidden is None or not hidden[y, x]) and not _done(one, known):
            drawn.append((_validates(region, near), one))
    found: list[Suggestion] = []
    # sorting keeps the order in which they were drawn
    for _, one in sorted(drawn, key=lambda pair: not pair[0]):
        near_one = any(
            _same_place(one, s, settings.side) or _overlap(one, s)
            for s in (*taken, *found)
        )
        if len(found) < n and not near_one:
            found.append(one)
    return found


def _validates(region: Region, near: int) -> bool:
    """Tell if all of a region is held out to stop by, once it is corrected."""
    corners = (
        Place.at(region.z, y, x, near)
        for y in (region.top, region.bottom - 1)
        for x in (region.left, region.right - 1)
    )
    return all(place.validates for place in corners)


def _sections(known: TrainingSet, most: int, among: Sequence[int] | None) -> list[int]:
    """Choose sections evenly, among those that aren't excluded or all reviewed."""
    n, y, x = known.stack.shape
    there = range(n) if among is None else sorted(set(among))
    whole = {r.z for r in known.reviewed if r.shape == (y, x)}
    left = [z for z in there if z not in known.excluded and z not in whole]
    if not left:
        return []
    picked = np.unique(np.linspace(0, len(left) - 1, min(most, len(left))).round())
    return [left[int(k)] for k in picked]


def _walls(
    p: NDArray[np.float32],
    doubt: NDArray[np.float32],
    z: int,
    settings: SuggestSettings,
    cells: CellSettings,
    padding: NDArray[np.bool_] | None,
) -> list[Suggestion]:
    """Return walls that may part two cells, or not.

    Their strength is the one by which cells are joined: probabilities on a scale where
    the threshold is 1/2, weaker the wider a wall stands open.
    """
    found = section_fragments(p, cells.threshold, exclude=padding)
    regions, seams = found.regions, found.seams
    if not len(regions.edges):
        return []
    sizes, strength = regions.sizes, regions.strength
    along, which = p.ravel()[seams.pixels], seams.edges
    # mean doubt along each wall; every edge has a pixel, so nothing is divided by 0
    torn = np.bincount(which, doubt.ravel()[seams.pixels]) / np.bincount(which)
    places = seams.pixels[_first_of_each(which, along)]
    weakest = np.stack(np.unravel_index(places, p.shape), axis=1)
    smaller = sizes[regions.edges].min(axis=1)
    # Three factors: how near a wall is to being joined or not, how much
    # depends on it (an error of a small cell costs little), and how much
    # the network contradicts itself.
    gain = np.exp(-(((strength - cells.join) / UNDECIDED) ** 2))
    gain *= np.minimum(1, np.sqrt(smaller / LARGE)) * (0.5 + torn)
    best = np.argsort(-gain)[:PER_SECTION]
    return [
        Suggestion(
            _around(weakest[k], z, settings.side, p.shape),
            int(weakest[k][0]),
            int(weakest[k][1]),
            float(gain[k]),
            _format_wall(sizes[regions.edges[k]], float(strength[k]), cells.join),
        )
        for k in best
    ]


def _first_of_each(
    which: NDArray[np.int32], values: NDArray[np.float32]
) -> NDArray[np.intp]:
    """Return where the lowest value of each group is."""
    order = np.lexsort((values, which))
    _, first = np.unique(which[order], return_index=True)
    found: NDArray[np.intp] = order[first]
    return found


def _format_wall(sizes: NDArray[np.int64], strength: float, join: float) -> str:
    small, large = sorted(int(n) for n in sizes)
    wall = f"wall of strength {strength:.2f}, joined below {join:g}"
    if strength < join:
        return f"one cell or two? joined pieces of {small:,} and {large:,} px, {wall}"
    return f"two cells or one? weak wall between {small:,} and {large:,} px, {wall}"


def _areas(
    p: NDArray[np.float32],
    doubt: NDArray[np.float32],
    z: int,
    settings: SuggestSettings,
    *,
    heads: bool,
) -> list[Suggestion]:
    """Return areas of which a network is unsure."""
    q = np.clip(p, 1e-6, 1 - 1e-6)
    # in bits, 0 … 1; doubt is at most 1/2, so twice of it is on the same scale
    entropy = -(q * np.log2(q) + (1 - q) * np.log2(1 - q))
    side = min(settings.side, *p.shape)
    unsure, torn = (
        ndi.uniform_filter(values.astype(np.float32), side)
        for values in (entropy, 2 * doubt)
    )
    # windows that overlap by half: no unsure area falls between two of them
    step = max(1, side // 2)
    grid = np.argwhere(np.ones(p[::step, ::step].shape, bool)) * step
    found = []
    contradicted = (
        "the network's heads contradict each other"
        if heads
        else "the network says something else of the mirror image"
    )
    for y, x in grid:
        reason = contradicted
        if torn[y, x] < unsure[y, x] / 2:
            reason = f"high uncertainty ({unsure[y, x]:.2f})"
        gain = float(unsure[y, x] + torn[y, x]) / 2
        region = _around(np.array([y, x]), z, settings.side, p.shape)
        found.append(Suggestion(region, int(y), int(x), gain, reason))
    return found


def _around(
    spot: NDArray[np.intp], z: int, side: int, shape: tuple[int, ...]
) -> Region:
    """Return a square around a spot, moved into the section."""
    top, left = (
        int(min(max(0, at - side // 2), max(0, size - side)))
        for at, size in zip(spot, shape, strict=True)
    )
    return Region(z, top, left, min(shape[0], top + side), min(shape[1], left + side))


def _done(place: Suggestion, known: TrainingSet) -> bool:
    """Tell if a place is reviewed or corrected already."""
    spot = Region(place.region.z, place.y, place.x, place.y + 1, place.x + 1)
    if any(spot.overlap(region) for region in known.reviewed):
        return True
    near = spot.grown(place.region.shape[0] // 4, known.stack.shape[1:])
    return bool(known.opinions.window(near).any())


def _best(places: Iterable[Suggestion]) -> list[Suggestion]:
    return sorted(places, key=lambda s: -s.gain)[: 2 * PER_SECTION]


def _diverse(
    places: Sequence[Suggestion], side: int, most: int
) -> tuple[Suggestion, ...]:
    """Take the best, then the best of what lies apart from it, and so on."""
    chosen: list[Suggestion] = []
    left = list(places)
    # greedy: gains of what is left change with each
    # choice, so they can't be sorted once
    while left and len(chosen) < most:
        best = max(left, key=lambda s: s.gain)
        chosen.append(best)
        left = [
            replace(s, gain=s.gain * AGAIN) if s.region.z == best.region.z else s
            for s in left
            if not _same_place(s, best, side)
        ]
    return tuple(chosen)


def _same_place(a: Suggestion, b: Suggestion, side: int) -> bool:
    """Tell if two regions show the same tissue."""
    apart = max(abs(a.y - b.y), abs(a.x - b.x))
    return abs(a.region.z - b.region.z) <= 1 and apart < side


def _overlap(a: Suggestion, b: Suggestion) -> bool:
    """Tell if two regions share pixels, as they may near a border: moved off it."""
    return a.region.overlap(b.region) is not None
