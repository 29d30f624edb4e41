"""A prediction beside a truth: what is compared, what is left out, and what came of it.

Stacks and what they are said to mean go in; a `Compared` comes out, with a report and
all that a reader of its scores has to know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.compiler import announce_compiling
from napari_emseg.core.labels import Meaning, is_drawn
from napari_emseg.core.records import Note, Progress, Provenance, Record, drain
from napari_emseg.core.regions import Area
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.metrics.report import Report, report_steps
from napari_emseg.models.weights import Weights
from napari_emseg.segmentation import usual_cells
from napari_emseg.session.results import Results

NAMED = 5
"""So many sections are named in a note, the others are counted."""


@dataclass(frozen=True, slots=True)
class Side:
    """The prediction, or the truth.

    Parameters
    ----------
    meaning
        What it holds, as somebody said; None as long as nobody did.
    mask
        Whether it is a mask and no probabilities.
    """

    stack: Stack
    meaning: Meaning | None
    mask: bool = False

    @property
    def name(self) -> str:
        """The stack's."""
        return self.stack.name


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """What a comparison gave, and between what."""

    prediction: str
    truth: str
    report: Report
    notes: tuple[str, ...]
    """What was left out or looks doubtful, in words."""

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        about = {"prediction": self.prediction, "truth": self.truth}
        return about | self.report.as_dict() | {"notes": list(self.notes)}


def meaning_said(stack: Stack) -> Meaning | None:
    """Return what a stack says that it holds; None if it doesn't say."""
    made = Provenance.of(stack)
    if made is None or made.kind not in get_args(Meaning):
        return None
    return cast("Meaning", made.kind)


def says_linked(stack: Stack) -> bool:
    """Tell if cells go through sections, as far as it is known; those of others do."""
    made = Provenance.of(stack)
    return made is None or made.is_linked


def check_pair(prediction: Side | None, truth: Side | None) -> None:
    """Say what is missing before two sides can be compared, if anything is.

    Raises
    ------
    ValueError
        If a side or its meaning is missing, or the shapes differ.
    """
    if prediction is None or truth is None:
        what = "prediction" if prediction is None else "truth"
        msg = f"choose a layer as the {what}"
        raise ValueError(msg)
    if prediction.stack.shape != truth.stack.shape:
        shapes = [
            f"{side.name} has {' × '.join(map(str, side.stack.shape))}"
            for side in (prediction, truth)
        ]
        msg = f"the shapes differ: {', '.join(shapes)} (z × y × x)"
        raise ValueError(msg)
    for side in (prediction, truth):
        if side.meaning is None:
            msg = f"choose the type of {side.name}: membrane, inside or cells"
            raise ValueError(msg)
        _check_type(side)


def _check_type(side: Side) -> None:
    kind = side.stack.dtype.kind
    if side.meaning == "cells" and kind not in "iuf":
        msg = f"{side.name} can't be cells: it holds {side.stack.dtype} and no ids"
        raise ValueError(msg)


def iter_compare(
    prediction: Side,
    truth: Side,
    sections: Sequence[int],
    *,
    results: Results | None = None,
    linked: bool = False,
) -> Generator[Record, None, Compared]:
    """Compare some sections.

    Parameters
    ----------
    results
        What the prediction is part of, if it was made here: only what was predicted
        is compared.
    linked
        Compare cells through sections, where both sides are cells.

    Raises
    ------
    ValueError
        As `check_pair` at once; later, if nothing is left to compare, or the values
        are no probabilities, masks or ids.
    OSError
        If a section can't be read.
    """
    check_pair(prediction, truth)
    return _comparing(_Reader(prediction, truth, results), sections, linked=linked)


