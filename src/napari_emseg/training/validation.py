"""How good a network is on sections that it doesn't learn from."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import nn

from napari_emseg.core.card import Card, Variant
from napari_emseg.core.records import Progress, Record
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.tiles import TilePlan
from napari_emseg.inference.region import NetworkPredictor, RegionPredictor
from napari_emseg.inference.torch_runtime import TorchRuntime
from napari_emseg.models.variants import own_way, parts_of
from napari_emseg.models.zoo import Network
from napari_emseg.segmentation import segment_section, usual_cells
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.crops import Crop, groups_of
from napari_emseg.training.dataset import Example
from napari_emseg.training.holdout import same_tissue
from napari_emseg.training.losses import IGNORE, INSIDE, MEMBRANE
from napari_emseg.training.measures import Measured, difference, measure, true_cells
from napari_emseg.training.sparse_labels import SparseLabels

Validation = Callable[[nn.Module], dict[str, float]]
"""Scores of a network by name; `score` is the one to choose by, more is better."""

Group = tuple[tuple[slice, slice], NDArray[np.uint8], NDArray[np.uint32]]
"""Box, class numbers and cells of known pixels that hang together."""


def inside_of(
    network: nn.Module, examples: Sequence[Example], *, tta: bool = False
) -> NDArray[np.float32]:
    """Return 1 less the probability of membrane `(z, y, x)` of each example.

    Membrane is what a run gives to its user. Where each class has a sigmoid of its own
    the channel of inside says something else, and a threshold of it isn't one of
    membrane. Where nothing is known it is 0, as `truth_of` is.
    """
    predictor, found = NetworkPredictor(network, tta=tta), []
    for example in examples:
        membrane = predictor.probabilities(example.seen)[MEMBRANE]
        found.append(np.where(example.target == IGNORE, np.float32(0), 1 - membrane))
    return np.stack(found)


def truth_of(examples: Sequence[Example]) -> NDArray[np.bool_]:
    """Return where each example is inside, `(z, y, x)`."""
    return np.stack([e.target == INSIDE for e in examples])


def isbi_validation(examples: Sequence[Example]) -> Validation:
    """Validate by the challenge's V_Rand and V_Info after border thinning.

    The threshold of membrane probability that gives the best V_Rand comes with them.
    """
    truth = truth_of(examples)

    def validate(network: nn.Module) -> dict[str, float]:
        from napari_emseg.metrics import v_rand_v_info

        network.eval()
        scores = v_rand_v_info(inside_of(network, examples), truth)
        return {
            "score": (scores.v_rand + scores.v_info) / 2,
            "v_rand": scores.v_rand,
            "v_info": scores.v_info,
            "threshold": 1 - scores.v_rand_threshold,
        }

    return validate


class CropValidation:
    """Scores a network on held-out corrections, and compares it with the best so far.

    What counts is the variation of information of the cells that a user gets by
    default, at the threshold that a candidate with these numbers would get. Cells of a
    few places scatter, so a difference is one only if its 95 % interval by paired
    bootstrap over squares leaves out 0, as in the verdict. Else the mean log-likelihood
    decides, for which few pixels are enough: in it classes count alike, and in each of
    them what is and what isn't it. Cells are made in network pixels.

    Parameters
    ----------
    threshold
        Of membrane, for the pixel F.
    likely
        Threshold for cells where few walls are known, see `likely_threshold`.
    """

    def __init__(
        self, crops: Sequence[Crop], threshold: float, likely: float | None = None
    ) -> None:
        self._crops = crops
        self._threshold = threshold
        self._likely = threshold if likely is None else likely
        self._n_classes = 1 + max(
            int(c.target[c.target != IGNORE].max()) for c in crops
        )
        self._groups = [_groups(crop.target) for crop in crops]
        self._best: _Checked | None = None

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Return `score`, by which a step is better than those before, and others."""
        p, found = self._check(network)
        score = found.likelihood
        if self._best is not None:
            score = self._best.score + found.gain(self._best)
        if self._best is None or score > self._best.score:
            self._best = replace(found, score=score)
        return {
            "score": score,
            **({} if found.cells is None else {"vi": found.cells.scores["vi"]}),
            "pixel_f": self._pixel_f(p),
            "likelihood": found.likelihood,
        }

    def likelihood(self, network: nn.Module) -> float:
        """Return the mean log-likelihood only."""
        return self._likely_of(self._predicted(network))

    def go_on(self, best: nn.Module, score: float) -> None:
        """Take these numbers for the best so far, with the score that they had."""
        self._best = replace(self._check(best)[1], score=score)

    def _check(
        self, network: nn.Module
    ) -> tuple[list[NDArray[np.float32]], "_Checked"]:
        p = self._predicted(network)
        likelihood = self._likely_of(p)
        return p, _Checked(likelihood, self._cells(p), likelihood)

    def _predicted(self, network: nn.Module) -> list[NDArray[np.float32]]:
        network.eval()
        predictor = NetworkPredictor(network)
        return [predictor.probabilities(c.image, self._n_classes) for c in self._crops]

    def _likely_of(self, p: Sequence[NDArray[np.float32]]) -> float:
        known = [crop.target != IGNORE for crop in self._crops]
        at_known = [part[:, k] for part, k in zip(p, known, strict=True)]
        targets = [c.target[k] for c, k in zip(self._crops, known, strict=True)]
        return _likelihood(np.concatenate(at_known, axis=1), np.concatenate(targets))

    def _cells(self, p: Sequence[NDArray[np.float32]]) -> Measured | None:
        """Return bits of cells, square by square; None if no wall is known."""
        bits, walls = np.zeros((len(LEVELS), 2)), 0
        for found, groups in zip(p, self._groups, strict=True):
            lost, n = _bits_of(found[MEMBRANE], groups)
            bits, walls = bits + lost, walls + n
        if walls == 0:
            return None
        settings = CellSettings(threshold=best_threshold(bits, walls, self._likely))
        parts = []
        for found, groups in zip(p, self._groups, strict=True):
            cells = segment_section(found[MEMBRANE], settings)
            parts += [
                measure(cells[box] == 0, cells[box], part, true=true)
                for box, part, true in groups
            ]
        return Measured.together(parts)

    def _pixel_f(self, p: Sequence[NDArray[np.float32]]) -> float:
        both = sizes = 0
        for crop, found in zip(self._crops, p, strict=True):
            wall = crop.target == MEMBRANE
            predicted = (found[MEMBRANE] > self._threshold) & (crop.target != IGNORE)
            both += 2 * int(np.count_nonzero(wall & predicted))
            sizes += int(np.count_nonzero(wall) + np.count_nonzero(predicted))
        return both / sizes if sizes else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Checked:
    """What was found on held-out corrections, and the score that it was given."""

    likelihood: float
    cells: Measured | None
    score: float

    def gain(self, best: "_Checked") -> float:
        """Return what is gained over the best: bits if they differ, or likelihood."""
        if self.cells is not None and best.cells is not None:
            vi = difference(best.cells, self.cells)["vi"]
            if vi.high < 0 or vi.low > 0:
                return -vi.value
        return self.likelihood - best.likelihood


