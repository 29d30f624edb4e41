"""Which weights are in use: the same in every panel of a window."""

from __future__ import annotations

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_emseg.models.weights import Weights, list_weights, own_folder, to_begin_with
from napari_emseg.session import Session
from napari_emseg.widgets.preferences import preference
from napari_emseg.widgets.theme import combo_box, follow


class WeightsBox(QWidget):
    """Offers bundled and own weights, and those that the session uses."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.choice = combo_box()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.choice)
        self._fill()
        self.choice.activated.connect(self._on_chosen)
        follow(self, session.events.weights, self._on_weights)
        self._on_weights()

    def _fill(self) -> None:
        known = list_weights(own_folder())
        for weights in known.values():
            self._offer(weights)
        if self._session.weights is None and known:
            wanted = preference("runs", "weights") or ""
            self._session.choose_weights(to_begin_with(known, wanted))

    def _offer(self, weights: Weights) -> int:
        for nth in range(self.choice.count()):
            if self.choice.itemData(nth).path == weights.path:
                return nth
        self.choice.addItem(weights.card.name, weights)
        return self.choice.count() - 1

    def _on_chosen(self, nth: int) -> None:
        self._session.choose_weights(self.choice.itemData(nth))

    def _on_weights(self) -> None:
        weights = self._session.weights
        if weights is not None:
            self.choice.setCurrentIndex(self._offer(weights))
