"""What each depth of a network costs and gives, to choose among them before a run."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from napari_emseg.core.card import Card, Variant
from napari_emseg.core.records import Progress, Record
from napari_emseg.core.settings import Heads, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import Weights
from napari_emseg.session.run_scope import RunScope


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


def measuring(
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
