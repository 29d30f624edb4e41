"""Where to look next: regions that are worth a correction, and which are done."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Literal

from napari_emseg.core.records import Record
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.training import SuggestSettings
from napari_emseg.models.weights import Weights
from napari_emseg.session.annotations import ManualCorrections
from napari_emseg.session.session import Session
from napari_emseg.session.stack_state import StackState

if TYPE_CHECKING:
    from napari_emseg.active_learning import Suggestion

NEAR = 5
"""Sections that are looked at around the one on screen."""

Where = Literal["near this section", "whole stack"]


def sections_to_do(source: StackState, here: int, where: Where) -> tuple[int, ...]:
    """Return sections that are to do; those with membranes, if there are any.

    Parameters
    ----------
    here
        The section on screen; the nearest come first.

    Raises
    ------
    ValueError
        If none is to do.
    """
    n = source.stack.shape[0]
    left = set(range(n)) - source.excluded - source.reviewed
    if not left:
        msg = "every section is reviewed or excluded; nothing is left to look at"
        raise ValueError(msg)
    with_membranes = left.intersection(source.results.predicted)
    nearest = sorted(with_membranes or left, key=lambda z: (abs(z - here), z))
    return tuple(nearest if where == "whole stack" else nearest[:NEAR])


def iter_suggest(
    session: Session, sections: Sequence[int], settings: SuggestSettings | None = None
) -> Generator[Record, None, tuple[Suggestion, ...]]:
    """Look for regions in some sections, the best first; loads PyTorch.

    Raises
    ------
    ValueError
        At once, if there is no stack or no weights, or it holds no EM.
    """
    source, weights = session.source, session.weights
    if source is None or weights is None:
        what = "stack is chosen; choose one in 1 Data"
        if source is not None:
            what = "weights are chosen; choose some in 2 Membranes"
        msg = f"no {what}"
        raise ValueError(msg)
    if source.is_probabilities:
        msg = f"{source.name} holds probabilities; regions are suggested in EM"
        raise ValueError(msg)
    own = session.predict_settings
    made, cells = ManualCorrections.of(source), session.cell_settings
    return _suggest(made, weights, own, tuple(sections), settings, cells)


def _suggest(
    made: ManualCorrections,
    weights: Weights,
    own: PredictSettings,
    sections: tuple[int, ...],
    settings: SuggestSettings | None,
    cells: CellSettings,
) -> Generator[Record, None, tuple[Suggestion, ...]]:
    from napari_emseg.active_learning import suggest_places

    known = yield from made.read(own.invert)
    return (
        yield from suggest_places(
            weights,
            known,
            settings=settings,
            sections=sections,
            cells=cells,
            predict=own,
        )
    )


def is_done(source: StackState, region: Region) -> bool:
    """Tell if all of a region is reviewed, or its section excluded."""
    if region.z in source.excluded or region.z in source.reviewed:
        return True
    return any(known.overlap(region) == region for known in source.reviewed_regions)


def next_region(
    source: StackState, suggested: Sequence[Suggestion], here: int | None
) -> int | None:
    """Return the next region that isn't done, once around; None if all are.

    Parameters
    ----------
    here
        The region to go on from; None begins with the first.
    """
    n = len(suggested)
    first = 0 if here is None else here + 1
    around = (k % n for k in range(first, first + n)) if n else ()
    return next((k for k in around if not is_done(source, suggested[k].region)), None)
