"""Make the picture of the dock Batch; only the bundled EM sample is shown in it.

`xvfb-run -a -s "-screen 0 1600x1000x24" python docs/_scripts/make_batch_picture.py`

Parts of the sample are files in a folder, one of them damaged; the picture is taken in
mid-run, with the results of the first on screen.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from make_screenshots import IMAGES, open_window, settle, wait_for

from napari_emseg.io import save_stack
from napari_emseg.models.weights import list_weights
from napari_emseg.sample import vnc
from napari_emseg.widgets.batch_dock import BatchDock
from napari_emseg.widgets.controller import controller_for

WEIGHTS = "isbi2012-unet"


def make_files() -> list[str]:
    """Save parts of the sample, and a file that breaks off."""
    stack, paths = vnc(), []
    whole = np.tile(np.asarray(stack.data[:]), (4, 1, 1))
    for nth, (first, stop) in enumerate(((0, 2), (2, 5), (0, 24)), start=1):
        part = replace(stack, data=whole[first:stop], name=f"vnc-block{nth}")
        paths.append(save_stack(f"{part.name}.tif", part))
    damaged = Path("vnc-block4.tif")
    damaged.write_bytes(paths[0].read_bytes()[:5000])
    return [str(path) for path in (*paths, damaged)]


def main() -> None:
    """Start a batch, look at the first result, and take the picture."""
    folder = TemporaryDirectory()
    viewer, _ = open_window()
    viewer.layers.clear()
    viewer.window.remove_dock_widget("all")
    _, widget = viewer.window.add_plugin_dock_widget("napari-emseg", "Batch")
    if not isinstance(widget, BatchDock):
        msg = f"expected the dock, got {widget!r}"
        raise TypeError(msg)
    panel = widget.panel
    session = controller_for(viewer).session
    session.choose_weights(list_weights()[WEIGHTS])
    os.chdir(folder.name)
    panel.add_paths(make_files())
    panel.form.folder.setText("results")
    board = panel._board
    panel.foot.button.click()
    wait_for(lambda: board.entries[0].row.state == "done")
    panel.table.asked.emit(0)
    viewer.layers[-1].opacity = 0.35
    panel.table.selectRow(0)
    viewer.reset_view()
    wait_for(lambda: board.entries[2].row.share > 0.2)
    settle(0.5)
    viewer.window.screenshot(str(IMAGES / "batch.png"), canvas_only=False, flash=False)
    panel.foot.button.click()
    wait_for(lambda: not panel._batching.busy)
    viewer.close()
    folder.cleanup()


if __name__ == "__main__":
    main()
