"""What napari's command palette offers beside the docks: the acts of the panels.

A command opens the dock where it isn't open, unfolds the panel and presses its button,
so one sees what it does.
"""

from collections.abc import Callable
from typing import Any

from napari import Viewer, current_viewer
from napari.plugins import menu_item_template
from napari.utils.notifications import show_info
from qtpy.QtWidgets import QAbstractButton, QDockWidget

from napari_emseg.widgets.dock import EmSegmentation
from napari_emseg.widgets.theme import unfold

TITLE = "EM segmentation"
"""Of the plugin, and of its dock with all panels; see the manifest."""


def open_dock(viewer: Viewer) -> EmSegmentation:
    """Bring the dock with all panels to the front, the one that is open if it is."""
    docks = viewer.window.dock_widgets.values()
    dock = next((x for x in docks if isinstance(x, EmSegmentation)), None)
    if dock is None:
        dock = EmSegmentation(viewer)
        # the name by which the menu finds it again
        name = menu_item_template.format(TITLE, TITLE)
        viewer.window.add_dock_widget(dock, name=name)
    shell = dock.parentWidget()
    if isinstance(shell, QDockWidget):
        shell.show()
        shell.raise_()
    return dock


def _pressing(
    panel: str, words: str, find: Callable[[Any], QAbstractButton]
) -> Callable[[], None]:
    """Return a command that presses a button of a panel."""

    def command() -> None:
        viewer = current_viewer()
        if viewer is None:
            return
        dock = open_dock(viewer)
        made = find(dock.panel(panel))
        unfold(made)
        dock.ensureWidgetVisible(made)
        if made.isEnabled() and made.isVisibleTo(dock.panel(panel)):
            made.click()
        else:
            show_info(made.toolTip() or f"{words}: not possible now")

    command.__doc__ = f"{words}."
    return command


run_membranes = _pressing("Membranes", "Run membranes", lambda p: p.run.button)
run_cells = _pressing("Cells", "Run cells", lambda p: p.run.button)
compare = _pressing("Evaluate", "Compare with truth", lambda p: p.run.button)
undo = _pressing("Correct", "Undo the latest correction", lambda p: p.undo)
redo = _pressing("Correct", "Redo the correction", lambda p: p.redo)
find_places = _pressing("Correct", "Find regions", lambda p: p.suggested.find.button)
next_place = _pressing("Correct", "Go to the next region", lambda p: p.suggested.next)
done_here = _pressing(
    "Correct", "Mark the region as reviewed", lambda p: p.suggested.done
)
review_view = _pressing(
    "Correct", "Mark the view as reviewed", lambda p: p.suggested.regions.view
)
next_section = _pressing(
    "Correct", "Go to the next section to do", lambda p: p.review.next
)
measure_cells = _pressing("Correct", "Measure cells", lambda p: p.cells.measure)
start_training = _pressing("Train", "Start training", lambda p: p.run.start)
stop_training = _pressing("Train", "Stop training", lambda p: p.run.stop)
accept = _pressing("Train", "Accept the candidate", lambda p: p.candidate.accept)
reject = _pressing("Train", "Reject the candidate", lambda p: p.candidate.reject)
save_project = _pressing("Data", "Save the project", lambda p: p.project.save)
open_project = _pressing("Data", "Open a project", lambda p: p.project.open)
