"""Open napari with the dock, and run membranes on a bundled sample: `check_window.py`.

`check_window.py with` where napari-emseg-data is installed, `without` where it isn't.
Needs a screen, such as that of `xvfb-run`. For installed wheels
(`scripts/check_two_wheels.sh`), so nothing of the tests is used.
"""

import sys
import time
from collections.abc import Callable

import napari
from qtpy.QtWidgets import QApplication

MISSING = "em-membranes: pip install napari-emseg-data"
SECONDS = 900


def wait_for(what: str, there: Callable[[], bool]) -> None:
    """Let the window go on until something is there."""
    end = time.monotonic() + SECONDS
    while not there():
        if time.monotonic() > end:
            sys.exit(f"after {SECONDS} s there is still no {what}")
        QApplication.processEvents()
        time.sleep(0.02)


def check(viewer: napari.Viewer, *, with_data: bool) -> str:
    """Do what a newcomer does first; return words for the report."""
    _, dock = viewer.window.add_plugin_dock_widget("napari-emseg", "EM segmentation")
    viewer.open_sample("napari-emseg", "vnc" if with_data else "fib25")
    panel = dock.panel("Membranes")
    offered = [panel.weights.itemText(n) for n in range(panel.weights.count())]
    last = "em-membranes" if with_data else MISSING
    if offered[-1] != last:
        sys.exit(f"{last!r} isn't the last of the weights offered, {offered}")
    if with_data:
        chosen = panel.weights.currentText()
        if chosen != "em-membranes":
            sys.exit(f"{chosen!r} are chosen at first and not em-membranes")
    else:
        try:
            viewer.open_sample("napari-emseg", "vnc")
        except ValueError as e:
            if "pip install napari-emseg-data" not in str(e):
                raise
        else:
            sys.exit("a sample of napari-emseg-data opens without it")
    wait_for("stack that can be run", panel.run.button.isEnabled)
    panel.run.button.click()
    result = f"{viewer.layers[0].name} membranes"
    wait_for(f"layer {result!r}", lambda: result in viewer.layers)
    wait_for("end of the run", lambda: not panel.run.running)
    return (
        f"{len(offered)} weights offered, {panel.weights.currentText()} run: {result}"
    )


def main() -> None:
    """Open the window, check, and close it."""
    viewer = napari.Viewer()
    words = check(viewer, with_data=sys.argv[1:] == ["with"])
    viewer.close()
    sys.stdout.write(f"napari {napari.__version__}: {words}\n")


if __name__ == "__main__":
    main()
