"""Run the tutorial in a window, step by step as its page says, and make its pictures.

`xvfb-run -a -s "-screen 0 1600x1000x24" python docs/_scripts/make_tutorial.py`

Every button, key and stroke of the mouse is a real one. What the page promises is
checked; if a step doesn't do it, the script ends with what was expected. Times and
scores are written into the page.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import make_screenshots
import napari
import numpy as np
from make_screenshots import IMAGES, settle, wait_for
from napari import Viewer
from napari.settings import get_settings
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFileDialog
from tutorial_camera import Camera, side_by_side
from tutorial_hand import Person

from napari_emseg.sample import fib25_cells
from napari_emseg.session.review_queue import is_done
from napari_emseg.widgets.controller import ViewerController, controller_for
from napari_emseg.widgets.dock import EmSegmentation

PAGE = Path(__file__).parents[1] / "tutorial.md"
WEIGHTS = "isbi2012-unet"
TEACHING, JUDGING = 2, 17
"""Sections near which places are corrected, to learn from and to judge by."""

PLACES, JUDGES = 5, 2
"""So many places are corrected there."""

SMALL_CELL = 30
SHOWN = 9
"""The section of which pictures are made before and after."""

make_screenshots.PATIENCE = 7200.0


@dataclass
class Walk:
    """One way through the tutorial."""

    folder: Path
    viewer: Viewer = field(init=False)
    dock: EmSegmentation = field(init=False)
    controller: ViewerController = field(init=False)
    camera: Camera = field(init=False)
    person: Person = field(init=False)
    facts: dict[str, str] = field(default_factory=dict)
    scores: list[tuple[float, float]] = field(default_factory=list)
    """VI of cells and V_Rand of membranes, each time that they were evaluated."""


Act = Callable[[Walk], None]
STEPS: dict[str, Act] = {}


def step(title: str, *pictures: str) -> Callable[[Act], Act]:
    """Take a function as the step of that title; it makes those pictures."""
    return step_in(STEPS, title, *pictures)


def step_in(steps: dict[str, Act], title: str, *pictures: str) -> Callable[[Act], Act]:
    """Return what adds a function to the steps of a page."""

    def take(act: Act) -> Act:
        def checked(walk: Walk) -> None:
            for name in pictures:
                (IMAGES / name).unlink(missing_ok=True)
            act(walk)
            for name in pictures:
                expect((IMAGES / name).is_file(), f"{name} was not made")

        steps[title] = checked
        return act

    return take


def expect(holds: bool, what: str) -> None:
    """Raise a RuntimeError if something isn't as the page says."""
    if not holds:
        msg = f"the page is not right: {what}"
        raise RuntimeError(msg)


@step("Install and start")
def start(walk: Walk) -> None:
    """Open napari with the dock, as by Plugins › EM segmentation."""
    get_settings().application.gui_notification_level = "error"
    walk.viewer = napari.Viewer()
    walk.viewer.window.resize(1500, 960)
    window = walk.viewer.window
    _, walk.dock = window.add_plugin_dock_widget("napari-emseg", "EM segmentation")
    walk.controller = controller_for(walk.viewer)
    walk.camera = Camera(walk.viewer, walk.dock, SHOWN)
    settle()


@step("Open the sample", "tutorial-open.png")
def open_sample(walk: Walk) -> None:
    """Open the FIB-SEM stack; its cells come along, hidden."""
    walk.viewer.open_sample("napari-emseg", "fib25")
    settle()
    walk.viewer.reset_view()
    names = [layer.name for layer in walk.viewer.layers]
    expect(names == ["FIB-25", "FIB-25 cells, drawn"], f"two layers, not {names}")
    words = walk.dock.panel("Data").words.text()
    expect("20 sections" in words, f"20 sections, not {words}")
    walk.camera.go_to(SHOWN)
    walk.camera.window("tutorial-open.png")


@step("Find the membranes", "tutorial-membranes.png")
def find_membranes(walk: Walk) -> None:
    """Run weights that never saw such tissue over all sections."""
    panel = walk.dock.panel("Membranes")
    fold(walk, "Membranes")
    pick(panel.weights, WEIGHTS)
    run(walk, panel)
    expect(
        len(walk.controller.session.at_work.results.predicted) == 20,
        "membranes of all sections",
    )
    walk.camera.canvas("tutorial-membranes.png", "membrane probability")


@step("Find the cells", "tutorial-cells.png")
def find_cells(walk: Walk) -> None:
    """Find cells, and score the membranes against those that come with the sample."""
    panel = walk.dock.panel("Cells")
    fold(walk, "Cells")
    panel.main.findChild(object, "minimum_size").setValue(SMALL_CELL)
    run(walk, panel)
    walk.camera.canvas("tutorial-cells.png", "cells")
    evaluate(walk)


