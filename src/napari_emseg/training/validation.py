"""How good a network is on sections that it doesn't learn from."""

from collections.abc import Callable, Generator, Sequence
from copy import deepcopy
from time import perf_counter
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import nn

from napari_emseg.core.card import Card, Variant
from napari_emseg.core.records import Progress, Record
from napari_emseg.core.tiles import TilePlan
from napari_emseg.metrics.agreement import TableSums, pooled_f
from napari_emseg.metrics.inputs import at_thresholds
from napari_emseg.models.forward import predict_picture, predict_windows
from napari_emseg.models.roi import region_probabilities
from napari_emseg.models.variants import own_way, parts_of
from napari_emseg.models.zoo import Network
from napari_emseg.training.crops import Crop
from napari_emseg.training.dataset import Example
from napari_emseg.training.losses import IGNORE, INSIDE, MEMBRANE

Validation = Callable[[nn.Module], dict[str, float]]
"""Scores of a network by name; `score` is the one to choose by, more is better."""


def inside_of(
    network: nn.Module, examples: Sequence[Example], *, tta: bool = False
) -> NDArray[np.float32]:
    """Return 1 less the probability of membrane `(z, y, x)` of each example.

    Membrane is what a run gives to its user. Where each class has a sigmoid of its own
    the channel of inside says something else, and a threshold of it isn't one of
    membrane. Where nothing is known it is 0, as `truth_of` is.
    """
    found = []
    for example in examples:
        membrane = predict_picture(network, example.image, tta=tta)[MEMBRANE]
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


def crop_validation(crops: Sequence[Crop], threshold: float) -> Validation | None:
    """Validate on held-out corrections; None without any.

    The score is the mean log-likelihood, in which classes count alike, and in each of
    them what is and what isn't it: a few pixels are enough for it to be smooth.
    """
    if not crops:
        return None

    def validate(network: nn.Module) -> dict[str, float]:
        network.eval()
        found = [_at_known(network, crop) for crop in crops]
        p = np.concatenate([part[0] for part in found], axis=1)
        target = np.concatenate([part[1] for part in found])
        wall, predicted = target == MEMBRANE, p[MEMBRANE] > threshold
        both = 2 * np.count_nonzero(wall & predicted)
        sizes = np.count_nonzero(wall) + np.count_nonzero(predicted)
        return {
            "score": _likelihood(p, target),
            "pixel_f": both / sizes if sizes else 1.0,
        }

    return validate