def _likelihood(p: NDArray[np.float32], target: NDArray[np.uint8]) -> float:
    # one mistake that is made with certainty must not outweigh all else
    p = np.clip(p, 1e-4, 1 - 1e-4)
    parts = []
    for k in np.unique(target):
        is_k = target == k
        parts += [np.log(p[k, is_k]).mean()]
        parts += [np.log(1 - p[k, ~is_k]).mean()] if not is_k.all() else []
    return float(np.mean(parts))


LEVELS: tuple[float, ...] = tuple(k / 20 for k in range(2, 19))
"""Thresholds of membrane that are tried: 0.1 to 0.9."""

AS_GOOD = 0.01
"""Thresholds whose cells lose so few bits more are as good; their mean is taken."""

AROUND = np.array([1, 2, 3, 2, 1]) / 9
"""What thresholds beside one count, and it itself."""

SAID_BEFORE = 10.0
"""Bits times known walls, for a threshold that is 1 away from the likely one: with ten
walls 0.2 away must save 0.04 bits of VI, with a hundred 0.004."""

LEARNT_COUNTS = 0.005
"""A wall that was learnt says less of the threshold than one that was held out, since a
network is surer of it than of any other: what is best there is too low elsewhere."""

MOST_PIXELS = 1_000_000
"""At most so many px are looked at, about 20 s."""