@step("Save a project")
def save_project(walk: Walk) -> None:
    """Press Save project…; the dialog is answered by the script."""
    row = walk.dock.panel("Data").project
    path = walk.folder / "fly"
    QFileDialog.getSaveFileName = lambda *_, **__: (str(path), "")  # type: ignore[method-assign]
    row.save.click()
    wait_for(lambda: not row.busy)
    wait_for(lambda: "saved" in row.state.text())
    expect(path.with_suffix(".emseg").is_dir(), "the project is a folder")


@step("Go where it matters", "tutorial-places.png")
def find_places(walk: Walk) -> None:
    """Have places listed near the beginning of the stack."""
    fold(walk, "Correct")
    panel = walk.dock.panel("Correct")
    panel.where_next.expand()
    walk.camera.only("membranes")
    search(walk, TEACHING)
    cells = np.asarray(fib25_cells().data[:])
    walk.person = Person(walk.viewer, panel, walk.viewer.layers["FIB-25"], cells)
    walk.dock.ensureWidgetVisible(panel.suggested.next)
    walk.camera.window("tutorial-places.png")


@step("Correct what is wrong", "tutorial-correct.png")
def correct(walk: Walk) -> None:
    """Mend place after place, and press J at each."""
    panel = walk.dock.panel("Correct")
    panel.layers.show()
    walk.camera.only("membranes", "corrections")
    before = walk.camera.middle()
    mend(
        walk,
        1,
        lambda: side_by_side("tutorial-correct.png", [before, walk.camera.middle()]),
    )
    mend(walk, PLACES - 1)


@step("Add validation regions")
def keep_apart(walk: Walk) -> None:
    """Mend places far away, in sections that show other tissue."""
    fold(walk, "Train")
    settle(3)
    walk.facts["judges"] = walk.dock.panel("Train").judges.text()
    tell(walk.facts["judges"])
    fold(walk, "Correct")
    search(walk, JUDGING)
    mend(walk, JUDGES)
    acts = walk.person.acts
    walk.facts["acts"] = ", ".join(f"{n} × {tool}" for tool, n in acts.items())
    tell(walk.facts["acts"])


@step("Let the weights learn", "tutorial-learning.png")
def learn(walk: Walk) -> None:
    """Press Start, and look at the curve."""
    fold(walk, "Train")
    panel = walk.dock.panel("Train")
    settle(3)
    expect("Validation regions" in panel.judges.text(), panel.judges.text())
    walk.facts["learns"] = f"{panel.learns.text()} {panel.judges.text()}"
    panel.run.start.click()
    training = walk.controller.training
    wait_for(lambda: not training.busy or len(training.curve) >= 2)
    expect(training.busy, f"weights learn for a while: {training.error}")
    settle()
    walk.camera.panel("Train", "tutorial-learning.png")
    wait_for(lambda: not training.busy)
    expect(not training.error, training.error)


@step("Compare the candidate", "5-train.png", "tutorial-differ.png")
def judge(walk: Walk) -> None:
    """See that the candidate is better on what it never saw."""
    panel = walk.dock.panel("Train")
    box = panel.candidate
    expect(box.round is not None, "there is a candidate")
    comparison = box.round.comparison
    walk.facts["judgement"] = comparison.words
    tell(comparison.words)
    expect(comparison.basis == "held-out regions", "it was measured on held-out places")
    cells = comparison.differences["vi"]
    expect(cells.high < 0, f"cells are better: {comparison.words}")
    walk.camera.go_to(SHOWN)
    walk.viewer.reset_view()
    settle()  # what is in view is known once it was drawn
    box.differ.button.click()
    wait_for(lambda: not box.differ.job.busy)
    settle(2)
    walk.camera.panel("Train", "5-train.png")
    names = [layer.name for layer in walk.viewer.layers]
    expect("where they differ" in names, f"a layer of differences among {names}")
    walk.camera.canvas("tutorial-differ.png", "where they differ")
    before = box.differ.message.text()
    walk.person.mouse.key(Qt.Key.Key_Q, "q")
    settle(0.3)
    expect(box.differ.message.text() != before, "Q flips between both")


