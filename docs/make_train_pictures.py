"""Make the picture of panel 5; only the bundled EM sample is shown in it.

`xvfb-run -a -s "-screen 0 1600x1400x24" python docs/make_train_pictures.py`

Somebody who knows the truth corrects some places and reviews two sections; a short
round follows, and what became different is shown.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from make_screenshots import IMAGES, open_window, run, settle, wait_for
from napari import Viewer

from napari_emseg.edit import paint
from napari_emseg.models.weights import load_weights
from napari_emseg.sample import vnc_membranes
from napari_emseg.session.handwork import HandWork
from napari_emseg.widgets.desk import desk_of
from napari_emseg.widgets.train_panel import TrainPanel

WEIGHTS = "isbi2012-unet"
QUICK = {"steps": 120, "validate_every": 10, "patch": 96, "patience": 0}
SIDE = 24
"""Of a place that is corrected, px."""


def correct(hand: HandWork, z: int, rng: np.random.Generator) -> None:
    """Correct a few places of a section where membranes are wrong."""
    truth = np.asarray(vnc_membranes().data[z]) > 0
    wrong = (np.asarray(hand.linked.arrays["membranes"][z]) > 0) != truth
    ys, xs = np.nonzero(wrong[SIDE:-SIDE, SIDE:-SIDE])
    for k in rng.choice(len(ys), 6, replace=False):
        y, x = int(ys[k]) + SIDE // 2, int(xs[k]) + SIDE // 2
        area = slice(y, y + SIDE), slice(x, x + SIDE)
        for code in (1, 2):
            where = (truth[area] == (code == 1)) & wrong[area]
            if where.any():
                hand.do(paint(hand.sheet(z), "corrections", where, area, code))


def draw(hand: HandWork, z: int) -> None:
    """Correct a whole section."""
    truth = np.asarray(vnc_membranes().data[z]) > 0
    whole = slice(0, truth.shape[0]), slice(0, truth.shape[1])
    for code in (1, 2):
        where = truth == (code == 1)
        hand.do(paint(hand.sheet(z), "corrections", where, whole, code))


def learn(viewer: Viewer, panel: TrainPanel) -> None:
    """Correct, review, and learn."""
    desk = desk_of(viewer)
    session = desk.session
    hand = session.correcting()
    rng = np.random.default_rng(0)
    for z in (0, 1):
        correct(hand, z, rng)
    for z in (2, 5):
        draw(hand, z)
        session.review(z)
    settings = session.learning.settings
    session.learning.settings = settings.model_copy(update=QUICK)
    settle(3)
    panel.run.start.click()
    wait_for(lambda: not desk.training.busy)
    panel.candidate.differ.button.click()
    wait_for(lambda: not panel.candidate.differ.job.busy)
    settle(3)


def main() -> None:
    """Take the picture."""
    viewer, dock = open_window()
    session = desk_of(viewer).session
    with TemporaryDirectory() as folder:
        session.learning.folder = Path(folder)
        session.choose_weights(load_weights(WEIGHTS))
        run(viewer, dock.panel("Membranes"))
        fold = dock.folds["Train"]
        fold.expand(animate=False)
        learn(viewer, dock.panel("Train"))
        settle()
        fold.grab().save(str(IMAGES / "5-train.png"))
        viewer.close()


if __name__ == "__main__":
    main()
