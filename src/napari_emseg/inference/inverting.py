"""Whether dark and bright are swapped before a run, and what to say of it."""

from __future__ import annotations

from weakref import ref

from napari_emseg.core.polarity import polarity
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import LazyArray, Stack


class Inverting:
    """Looks at each stack once: that takes as long as a small section's network."""

    def __init__(self) -> None:
        self._seen: tuple[ref[LazyArray], bool] | None = None

    def decide(self, stack: Stack, settings: PredictSettings) -> tuple[bool, str]:
        """Return whether to invert, and words for the user if so."""
        if settings.invert == "yes":
            return True, "inverted, as asked: bright membranes are taken as dark ones"
        if settings.invert == "auto" and self._looks_inverted(stack):
            return (
                True,
                "inverted, since membranes look bright; set Invert to no if not",
            )
        return False, ""

    def _looks_inverted(self, stack: Stack) -> bool:
        if self._seen is None or self._seen[0]() is not stack.data:
            found = polarity(stack).inverted is True
            try:
                self._seen = ref(stack.data), found
            except TypeError:  # an array that can't be watched is looked at again
                return found
        return self._seen[1]
