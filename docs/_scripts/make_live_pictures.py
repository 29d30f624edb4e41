"""Make the pictures of the live preview and of the list of places.

Only the bundled EM sample is shown in them.
`xvfb-run -a -s "-screen 0 1600x1000x24" python docs/_scripts/make_live_pictures.py`
"""

from __future__ import annotations

from make_screenshots import IMAGES, open_window, settle, wait_for

from napari_emseg.core.settings import LiveSettings
from napari_emseg.models.weights import list_weights
from napari_emseg.widgets.controller import controller_for
from napari_emseg.widgets.correct_panel import CorrectPanel
from napari_emseg.widgets.live_view import LiveView
from napari_emseg.widgets.membranes_panel import MembranesPanel


def main() -> None:
    """Preview a part of a section; then find places, and review the first."""
    IMAGES.mkdir(exist_ok=True)
    viewer, dock = open_window()
    membranes: MembranesPanel = dock.panel("Membranes")
    preview: LiveView = membranes.live
    viewer.scene.camera.zoom *= 1.5
    settle()
    session = controller_for(viewer).session
    session.choose_weights(list_weights()["isbi2012-unetpp"])
    # pictures are made on any machine, however busy
    preview.settings = preview._live.settings = LiveSettings(first_s=60, refined_s=60)
    preview.box.click()
    wait_for(lambda: preview.message.text().startswith(("depth 2", "depth 4")))
    settle()
    viewer.scene.camera.zoom *= 1.001  # the first of all takes longer
    settle(20)
    for name in ("Data", "Cells"):
        dock.folds[name].collapse()
    settle()
    dock.ensureWidgetVisible(preview)
    settle()
    viewer.window.screenshot(
        str(IMAGES / "live-preview.png"), canvas_only=False, flash=False
    )
    preview.box.click()
    membranes.scope.choice.setCurrentText("this section")
    settle()
    membranes.run.button.click()
    wait_for(lambda: not controller_for(viewer).job.busy)
    preview.box.setChecked(False)
    for name, fold in dock.folds.items():
        if name == "Correct":
            fold.expand()
        else:
            fold.collapse()
    correct: CorrectPanel = dock.panel("Correct")
    correct.where_next.expand()
    correct.suggested.find.button.click()
    wait_for(lambda: not correct.suggested.find.job.busy)
    correct.suggested.finish()
    viewer.reset_view()
    viewer.layers["VNC membrane probability"].visible = False
    settle()
    viewer.window.screenshot(str(IMAGES / "places.png"), canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    main()
