"""Keys of a panel, bound on the viewer as long as the panel is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, ref

from napari import Viewer

LAYERS_TOO = ("Control-Z", "Control-Shift-Z", "Escape", "Enter")
"""These have a meaning on labels layers, whose keys come before the viewer's."""

Act = Callable[..., None]


class Keys:
    """Binds keys; `over_layers` are those to be bound on labels layers, too."""

    def __init__(self, viewer: Viewer, acts: dict[str, Act]) -> None:
        self._viewer: ReferenceType[Viewer] = ref(viewer)
        self._before: dict[str, Any] = {}
        self.over_layers = {key: acts[key] for key in LAYERS_TOO}
        for key, act in acts.items():
            self._before[key] = viewer.bind_key(key, alone(act), overwrite=True)

    def unbind(self) -> None:
        """Give the keys back to whoever had them."""
        viewer = self._viewer()
        if viewer is None:
            return
        for key, before in self._before.items():
            viewer.bind_key(key, before, overwrite=True)


def alone(act: Act) -> Act:
    """Return a function for a key, which calls `act` with nothing.

    napari asks every function that is bound for its name, which a partial hasn't got.
    """

    def on_key(*_: Any) -> None:
        act()

    return on_key
