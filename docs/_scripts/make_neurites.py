"""Take the steps of "Neurites through the stack" in a window, and make its pictures.

`xvfb-run -a -s "-screen 0 1600x1000x24" python docs/_scripts/make_neurites.py`

Needs napari-emseg-data, for the weights, and trimesh. As in `make_tutorial`, buttons
and clicks are real ones, and what the page promises is checked. Only FIB-25 is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from make_screenshots import settle, wait_for
from make_tutorial import (
    Act,
    Walk,
    expect,
    fold,
    pick,
    put,
    run,
    start,
    step_in,
    tell,
)
from numpy.typing import NDArray
from qtpy.QtWidgets import QFileDialog
from scipy import ndimage as ndi
from tutorial_camera import side_by_side
from tutorial_hand import Mouse

from napari_emseg.sample import fib25_cells

PAGE = Path(__file__).parents[1] / "neurites.md"
WEIGHTS = "em-membranes"
FIRST, LAST = 2, 17
"""Sections that are shown beside each other."""

STEPS: dict[str, Act] = {}
WALL = 4
"""Pixels between two pieces of a neurite that are next to each other, at the most."""

PURE = 0.8
"""Part of a cell that must lie in one true cell to be taken for a piece of it."""


def step(title: str, *pictures: str) -> Callable[[Act], Act]:
    """Take a function as the step of that title; it makes those pictures."""
    return step_in(STEPS, title, *pictures)


@dataclass
class CellWalk(Walk):
    """One way through the page; `cell` is the one that was put together."""

    cell: int = 0


@dataclass(frozen=True)
class Piece:
    """A cell, and a place `(z, y, x)` well inside of it."""

    cell: int
    at: tuple[int, int, int]


@step("Open the sample and find the membranes")
def prepare(walk: CellWalk) -> None:
    """Open FIB-25 and run weights that know such tissue."""
    start(walk)
    open_sample(walk)
    panel = walk.dock.panel("Membranes")
    fold(walk, "Membranes")
    pick(panel.weights, WEIGHTS)
    expect(panel.views.isVisibleTo(panel), "Views is offered for voxels of 10 nm")
    run(walk, panel)
    predicted = walk.controller.session.at_work.results.predicted
    expect(len(predicted) == 20, "membranes of all sections")


def open_sample(walk: CellWalk) -> None:
    """Open the sample as the other page does, without its picture."""
    walk.viewer.open_sample("napari-emseg", "fib25")
    settle()
    walk.viewer.reset_view()


@step("Find cells through the stack", "neurites-cells.png")
def find_cells(walk: CellWalk) -> None:
    """Choose Through the stack, and see that cells keep their colours."""
    panel = walk.dock.panel("Cells")
    fold(walk, "Cells")
    pick(panel.main.findChild(object, "through"), "auto")
    run(walk, panel)
    cells = walk.controller.session.at_work.results.cells
    both = np.intersect1d(cells[FIRST], cells[LAST])
    expect(len(both) > 20, f"cells go through the stack, {len(both)} do")
    walk.facts["cells"] = f"{len(np.unique(cells)) - 1} cells"
    pictures = []
    for z in (FIRST, LAST):
        walk.camera.section = z
        pictures.append(walk.camera.look("cells"))
    side_by_side("neurites-cells.png", pictures)


@step("Look at them in 3-D", "neurites-cell.png")
def look(walk: CellWalk) -> None:
    """See all cells by napari's own button, then the largest alone by its row."""
    walk.camera.only("cells")
    walk.viewer.layers["FIB-25"].visible = False
    toggle = walk.viewer.window._qt_viewer.viewerButtons.ndisplayButton
    toggle.click()
    settle()
    expect(walk.viewer.dims.ndisplay == 3, "the button shows cells as a volume")
    toggle.click()
    settle()
    expect(walk.viewer.dims.ndisplay == 2, "the button goes back to the sections")
    walk.camera.only("cells")
    fold(walk, "Correct")
    panel = walk.dock.panel("Correct")
    open_cells(walk)
    panel.cells.measure.click()
    wait_for(lambda: panel.cells.measure.isEnabled())
    expect(panel.cells.table.rowCount() > 20, "a table of cells")
    sizes = np.bincount(walk.controller.session.at_work.results.cells.ravel())
    choose_row(walk, int(sizes[1:].argmax()) + 1)
    see_in_3d(walk)
    expect(walk.viewer.dims.ndisplay == 3, "the 3-D display")
    walk.camera.window("neurites-cell.png")
    panel.cells.in_3d.button.click()
    settle()
    expect(walk.viewer.dims.ndisplay == 2, "back to the sections")


@step("Join what belongs together")
def merge(walk: CellWalk) -> None:
    """Click two pieces of one neurite, in any sections."""
    cells = walk.controller.session.at_work.results.cells
    one, other = two_pieces(np.asarray(cells), np.asarray(fib25_cells().data[:]))
    use(walk, "Merge in 3-D")
    click(walk, one.at)
    click(walk, other.at)
    joined = int(cells[one.at])
    walk.camera.go_to(other.at[0])
    expect(int(cells[other.at]) == joined, f"{one} and {other} are one cell now")
    use(walk, None)
    walk.cell = joined