def _comparing(
    reader: _Reader, sections: Sequence[int], *, linked: bool
) -> Generator[Record, None, Compared]:
    for z in sorted(sections):
        reader.read(z)
        yield Progress("reading", 0, 2 * len(sections))
    prediction, truth = reader.prediction, reader.truth
    made = Provenance.of(prediction.stack)
    area, pairs = reader.pairs()
    both_cells = prediction.meaning == truth.meaning == "cells"
    work = report_steps(
        np.stack([pair[0] for pair in pairs.values()]),
        np.stack([pair[1] for pair in pairs.values()]),
        prediction_is=cast("Meaning", prediction.meaning),
        truth_is=cast("Meaning", truth.meaning),
        sections=tuple(pairs),
        threshold=None if made is None else made.threshold,
        linked=linked if both_cells else None,
        make_cells=usual_cells(None if made is None else made.threshold),
    )
    report = yield from announce_compiling("scores", work)
    notes = (*reader.notes, *report.evaluation.warnings)
    for note in notes:
        yield Note(note)
    return Compared(prediction.name, truth.name, _moved(report, area), notes)


def compile_scores() -> None:
    """Have the kernels of scores compiled, so that the first ones needn't wait."""
    values = np.zeros((1, 24, 24), np.float32)
    values[:, ::8] = values[:, :, ::8] = 1
    side = Side(Stack(values, name="scores"), "membrane")
    drain(iter_compare(side, side, [0]))


def _moved(report: Report, area: Area) -> Report:
    """Tell places by the whole section instead of by its area."""
    y, x = (part.start for part in area)
    places = (replace(p, y=p.y + y, x=p.x + x) for p in report.places)
    return replace(report, places=tuple(places))


Pair = tuple[NDArray[Any], NDArray[Any]]


@dataclass(eq=False)
class _Reader:
    """Reads sections of both sides, and keeps those that can be compared."""

    prediction: Side
    truth: Side
    results: Results | None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # (y0, y1, x0, x1) → section → prediction and truth;
        # scores need sections of one shape
        self._by_area: dict[tuple[int, ...], dict[int, Pair]] = defaultdict(dict)
        self._left_out: dict[str, list[int]] = defaultdict(list)

    def read(self, z: int) -> None:
        """Keep a section, or remember why not."""
        area = self._known(z)
        if isinstance(area, str):
            self._left_out[area].append(z)
            return
        predicted = np.asarray(self.prediction.stack.section(z))
        true = np.asarray(self.truth.stack.section(z))[area]
        if not is_drawn(true, cast("Meaning", self.truth.meaning)):
            self._left_out[f"{self.truth.name} is empty there"].append(z)
            return
        rows, columns = area
        key = (rows.start, rows.stop, columns.start, columns.stop)
        # copied, since somebody may go on painting
        self._by_area[key][z] = (predicted[area].copy(), true.copy())

    def pairs(self) -> tuple[Area, dict[int, Pair]]:
        """Return sections of one area, the largest part of what was read.

        Raises
        ------
        ValueError
            If there are none.
        """
        areas = sorted(self._by_area.items(), key=_size, reverse=True)
        for _, others in areas[1:]:
            self._left_out["run in another part only"] += sorted(others)
        self.notes += [f"{_named(z)} left out: {why}" for why, z in self._out()]
        if not areas:
            msg = "nothing to compare: " + "; ".join(self.notes)
            raise ValueError(msg)
        (y0, y1, x0, x1), pairs = areas[0]
        area = slice(y0, y1), slice(x0, x1)
        if (y1 - y0, x1 - x0) != self.prediction.stack.shape[1:]:
            words = f"rows {y0} to {y1 - 1} and columns {x0} to {x1 - 1}"
            self.notes.append(f"compared where there is a prediction: {words}")
        return area, self._as_masks(pairs)

    def _out(self) -> Iterable[tuple[str, list[int]]]:
        return self._left_out.items()

    def _known(self, z: int) -> Area | str:
        """Return what of a section is predicted, or why it can't be compared."""
        _, height, width = self.prediction.stack.shape
        unknown = self._unknown(z)
        if unknown is None:
            return slice(0, height), slice(0, width)
        known = ~unknown
        rows, columns = (np.flatnonzero(known.any(axis=axis)) for axis in (1, 0))
        if rows.size == 0:
            return "nothing was run there"
        area = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        if not known[area].all():
            return "run in several parts"
        return area

    def _unknown(self, z: int) -> NDArray[np.bool_] | None:
        if self.results is None:
            return None
        if self.prediction.meaning == "cells":
            return self.results.unknown_cells(z)
        return self.results.unknown(z)

    def _as_masks(self, pairs: dict[int, Pair]) -> dict[int, Pair]:
        """Take a mask as one, also where only its values tell."""
        given = self.prediction
        if given.meaning == "cells" or given.stack.dtype.kind not in "biu":
            return pairs
        if not given.mask and max(p.max() for p, _ in pairs.values()) > 1:
            return pairs
        if not given.mask:
            self.notes.append(f"{given.name} has values 0 and 1: taken as a mask")
        return {z: (predicted > 0, true) for z, (predicted, true) in pairs.items()}


