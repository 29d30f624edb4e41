"""What is found out about an input once, before its parts are worked on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_emseg.batch import worker
from napari_emseg.batch.completion_log import Facts
from napari_emseg.batch.context import Context
from napari_emseg.batch.membranes import rule
from napari_emseg.batch.unchunked_inputs import advice
from napari_emseg.core.intensity import stack_range
from napari_emseg.core.zoom import zoom_of
from napari_emseg.inference.inverting import Inverting


@dataclass(frozen=True, slots=True)
class EstimateStats:
    """Find out polarity, and the grey values of the whole stack if they count.

    Facts: `invert`, `range` (low and high, or None) and `notes` for a person.
    """

    context: Context

    def run(self) -> Facts:
        """Look at some sections."""
        c = self.context
        stack = worker.opened(c.given).stack
        invert, words = Inverting().decide(stack, c.settings.predict)
        found = rule(c)
        whole = found.scope == "stack"
        grey = stack_range(stack, found, most=c.most) if whole else None
        notes = [words] if words else []
        notes += advice(c, stack)
        if c.weights is not None:
            card = worker.weights(c.weights).card
            notes += zoom_of(stack, card, rescale=c.settings.predict.rescale)[1]
        worker.require_same(c)
        return {
            "invert": invert,
            "range": None if grey is None else [grey.low, grey.high],
            "notes": notes,
        }

    def files(self) -> list[Path]:
        """Return what it has written."""
        return []