@step("Accept, and run on everything", "tutorial-result.png")
def accept(walk: Walk) -> None:
    """Use the candidate; see that all sections are better than before."""
    box = walk.dock.panel("Train").candidate
    name = box.round.name
    box.accept.click()
    settle()
    weights = walk.controller.session.weights
    expect(weights is not None and weights.card.name == name, f"{name} is in use")
    expect(weights.path.parent == walk.folder / "fly.emseg" / "weights", "their folder")
    panel = walk.dock.panel("Membranes")
    expect(panel.weights.currentText() == name, f"2 Membranes shows {name}")
    before = walk.camera.look("cells")
    fold(walk, "Membranes")
    run(walk, panel)
    fold(walk, "Cells")
    run(walk, walk.dock.panel("Cells"))
    side_by_side("tutorial-result.png", [before, walk.camera.look("cells")])
    evaluate(walk)
    (bits, rand), (fewer, more) = walk.scores
    walk.facts["scores"] = (
        f"VI of cells: {bits:.2f} bits before and {fewer:.2f} after. "
        f"V_Rand of membranes: {rand:.2f} before and {more:.2f} after."
    )
    tell(walk.facts["scores"])
    expect(fewer < bits, f"VI falls: {walk.facts['scores']}")
    expect(more > rand, f"V_Rand rises: {walk.facts['scores']}")


def search(walk: Walk, z: int) -> None:
    """Press Find regions at a section."""
    walk.camera.go_to(z)
    places = walk.dock.panel("Correct").suggested
    pick(places.where, "near this section")
    places.find.button.click()
    wait_for(lambda: not places.find.job.busy)
    settle()
    expect(len(places.suggestions) >= PLACES, f"{PLACES} or more near section {z}")


def mend(walk: Walk, n: int, mended: Callable[[], None] = bool) -> None:
    """Correct the place on screen and those after it, each ended by J."""
    places = walk.dock.panel("Correct").suggested
    for _ in range(n):
        row = places.table.selectionModel().selectedRows()[0].row()
        place = places.suggestions[row]
        walk.person.mend(place.region)
        walk.person.use(None)
        mended()
        walk.person.mouse.key(Qt.Key.Key_J, "j")
        settle(0.3)
        source = walk.controller.session.at_work
        expect(is_done(source, place.region), f"J ends {place.region.words}")


def pick(box: QComboBox, words: str) -> None:
    """Choose a line of a box, as with the mouse."""
    index = box.findText(words)
    expect(index >= 0, f"{words} can be chosen")
    box.setCurrentIndex(index)
    box.activated.emit(index)
    settle(0.3)


def run(walk: Walk, panel) -> None:
    """Press Run for all sections, and wait for the end."""
    pick(panel.scope.choice, "all sections")
    settle()
    expect(panel.run.button.isEnabled(), panel.run.button.toolTip())
    panel.run.button.click()
    wait_for(lambda: not walk.controller.job.busy)
    settle()


def evaluate(walk: Walk) -> None:
    """Press Evaluate for all sections; remember what it says."""
    fold(walk, "Evaluate")
    panel = walk.dock.panel("Evaluate")
    pick(panel.scope, "all sections")
    panel.run.button.click()
    wait_for(lambda: not panel.run.job.busy)
    expect(panel.result.isVisibleTo(panel), panel.run.message.text())
    layer = panel.prediction.layer
    expect(layer.name == "FIB-25 membrane probability", f"evaluates {layer.name}")
    rand = float(panel.result.words.text().split()[0])
    cells = panel.result.about.text().rpartition("cells: ")[2]
    walk.scores.append((float(cells.partition("VI ")[2].split()[0]), rand))
    tell(f"{panel.result.words.text()}; cells: {cells}")
    walk.viewer.layers.remove("mistakes")


def fold(walk: Walk, name: str) -> None:
    """Unfold one panel and fold the others."""
    for other, section in walk.dock.folds.items():
        if other == name:
            section.expand()
        else:
            section.collapse()
    settle(0.5)


def tell(words: str) -> None:
    """Say how far it is."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def put(name: str, body: str, page: Path = PAGE) -> None:
    """Write what was found between `<!-- begin name -->` and `<!-- end name -->`."""
    begin, end = (f"<!-- {word} {name} -->" for word in ("begin", "end"))
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(begin)
    text = f"{head}{begin}\n{body.strip()}\n{end}{rest.split(end)[1]}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Take all steps, and write down how long they took and what came of them."""
    IMAGES.mkdir(exist_ok=True)
    load, rows = os.getloadavg()[0], []
    with TemporaryDirectory() as folder:
        walk = Walk(Path(folder))
        for number, (title, act) in enumerate(STEPS.items(), start=1):
            begun = perf_counter()
            act(walk)
            rows.append(f"| {number} | {title} | {perf_counter() - begun:.0f} s |")
            tell(rows[-1])
        walk.viewer.close()
    put("times", "\n".join(["| | step | took |", "|---|---|---|", *rows]))
    threads = os.environ.get("OMP_NUM_THREADS", "as many as there are cores")
    machine = (
        f"{os.cpu_count()} CPU cores at a load of {load:.0f}, threads of PyTorch: "
        f"{threads}, no GPU, {process_time():.0f} s of processor time in all"
    )
    for name, words in {**walk.facts, "machine": machine}.items():
        put(name, words)


if __name__ == "__main__":
    main()