SURROUNDINGS = 32
"""So far around what is known, px, cells are made: they run together through gaps
anywhere, and small places hold few of those."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownCells:
    """By what a threshold is chosen: opinions of a set, and what each wall counts."""

    known: TrainingSet
    opinions: SparseLabels
    counts: float

    @property
    def weight(self) -> float:
        """What each wall counts, if those that several sections show count once."""
        sections = {block.z for block in self.opinions.blocks}
        alike = same_tissue(self.known.stack) + 1
        return self.counts * len({z // alike for z in sections}) / len(sections)


def likely_threshold(parent: float) -> float:
    """Return the threshold that is likely before anything is looked at.

    Halfway from the parent's to 1/2: classes count alike in learning, and so what was
    learnt is parted where both are as likely, whatever threshold the parent had.
    """
    return (parent + 0.5) / 2


def choose_threshold(
    predictor: RegionPredictor, by: Sequence[KnownCells], likely: float
) -> Generator[Progress, None, float]:
    """Return the threshold of membrane that gives the best cells, 0.1 to 0.9.

    By the variation of information of the cells that a user gets by default. Known
    pixels that hang together are a table of their own, since nobody said whether a cell
    of one such group goes on in another.

    Parameters
    ----------
    predictor
        Runs the weights that were taught.
    by
        What was learnt, and what was held out to stop; nothing that judges the weights.
    likely
        See `likely_threshold`. It is taken where no wall between cells is known, and
        has its say where few are.
    """
    bits = np.zeros((len(LEVELS), 2))
    walls = 0.0
    places = _some(by)
    for done, (part, region) in enumerate(places, start=1):
        around = region.grown(SURROUNDINGS, part.known.stack.shape[1:])
        p = predictor.membrane(part.known.stack, around, **part.known.seen)
        if p is not None:
            # code 0, no opinion, wraps to 255, which is `IGNORE`
            target = part.opinions.window(around) - np.uint8(1)
            lost, n = bits_lost(p, target)
            bits += part.weight * lost
            walls += part.weight * n
        yield Progress("choosing the threshold", done, len(places))
    return best_threshold(bits, walls, likely) if walls else likely


def best_threshold(
    bits: NDArray[np.float64], walls: float, likely: float | None
) -> float:
    """Return the one of the `LEVELS` that loses fewest bits, shrunk to a likely one.

    Parameters
    ----------
    bits
        As `bits_lost`, `(levels, 2)`.
    walls
        Known ones between two cells.
    likely
        As in `choose_threshold`; None for weights without a parent.
    """
    levels = np.array(LEVELS)
    # one cell that runs into another makes a jump: what counts is how cells are
    # around a threshold, too
    cost = ndi.convolve1d(
        bits[:, 0] / np.maximum(bits[:, 1], 1), AROUND, mode="nearest"
    )
    if likely is not None:
        cost = cost + SAID_BEFORE / walls * (levels - likely) ** 2
    # the minimum of a flat curve is chance; the middle of its trough isn't
    return round(float(levels[cost <= cost.min() + AS_GOOD].mean()), 2)


def bits_lost(
    membrane: NDArray[np.float32], target: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], int]:
    """Return what cells at each of the `LEVELS` lose, and how many walls are known.

    Parameters
    ----------
    membrane
        Probabilities `(y, x)`.
    target
        Class numbers, `IGNORE` where nothing is known.

    Returns
    -------
    Bits of variation of information times pixels, and pixels, `(levels, 2)`; walls.
    """
    return _bits_of(membrane, _groups(target))


def _bits_of(
    membrane: NDArray[np.float32], groups: Sequence[Group]
) -> tuple[NDArray[np.float64], int]:
    bits = np.zeros((len(LEVELS), 2))
    for k, level in enumerate(LEVELS) if groups else ():
        cells = segment_section(membrane, CellSettings(threshold=level))
        for box, part, true in groups:
            made = cells[box]
            found = measure(made == 0, made, part, true=true, squares=False)
            if found.information is not None:
                bits[k] += found.information.sum(axis=0)
    walls = (int(np.count_nonzero(np.unique(true))) - 1 for _, _, true in groups)
    return bits, sum(walls)


def _some(by: Sequence[KnownCells]) -> list[tuple[KnownCells, Region]]:
    """Take places, the same ones each time, until there are pixels enough.

    Those that count more come first.
    """
    found = [
        (part, region)
        for part in by
        for region in groups_of(
            part.opinions.blocks, SURROUNDINGS, part.opinions.shape[1:]
        )
    ]
    # a fixed seed: the same corrections give the same threshold
    order = np.random.default_rng(0).permutation(len(found))
    drawn = sorted((found[k] for k in order), key=lambda place: -place[0].counts)
    sizes = np.cumsum([region.pixels for _, region in drawn])
    n = max(1, int(np.count_nonzero(sizes <= MOST_PIXELS)))
    return drawn[:n]


def _groups(target: NDArray[np.uint8]) -> list[Group]:
    """Return box, class numbers and cells of each group of known pixels with a cell."""
    groups, n = ndi.label(target != IGNORE, np.ones((3, 3)))
    found = []
    for k, box in enumerate(ndi.find_objects(groups, n), start=1):
        part = np.where(groups[box] == k, target[box], np.uint8(IGNORE))
        true = true_cells(part)
        if true.any():
            found.append((box, part, true))
    return found


SCORES = ("v_rand", "v_info", "rand_error", "pixel_error", "warping_error")

SIDE = 512
"""Of the picture that is timed."""


def with_scores(
    card: Card,
    network: nn.Module,
    validation: Sequence[Example],
    held_out: Sequence[Example],
    *,
    timed: bool = True,
) -> Generator[Record, None, Card]:
    """Score a network on sections that had no part in its making; return its card.

    Each depth and each mean of heads is scored and timed by itself, with and without
    averaged mirrors. The threshold of each is the one that gives the best cells on the
    validation set, by their variation of information; the card's own is that of the
    network as it is. What is scored is membrane as a run gives it, and the cells that
    are made of it by default.

    Parameters
    ----------
    timed
        Measure times, too; False leaves those that the card has, e.g. on a machine
        that isn't at rest.
    """
    network.eval()
    kind = cast("Network", network)
    depth, heads = own_way(kind)
    own = Variant(depth=depth, heads=heads)
    ways = [
        # averaged mirrors take eight passes: scored where
        # there is something to score by
        (Variant(depth=depth, heads=heads, tta=tta), cast("nn.Module", part))
        for depth, heads, part in parts_of(kind)
        for tta in ((False, True) if held_out else (False,))
    ]
    found = []
    kept = {k: v for k, v in card.scores.items() if k.startswith("validation_")}
    for done, (way, part) in enumerate(ways, start=1):
        threshold, chosen_by = card.threshold, kept
        if validation:
            threshold, chosen_by = _chosen(part, validation, tta=way.tta)
        if way == own:
            card = card.model_copy(update={"threshold": threshold})
            kept = {**kept, **chosen_by}
        scores = _scores(part, held_out, threshold, tta=way.tta)
        times = _times(part) if timed and not way.tta else _known_times(card, way)
        update = {"threshold": threshold, "scores": scores, "ms_per_megapixel": times}
        found.append(way.model_copy(update=update))
        yield Progress("scoring", done, len(ways))
    card = card.model_copy(update={"variants": tuple(found)})
    measured = card.variant(own.depth, own.heads) or own
    return card.model_copy(
        update={
            "scores": measured.scores | kept,
            "ms_per_megapixel": measured.ms_per_megapixel,
        }
    )


def _known_times(card: Card, way: Variant) -> dict[str, float]:
    known = card.variant(way.depth, way.heads, tta=way.tta)
    return {} if known is None or way.tta else known.ms_per_megapixel


def with_times(card: Card, network: nn.Module) -> Card:
    """Measure the times of every way anew, e.g. on a machine that is at rest."""
    network.eval()
    times = {
        (depth, heads): _times(cast("nn.Module", part))
        for depth, heads, part in parts_of(cast("Network", network))
    }
    ways = tuple(
        v
        if v.tta
        else v.model_copy(update={"ms_per_megapixel": times[v.depth, v.heads]})
        for v in card.variants
    )
    own = times[own_way(cast("Network", network))]
    return card.model_copy(update={"variants": ways, "ms_per_megapixel": own})


def _chosen(
    network: nn.Module, examples: Sequence[Example], *, tta: bool
) -> tuple[float, dict[str, float]]:
    """Return the threshold of membrane that gives the best cells, and scores.

    Where no two cells are known it is the one whose mask is best by V_Rand.
    """
    from napari_emseg.metrics import v_rand_v_info

    inside = inside_of(network, examples, tta=tta)
    found = v_rand_v_info(inside, truth_of(examples))
    # the challenge's outermost thresholds, 0 and nearly
    # 1, are none that a run could use
    of_mask = round(min(max(1 - found.v_rand_threshold, 0.05), 0.95), 2)
    scores = {
        "validation_v_rand": found.v_rand,
        "validation_v_info": found.v_info,
        "validation_mask_threshold": of_mask,
    }
    bits, walls, pixels = np.zeros((len(LEVELS), 2)), 0, 0
    for example, section in zip(examples, inside, strict=True):
        if pixels < MOST_PIXELS:
            lost, n = bits_lost(1 - section, example.target)
            bits, walls, pixels = bits + lost, walls + n, pixels + section.size
    return (best_threshold(bits, walls, None) if walls else of_mask), scores


def _scores(
    network: nn.Module, examples: Sequence[Example], threshold: float, *, tta: bool
) -> dict[str, float]:
    """Return the challenge's scores of masks, and those of cells; {} without sections.

    Of masks each at its best threshold, and V_Rand and V_Info at the one that was
    fixed, too; cells are made at that, by the default settings.
    """
    from napari_emseg.metrics import isbi_scores
    from napari_emseg.metrics.rand_info import agreement_at

    if not examples:
        return {}
    inside, truth = inside_of(network, examples, tta=tta), truth_of(examples)
    best = isbi_scores(inside, truth)
    scores = {name: float(getattr(best, name)) for name in SCORES}
    rand, info = agreement_at(inside, truth, 1 - threshold)
    fixed = {"v_rand_at_threshold": rand.score, "v_info_at_threshold": info.score}
    return scores | fixed | scores_of_cells(inside, truth, threshold)


def scores_of_cells(
    inside: NDArray[np.float32], truth: NDArray[np.bool_], threshold: float
) -> dict[str, float]:
    """Score the cells that are made by default of probabilities `(z, y, x)`.

    Parameters
    ----------
    inside
        1 less the probability of membrane.
    truth
        Where it is inside.
    threshold
        Of membrane.

    Returns
    -------
    Scores by the names that they have on cards, which begin with `cells_`.
    """
    from napari_emseg.metrics import cell_scores
    from napari_emseg.metrics.inputs import cells_of_inside

    made = np.stack([usual_cells(threshold)(1 - section) for section in inside])
    found = cell_scores(made, cells_of_inside(truth)).as_dict()
    return {f"cells_{name}": float(value) for name, value in found.items()}


def _times(network: nn.Module) -> dict[str, float]:
    """Return ms per megapixel of network input, on the CPU and where the network is."""
    device = next(network.parameters()).device
    places = {"cpu": torch.device("cpu"), device.type: device}
    return {
        name: _time(TorchRuntime(network, place, half=False))
        for name, place in places.items()
    }


def _time(runtime: TorchRuntime) -> float:
    """Time PyTorch over one window; the first pass allocates and doesn't count."""
    shape = TilePlan((SIDE, SIDE), runtime.geometry).window_shape
    window = np.zeros((1, runtime.context, *shape), np.float32)
    seconds = []
    for _ in range(3):
        start = perf_counter()
        runtime(window)
        # the least of two, since other programs only add
        seconds.append(perf_counter() - start)
    return round(min(seconds[1:]) * 1e9 / window[:, 0].size, 1)
