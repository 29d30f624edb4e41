"""The scores over the threshold, drawn; the best threshold and the fixed one marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari import Viewer
from napari.utils.theme import get_theme
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_emseg.metrics.report import Curve
from napari_emseg.widgets.theme import follow, text_label

if TYPE_CHECKING:
    from pyqtgraph import PlotWidget

HEIGHT = 200
DEPTH = 0.2
"""What is shown below the best score; thresholds that are worse don't matter."""

COLOURS = {
    "dark": {"V_Rand": "#ffb347", "V_Info": "#5fc9e8"},
    "light": {"V_Rand": "#b35900", "V_Info": "#00688b"},
}
LINE = 2


class CurvePlot(QWidget):
    """Draws a `Curve` in the colours of napari's theme."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._shown: tuple[Curve, float | None] | None = None
        self.plot: PlotWidget | None = None
        self.legend = text_label()
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.addWidget(self.legend)
        self.hide()
        follow(self, viewer.events.theme, self._draw)

    def show_curve(self, curve: Curve | None, fixed: float | None) -> None:
        """Draw a curve, or nothing; `fixed` is the threshold of validation."""
        self._shown = None if curve is None else (curve, fixed)
        self.setVisible(curve is not None)
        self._draw()

    def _draw(self) -> None:
        if self._shown is None:
            return
        plot = self._make() if self.plot is None else self.plot
        curve, fixed = self._shown
        theme = get_theme(self._viewer.theme)
        colours = COLOURS["dark" if theme.type == "dark" else "light"]
        text = theme.text.as_hex()
        plot.clear()
        plot.setBackground(theme.background.as_hex())
        for side in ("left", "bottom"):
            plot.getAxis(side).setTextPen(text)
            plot.getAxis(side).setPen(theme.icon.as_hex())
        for name, values in (("V_Rand", curve.v_rand), ("V_Info", curve.v_info)):
            pen = _pen(colours[name], LINE)
            plot.plot(curve.thresholds, values, pen=pen, symbol="o", symbolSize=5,
                      symbolBrush=colours[name], symbolPen=None, name=name)  # fmt: skip
        plot.setYRange(max(0, min(max(curve.v_rand), max(curve.v_info)) - DEPTH), 1)
        _mark(plot, curve.best, _pen(text, 1, Qt.PenStyle.DashLine))
        if fixed is not None:
            _mark(plot, fixed, _pen(text, 1))
        self.legend.setText(_legend(colours, curve.best, fixed))

    def _make(self) -> PlotWidget:
        from pyqtgraph import PlotWidget  # a fifth of a second, when it is first needed

        plot = PlotWidget()
        plot.setFixedHeight(HEIGHT)
        plot.setMouseEnabled(x=False, y=False)
        plot.setMenuEnabled(False)
        plot.hideButtons()
        plot.showGrid(x=True, y=True, alpha=0.15)
        plot.setXRange(0, 1)
        plot.setLabel("bottom", "threshold of the probability of membrane")
        # letters that reach down are cut off without
        plot.getPlotItem().layout.setContentsMargins(1, 1, 1, 6)
        self._layout.insertWidget(0, plot)
        self.plot = plot
        return plot


def _pen(colour: str, width: int, style: Any = Qt.PenStyle.SolidLine) -> Any:
    from pyqtgraph import mkPen

    return mkPen(colour, width=width, style=style)


def _mark(plot: PlotWidget, threshold: float, pen: Any) -> None:
    plot.addLine(x=threshold, pen=pen)


def _legend(colours: dict[str, str], best: float, fixed: float | None) -> str:
    """Say what the lines are; labels in the plot would cover one another."""
    parts = [
        f'<span style="color:{c}">━&nbsp;{name}</span>' for name, c in colours.items()
    ]
    parts.append(f"┆&nbsp;best:&nbsp;{best:.1f}")
    if fixed is not None:
        parts.append(f"│&nbsp;validation:&nbsp;{fixed:g}")
    return " &nbsp; ".join(parts)