def _size(item: tuple[tuple[int, ...], dict[int, Pair]]) -> int:
    (y0, y1, x0, x1), pairs = item
    return prod((y1 - y0, x1 - x0, len(pairs)))


def _named(sections: list[int]) -> str:
    names = ", ".join(map(str, sections[:NAMED]))
    more = len(sections) - NAMED
    return f"section{'s' * (len(sections) != 1)} {names}" + (
        f" and {more} more" if more > 0 else ""
    )


SAME, ADDED, GONE = 0, 1, 2
"""Both agree; only the candidate sees membrane; only the current weights do."""


@dataclass(frozen=True, slots=True, eq=False)
class PredictionDiff:
    """Membranes of an area of section `z` by two weights, masks `(y, x)`."""

    z: int
    area: Area
    current: NDArray[np.bool_]
    candidate: NDArray[np.bool_]

    @property
    def differences(self) -> NDArray[np.uint8]:
        """`SAME`, `ADDED` or `GONE` for each pixel `(y, x)`."""
        found = np.where(self.candidate, ADDED, GONE)
        return np.where(self.current == self.candidate, SAME, found).astype(np.uint8)

    @property
    def words(self) -> str:
        """For people: `3.2 % of section 4 differ: …`."""
        marks = self.differences
        n = marks.size
        added, gone = (100 * np.count_nonzero(marks == k) / n for k in (ADDED, GONE))
        return (
            f"section {self.z}: {added:.1f} % became membrane (green), {gone:.1f} % is "
            f"no longer membrane (pink)"
        )


def iter_predict_both(
    stack: Stack,
    weights: Sequence[Weights],
    z: int,
    area: Area,
    settings: PredictSettings,
    excluded: Collection[int] = (),
) -> Generator[Record, None, PredictionDiff]:
    """Predict an area of a section with current and candidate weights.

    Excluded sections aren't shown beside it to networks that see several.

    Raises
    ------
    ValueError
        If the weights can't be run as the settings say.
    """
    from napari_emseg.inference import Predictor

    settings = settings.model_copy(update={"views": 1})  # as it is shown live
    membranes = []
    for done, one in enumerate(weights):
        yield Progress("predicting", done, len(weights))
        predictor = Predictor(one, settles="known")
        result = yield from predictor.run(
            stack, settings=settings, sections=[z], roi=area, excluded=excluded
        )
        if result.probabilities is None:
            msg = f"section {z} can't be read"
            raise ValueError(msg)
        membranes.append(result.probabilities[0] > _threshold(one, settings))
    yield Progress("predicting", len(weights), len(weights))
    return PredictionDiff(z, area, membranes[0], membranes[1])


def _threshold(weights: Weights, settings: PredictSettings) -> float:
    s = settings
    return weights.card.threshold_of(s.depth, s.heads, tta=s.tta)
