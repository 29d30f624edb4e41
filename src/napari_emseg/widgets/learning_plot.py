"""Loss and validation over the steps of a round, drawn as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari import Viewer
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_emseg.core.records import EpochDone
from napari_emseg.widgets.theme import follow, text_label

if TYPE_CHECKING:
    from pyqtgraph import PlotWidget

HEIGHT = 110
WIDTH = 40
"""Of the numbers beside an axis, px."""

COLOURS = {
    "dark": {"loss": "#5fc9e8", "score": "#ffb347"},
    "light": {"loss": "#00688b", "score": "#b35900"},
}
SCORES = {"pixel_f": "pixel F", "v_rand": "V_Rand"}
"""Of a validation, the first that is known is drawn."""


class LearningPlot(QWidget):
    """Two plots, one below the other; nothing is shown before the first measurement."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._curve: tuple[EpochDone, ...] = ()
        self.plots: dict[str, PlotWidget] = {}
        self.legend = text_label()
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(0)
        self._layout.addWidget(self.legend)
        self.hide()
        follow(self, viewer.events.theme, self._draw)

    def show_curve(self, curve: Sequence[EpochDone]) -> None:
        """Draw what was measured so far; nothing for nothing."""
        if tuple(curve) == self._curve:
            return
        self._curve = tuple(curve)
        self.setVisible(bool(curve))
        self._draw()

    def _draw(self) -> None:
        if not self._curve:
            return
        if not self.plots:
            self._make()
        theme = get_theme(self._viewer.theme)
        colours = COLOURS["dark" if theme.type == "dark" else "light"]
        steps = [record.step for record in self._curve]
        score = self._score
        lines = {"loss": [record.loss for record in self._curve]}
        if score:
            lines["score"] = [r.validation[score] for r in self._curve]
        for name, plot in self.plots.items():
            plot.setVisible(name in lines)
            plot.clear()
            plot.setBackground(theme.background.as_hex())
            for side in ("left", "bottom"):
                plot.getAxis(side).setTextPen(theme.text.as_hex())
                plot.getAxis(side).setPen(theme.icon.as_hex())
            plot.setXRange(0, self._curve[-1].steps, padding=0.02)
            if name in lines:
                _line(plot, steps, lines[name], colours[name])
        self.legend.setText(self._in_words(colours))

    @property
    def _score(self) -> str:
        known = self._curve[-1].validation
        return next((name for name in SCORES if name in known), "")

    def _in_words(self, colours: dict[str, str]) -> str:
        latest = self._curve[-1]
        parts = [_word(colours["loss"], f"loss {latest.loss:.3f}")]
        if self._score:
            value = latest.validation[self._score]
            name = SCORES[self._score]
            parts.append(_word(colours["score"], f"{name} {value:.3f} on held-out"))
        best = [record.step for record in self._curve if record.best]
        if best and self._score:
            parts.append(f"best at step {best[-1]}")
        return " &nbsp; ".join(parts)

    def _make(self) -> None:
        from pyqtgraph import PlotWidget  # a fifth of a second; rounds load it before

        for row, name in enumerate(("loss", "score")):
            plot = PlotWidget()
            plot.setFixedHeight(HEIGHT)
            plot.setMouseEnabled(x=False, y=False)
            plot.setMenuEnabled(False)
            plot.hideButtons()
            plot.showGrid(x=True, y=True, alpha=0.15)
            plot.getAxis("left").setWidth(WIDTH)
            self._layout.insertWidget(row, plot)
            self.plots[name] = plot


def _line(
    plot: PlotWidget, steps: Sequence[int], values: Sequence[float], colour: str
) -> None:
    from pyqtgraph import mkPen

    plot.plot(steps, values, pen=mkPen(colour, width=2), symbol="o", symbolSize=5,
              symbolBrush=colour, symbolPen=None)  # fmt: skip


def _word(colour: str, words: str) -> str:
    return f'<span style="color:{colour}">━&nbsp;{words.replace(" ", "&nbsp;")}</span>'
