"""Keys: listed in napari's preferences, at work while their panel can be seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar
from weakref import ReferenceType, ref

from napari import Viewer, current_viewer
from napari.layers import Labels, Layer
from napari.settings import get_settings
from napari.utils.action_manager import action_manager
from napari.utils.key_bindings import KeymapProvider
from psygnal import Signal
from qtpy.QtCore import QObject

from napari_emseg._napari.versions import PLUGIN, shortcut_changes
from napari_emseg.widgets.controller import ViewerController, controller_for
from napari_emseg.widgets.tools import TOOLS

Act = Callable[[], object]
"""What a key does; False if there was nothing to do: then others may have the key."""


@dataclass(frozen=True, slots=True)
class KeyAct:
    """Something a key does: its name, its key unless the user chose another, words."""

    name: str
    key: str
    about: str


def tool_act(name: str) -> str:
    """Return the name of the act that turns a tool on and off."""
    return name.lower().replace(" ", "_").replace("-", "_")


KEY_ACTS: tuple[KeyAct, ...] = (
    KeyAct("next_place", "N", "Next region to look at, or next unreviewed section"),
    KeyAct("done_here", "J", "Mark the region as reviewed, and go on"),
    KeyAct("toggle_reviewed", "R", "Mark the section as reviewed, or as to do"),
    KeyAct("correct_view", "A", "Show the image and contours alone, or all as before"),
    KeyAct("undo", "Control-Z", "Undo the latest correction"),
    KeyAct("redo", "Control-Shift-Z", "Redo the correction that was undone"),
    KeyAct("set_membrane", "Enter", "Live-wire: set the membrane"),
    KeyAct("drop", "Escape", "Drop what was begun with a tool"),
    KeyAct("flip", "Q", "Flip between candidate and current weights"),
)
"""But for those of tools, which are in their own table."""


def key_acts() -> list[KeyAct]:
    """Return all that keys do."""
    tools = (
        KeyAct(tool_act(t.name), t.key, f"{t.name}: turn the tool on or off")
        for t in TOOLS
    )
    return [*tools, *KEY_ACTS]


class EmKeys(KeymapProvider):
    """Where napari keeps which keys are bound to our acts, after its preferences."""

    class_keymap: ClassVar[dict[Any, Any]] = {}


class Keys(QObject):
    """Binds keys of panels that can be seen in one viewer.

    Keys of a layer come before those of the viewer, and a labels layer has its own
    Ctrl+Z. So they are bound on the viewer and on the active layer itself, whichever
    that is, and given back as soon as another one is active or the panel is gone.

    Signals: `changed` when an act has another key.
    """

    changed = Signal()

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._viewer: ReferenceType[Viewer] = ref(controller.viewer)
        self._taken: list[Mapping[str, Act]] = []
        self._acts: dict[str, Act] = {}
        self._bound: list[tuple[ReferenceType[Any], Any, Any]] = []
        self._foreign = _ForeignStrokes()
        register()
        controller.viewer.layers.selection.events.active.connect(self._on_active)
        shortcut_changes().connect(self._on_shortcuts)

    def take(self, acts: Mapping[str, Act]) -> None:
        """Have keys do something, by the names in `key_acts`."""
        self.release(acts)
        self._taken.append(acts)
        self._acts = _merged(self._taken)
        self._bind()

    def release(self, acts: Mapping[str, Act]) -> None:
        """Give keys back; a panel that had them before has them again."""
        self._taken = [taken for taken in self._taken if taken is not acts]
        self._acts = _merged(self._taken)
        self._bind()

    def _on_active(self, *_: Any) -> None:
        self._bind()

    def _on_shortcuts(self, event: Any) -> None:
        if str(event.name).startswith(f"{PLUGIN}:"):
            self._bind()
            self.changed.emit()

    def act(self, name: str) -> None:
        """Do what a key does, if its panel can be seen."""
        if name in self._acts:
            self._acts[name]()

    def on_edited(self) -> None:
        """Take note of a correction: it is what undo takes back next."""
        self._foreign.forget()

    def _bind(self) -> None:
        """Bind the keys of all acts on the viewer and the active layer alone."""
        while self._bound:
            owner, key, before = self._bound.pop()
            there = owner()
            if there is not None:
                there.bind_key(key, before, overwrite=True)
        viewer = self._viewer()
        if viewer is None:  # napari's preferences outlive windows
            return
        active = viewer.layers.selection.active
        self._foreign.follow(None if self._is_ours(active) else active)
        for owner in (viewer, active):
            if owner is None:
                continue
            for key, command in EmKeys.class_keymap.items():
                if command.__name__ in self._acts:
                    on_key = self._on_key(command.__name__, owner, key)
                    before = owner.bind_key(key, on_key, overwrite=True)
                    self._bound.append((ref(owner), key, before))

    def _is_ours(self, layer: Layer | None) -> bool:
        return layer is None or self._controller.results_with(layer) is not None

    def _on_key(self, name: str, owner: Any, key: Any) -> Callable[..., Any]:
        otherwise = partial(_by_class, owner, self._controller.viewer, key)

        def on_key(*_: Any) -> Any:
            act = self._acts.get(name)
            if act is None:
                return None
            foreign = isinstance(owner, Labels) and self._foreign.takes(name)
            if foreign or act() is False:
                return otherwise()
            return None

        on_key.__name__ = name  # napari asks for it at every key
        return on_key


class _ForeignStrokes:
    """Counts strokes on labels that are none of ours, since our latest correction.

    Undo takes those back first, as napari does.
    """

    def __init__(self) -> None:
        self._layer: ReferenceType[Layer] | None = None
        self._done = self._undone = 0

    def follow(self, layer: Layer | None) -> None:
        """Count strokes on another layer."""
        known = None if self._layer is None else self._layer()
        if known is layer:
            return
        if isinstance(known, Labels):
            known.events.paint.disconnect(self._on_paint)
        self._layer = None
        self.forget()
        if isinstance(layer, Labels):
            self._layer = ref(layer)
            layer.events.paint.connect(self._on_paint)

    def forget(self) -> None:
        """Begin anew."""
        self._done = self._undone = 0

    def takes(self, name: str) -> bool:
        """Tell if undo or redo is meant for a stroke on that layer, and count it."""
        if name == "undo" and self._done:
            self._done, self._undone = self._done - 1, self._undone + 1
            return True
        if name == "redo" and self._undone:
            self._done, self._undone = self._done + 1, self._undone - 1
            return True
        return False

    def _on_paint(self, *_: Any) -> None:
        self._done, self._undone = self._done + 1, 0


def register() -> None:
    """Tell napari of the acts, so that Preferences › Shortcuts lists them."""
    chosen = get_settings().shortcuts.shortcuts
    for act in key_acts():
        name = f"{PLUGIN}:{act.name}"
        if act.name in _registered:
            continue
        _registered.add(act.name)
        action_manager.register_action(
            name, _command(act), f"EM segmentation: {act.about}", EmKeys
        )
        if name not in chosen:
            action_manager.bind_shortcut(name, act.key)


_registered: set[str] = set()


def _merged(taken: list[Mapping[str, Act]]) -> dict[str, Act]:
    return {name: act for acts in taken for name, act in acts.items()}


def key_of(name: str) -> str:
    """Return the key of an act as it is now; empty if it has none."""
    found = [k for k, act in EmKeys.class_keymap.items() if act.__name__ == name]
    return str(found[0]) if found else ""


def _command(act: KeyAct) -> Callable[..., None]:
    def command(*_: Any) -> None:
        viewer = current_viewer()
        if viewer is not None:
            controller_for(viewer).shared(Keys).act(act.name)

    command.__name__ = act.name
    return command


def _by_class(owner: Any, viewer: Viewer, key: Any) -> Any:
    """Do what a key does in napari, such as its own undo of a labels layer."""
    for provider in (owner, viewer):
        for cls in type(provider).__mro__:
            found = getattr(cls, "class_keymap", {}).get(key)
            if found is not None and found is not Ellipsis:
                return found(provider)
    return None