@step("Split what doesn't")
def split(walk: CellWalk) -> None:
    """Split the cell in a section, see that it is two from there on, and undo it."""
    cells = walk.controller.session.at_work.results.cells
    cell = walk.cell
    there = np.flatnonzero([(section == cell).any() for section in cells])
    middle = int(there[len(there) // 2])
    at = inside(np.asarray(cells[middle]) == cell)
    use(walk, "Split in 3-D")
    click(walk, (middle, *at))
    walk.camera.go_to(middle)
    new = int(cells[(middle, *at)])
    expect(new != cell, f"cell {cell} is another one from section {middle} on")
    use(walk, None)
    walk.dock.panel("Correct").undo.click()
    settle()
    walk.camera.go_to(middle)
    expect(int(cells[(middle, *at)]) == cell, "undo makes it one again")


@step("Save surfaces")
def save(walk: CellWalk) -> None:
    """Save meshes by the dialog; `make_mesh_picture` draws some."""
    fold(walk, "Cells")
    row = walk.dock.panel("Cells").saving
    path = walk.folder / "fib-cells"
    (words,) = (c.filter for c in row._choices if c.words.startswith("Meshes, PLY"))
    QFileDialog.getSaveFileName = lambda *_, **__: (str(path), words)  # type: ignore[method-assign]
    row.save.click()
    wait_for(lambda: not row.job.busy)
    expect("saved as fib-cells" in row.message.text(), row.message.text())
    files = sorted(path.glob("*.ply"))
    expect(len(files) > 20, f"a file for each cell, not {len(files)}")


def open_cells(walk: CellWalk) -> None:
    """Unfold Cells in 4 Correct."""
    panel = walk.dock.panel("Correct")
    box = panel.cells.parent()
    while not hasattr(box, "expand"):
        box = box.parent()
    box.expand()
    settle(0.5)
    walk.dock.ensureWidgetVisible(panel.cells.in_3d)


def choose_row(walk: CellWalk, cell: int) -> None:
    """Click the row of a cell."""
    table = walk.dock.panel("Correct").cells.table
    rows = {table.item(row, 0).text(): row for row in range(table.rowCount())}
    expect(str(cell) in rows, f"cell {cell} is in the table")
    table.setCurrentCell(rows[str(cell)], 0)
    table.cellClicked.emit(rows[str(cell)], 0)
    settle(0.3)


def see_in_3d(walk: CellWalk) -> None:
    """Press View in 3-D."""
    in_3d = walk.dock.panel("Correct").cells.in_3d
    in_3d.button.click()
    wait_for(lambda: in_3d.view.on)
    settle()


def use(walk: CellWalk, name: str | None) -> None:
    """Choose a tool, or none."""
    panel = walk.dock.panel("Correct")
    tool = panel.pointer.tool
    if name is not None:
        panel.tools[name].click()
    elif tool is not None:
        panel.tools[tool.name].click()
    settle(0.3)


def click(walk: CellWalk, at: tuple[int, int, int]) -> None:
    """Go to a section and click there, with a real mouse."""
    walk.camera.only("cells")
    walk.camera.go_to(at[0])
    walk.viewer.reset_view()
    settle(0.5)
    Mouse(walk.viewer, walk.viewer.layers["FIB-25"]).click((at[1] + 0.0, at[2] + 0.0))
    settle(0.5)


def two_pieces(cells: NDArray, truth: NDArray) -> tuple[Piece, Piece]:
    """Return the two largest cells that are pieces of one true cell."""
    wide = int(truth.max()) + 1
    keys, counts = np.unique(cells.astype(np.int64) * wide + truth, return_counts=True)
    sizes = np.bincount(cells.ravel())
    pieces: dict[int, list[int]] = {}
    for key, count in zip(keys, counts, strict=True):
        cell, true = divmod(int(key), wide)
        if cell and true and count > PURE * sizes[cell]:
            pieces.setdefault(true, []).append(cell)
    pairs = sorted(
        (pair for group in pieces.values() for pair in combinations(group, 2)),
        key=lambda pair: -min(sizes[list(pair)]),
    )
    one, other = next((p for p in pairs if touch(cells, *p)), pairs[0])
    return piece(cells, one), piece(cells, other)


def touch(cells: NDArray, one: int, other: int) -> bool:
    """Tell if two cells have no more than a wall between them."""
    near = ndi.binary_dilation(cells == one, iterations=WALL)
    return bool((near & (cells == other)).any())


def piece(cells: NDArray, cell: int) -> Piece:
    """Return a cell with a place in the section where it is widest."""
    z = int((cells == cell).sum(axis=(1, 2)).argmax())
    return Piece(cell, (z, *inside(cells[z] == cell)))


def inside(mask: NDArray) -> tuple[int, int]:
    """Return the pixel that is farthest from the border of a profile."""
    deep = ndi.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(deep.argmax()), mask.shape)
    return int(y), int(x)


def main() -> None:
    """Take all steps, and write down what came of them."""
    with TemporaryDirectory() as folder:
        walk = CellWalk(Path(folder))
        for title, act in STEPS.items():
            act(walk)
            tell(title)
        walk.viewer.close()
    for name, words in walk.facts.items():
        put(name, words, PAGE)


if __name__ == "__main__":
    main()