def _at_known(
    network: nn.Module, crop: Crop
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return probabilities `(n_classes, n)` and classes `(n,)` of known pixels."""
    known = crop.target != IGNORE
    y, x = crop.image.shape
    p = region_probabilities(network, crop.image, (slice(0, y), slice(0, x)))
    return p[:, known], crop.target[known]


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
"""Thresholds that are tried, of membrane as of inside: 0.1 to 0.9."""

AS_GOOD = 0.01
"""Thresholds whose V_Rand is so near to the best are as good; their mean is taken."""

SAID_BEFORE = 4
"""The parent's threshold counts as if so many known walls had spoken for it."""

MOST_PIXELS = 8_000_000
"""At most so many network px are looked at, about 10 s."""


def choose_threshold(
    network: nn.Module, crops: Sequence[Crop], parent: float
) -> Generator[Progress, None, float]:
    """Return the threshold of membrane that parts known cells best, 0.1 to 0.9.

    By V_Rand after border thinning, as weights that are trained anew get theirs. Known
    pixels that hang together are a table of their own, since nobody said whether a cell
    of one such group goes on in another. What lies around them is thinned with them:
    cells run together through gaps anywhere, and small places hold few of those.

    Parameters
    ----------
    crops
        What was learnt, and what was held out to stop; nothing that judges the weights.
    parent
        Threshold of the weights that were taught. It stays where no wall between cells
        is known, and has its say where few are.
    """
    sums: list[list[TableSums]] = []
    walls = 0
    network.eval()
    chosen = _some(crops)
    for done, crop in enumerate(chosen, start=1):
        groups = _groups(crop.target)
        if groups:
            found, n = _sums(_inside(network, crop), groups)
            sums += found
            walls += n
        yield Progress("choosing the threshold", done, len(chosen))
    if walls == 0:
        return parent
    f = pooled_f(sums)
    # the maximum of a flat curve is chance; the middle of its top isn't
    good = np.array(LEVELS)[f >= f.max() - AS_GOOD]
    best = 1 - float(good.mean())
    # shrunk towards the parent's threshold, which counts as `SAID_BEFORE` walls
    return round((walls * best + SAID_BEFORE * parent) / (walls + SAID_BEFORE), 2)


def _some(crops: Sequence[Crop]) -> list[Crop]:
    """Take crops, the same ones each time, until there are pixels enough."""
    # a fixed seed: the same corrections give the same threshold
    order = np.random.default_rng(0).permutation(len(crops))
    sizes = np.cumsum([crops[k].image.size for k in order])
    n = max(1, int(np.count_nonzero(sizes <= MOST_PIXELS)))
    return [crops[k] for k in order[:n]]


def _groups(target: NDArray[np.uint8]) -> list[NDArray[np.bool_]]:
    """Return the known cells `(y, x)` of each group of known pixels."""
    groups, n = ndi.label(target != IGNORE, np.ones((3, 3)))
    inside = (target != IGNORE) & (target != MEMBRANE)
    cells = (inside & (groups == k) for k in range(1, n + 1))
    return [part for part in cells if part.any()]


def _inside(network: nn.Module, crop: Crop) -> NDArray[np.float32]:
    y, x = crop.image.shape
    p = region_probabilities(network, crop.image, (slice(0, y), slice(0, x)))
    inside: NDArray[np.float32] = 1 - p[MEMBRANE]
    return inside


def _sums(
    inside: NDArray[np.float32], groups: Sequence[NDArray[np.bool_]]
) -> tuple[list[list[TableSums]], int]:
    """Return table sums by group and level, and how many cells lie beside others."""
    from napari_emseg.metrics.kernels.section import Labels

    cells = [Labels(part) for part in groups]

    def measure(mask: NDArray[np.bool_]) -> list[TableSums]:
        shown = Labels(mask).thinned()
        return [shown.against(part) for part in cells]

    by_level = at_thresholds(inside, LEVELS, measure)
    walls = sum(part.count - 1 for part in cells)
    return [list(part) for part in zip(*by_level, strict=True)], walls


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
    averaged mirrors. The threshold of each is chosen on the validation set; the card's
    own is that of the network as it is. What is scored is membrane as a run gives it.

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
    """Return the threshold of membrane that is best by V_Rand, and scores for it."""
    from napari_emseg.metrics import v_rand_v_info

    found = v_rand_v_info(inside_of(network, examples, tta=tta), truth_of(examples))
    scores = {
        "validation_v_rand": found.v_rand,
        "validation_v_info": found.v_info,
    }
    # the challenge's outermost thresholds, 0 and nearly
    # 1, are none that a run could use
    return round(min(max(1 - found.v_rand_threshold, 0.05), 0.95), 2), scores


def _scores(
    network: nn.Module, examples: Sequence[Example], threshold: float, *, tta: bool
) -> dict[str, float]:
    """Return the challenge's scores; empty without sections.

    Each at its best threshold, and V_Rand and V_Info at the one that was fixed, too.
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
    return scores | fixed


def _times(network: nn.Module) -> dict[str, float]:
    """Return ms per megapixel of network input, on the CPU and where the network is."""
    times = {"cpu": _time(deepcopy(network).cpu())}
    device = next(network.parameters()).device
    return times if device.type == "cpu" else {**times, device.type: _time(network)}


def _time(network: nn.Module) -> float:
    """Time PyTorch over one window; the first pass allocates and doesn't count."""
    geometry = cast("Network", network).geometry
    shape = TilePlan((SIDE, SIDE), geometry).window_shape
    window = np.zeros((1, 1, *shape), np.float32)
    seconds = []
    for _ in range(3):
        start = perf_counter()
        predict_windows(network, window)
        # the least of two, since other programs only add
        seconds.append(perf_counter() - start)
    return round(min(seconds[1:]) * 1e9 / window.size, 1)
