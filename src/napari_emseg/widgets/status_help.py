"""Words in the status bar that stay, where napari writes its own at every move."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject

from napari_emseg.widgets.controller import ViewerController


class StatusHelp(QObject):
    """The hint of the active tool, and over it what the latest act said.

    napari writes the keys of the active layer there whenever the pointer moves. They
    come back when no tool is active, and another layer or mode is chosen.
    """

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._hint = ""
        self._said = ""
        self._of_napari: str = controller.viewer.help
        # the last one, so that the bar hears of ours after it heard of napari's
        controller.viewer.events.help.connect(self._on_help, position="last")

    def hint(self, words: str) -> None:
        """Show the hint of another tool; none if it is empty."""
        self._hint, self._said = words, ""
        self._show()

    def say(self, words: str) -> None:
        """Show what an act did, or why not, until the next one."""
        self._said = words
        self._show()

    def begin(self) -> None:
        """Show the hint again: the next act begins."""
        self.say("")

    def _on_help(self, event: Any) -> None:
        ours = self._said or self._hint
        if ours and event.value == ours:
            return
        if not self._hint and event.value != self._of_napari:
            self._said = ""
        self._of_napari = event.value
        self._show()

    def _show(self) -> None:
        words = self._said or self._hint or self._of_napari
        if self._controller.viewer.help != words:
            self._controller.viewer.help = words
