"""A sitting drawn at random from a seed, on a project that is saved until killed.

Run as `python sitting.py FOLDER SEED`: opens the project in a session, and writes the
number of each step to stdout before it is taken.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np

from napari_emseg.core.regions import Region
from napari_emseg.proofreading import lock, merge_through, paint, split_through
from napari_emseg.proofreading.painted import Stroke, take_back
from napari_emseg.session import Session
from napari_emseg.session.projects import open_project

Sections = dict[int, str]
State = tuple[bytes, object, object]


class Sitting:
    """Works on a session's stack, one random step at a time.

    Each step makes one edit, or takes one back or makes one again.
    """

    def __init__(self, session: Session, seed: int) -> None:
        self.session = session
        self.hand = session.correcting()
        self.rng = np.random.default_rng(seed)
        self._told = 0
        self._past: list[State] = []
        self._future: list[State] = []
        self.hand.edited.connect(self._on_edited)
        self._tries: list[Callable[[], object]] = [
            self._paint, self._paint, self._brush, self._lock, self._merge, self._split,
            self._review, self._unreview, self._section, self._exclude, self._run,
            self._clear, self._undo, self._undo, self._redo,
        ]  # fmt: skip

    @property
    def marked(self) -> Sections:
        source = self.session.source
        excluded = dict.fromkeys(source.excluded, "excluded")
        return dict.fromkeys(source.reviewed, "reviewed") | excluded

    def steps(self) -> Iterator[Sections]:
        """Take steps; each time return how sections were marked before it."""
        while True:
            before, self._told = self.marked, 0
            while not self._told:
                trying = self._tries[int(self.rng.integers(len(self._tries)))]
                self._before = self.state()
                with suppress(ValueError):  # refused, as tools do
                    trying()
                if not self._told and self.state()[1] != self._before[1]:
                    # a run that changed nothing is no step, but has found cells
                    self._past, self._future = [], []
            yield before

    def state(self) -> State:
        """Return all that undo and redo have to give back; ids go on waiting."""
        hand, found = self.hand, self.session.source.results.found_cells
        arrays = [hand.linked.arrays["corrections"], *map(self._cells, range(4))]
        kept = (hand.linked.locked, hand.regions, found.linked)
        return b"".join(np.asarray(a).tobytes() for a in arrays), found.segmented, kept

    def _cells(self, z: int) -> np.ndarray:
        linked = self.hand.linked
        cells = np.array(linked.arrays["cells"][z])
        for ids in linked._ids[linked._settled[z] :]:
            if ids.first <= z < ids.stop:
                cells[cells == ids.source] = ids.target
        return cells

    def _on_edited(self, step: str) -> None:
        self._told += 1
        if step == "made":
            self._past.append(self._before)
            self._future = []
            return
        undone = step == "undone"
        source, target = self._past, self._future
        if not undone:
            source, target = target, source
        if source:
            assert self.state() == source.pop(), f"{step}, and another state"
        target.append(self._before)

    def _place(self) -> tuple[int, tuple[int, int]]:
        z, y, x = (int(self.rng.integers(n)) for n in self.hand.linked.shape)
        return z, (y, x)

    def _window(self) -> tuple[int, tuple[slice, slice]]:
        _, height, width = self.hand.linked.shape
        z, (y, x) = self._place()
        y, x = min(y, height - 12), min(x, width - 12)
        return z, (slice(y, y + 10), slice(x, x + 12))

    def _paint(self) -> None:
        z, area = self._window()
        value, name = int(self.rng.integers(2)), "membranes"
        where = self.rng.random((10, 12)) < 0.6
        self.hand.do(paint(self.hand.sheet(z), name, where, area, value))

    def _brush(self) -> None:
        z, area = self._window()
        array = self.hand.corrections
        old = array[z][area].ravel().copy()
        stroke = Stroke(
            z, area, np.ones((10, 12), bool), old, int(self.rng.integers(3))
        )
        array[z][area] = stroke.value
        take_back(array, [stroke])
        self.hand.repaint("corrections", [stroke])

    def _lock(self) -> None:
        z, point = self._place()
        self.hand.do(lock(self.hand.sheet(z), point))

    def _merge(self) -> None:
        self.hand.do(merge_through(self.hand.linked, self._place(), self._place()))

    def _split(self) -> None:
        self.hand.do(split_through(self.hand.linked, self._place()))

    def _review(self) -> None:
        z, (rows, columns) = self._window()
        self.hand.review(Region(z, rows.start, columns.start, rows.stop, columns.stop))

    def _unreview(self) -> None:
        regions = self.hand.regions
        if regions:
            self.hand.unreview(regions[int(self.rng.integers(len(regions)))])

    def _section(self) -> None:
        z, _ = self._place()
        self.session.review(z, reviewed=z not in self.session.source.reviewed)

    def _run(self) -> None:
        """Find cells anew that are much like those that are there."""
        results = self.session.source.results
        z, _ = self._place()
        _, height, width = results.shape
        whole = slice(0, height), slice(0, width)
        cells = np.array(results.cells[z])
        shift = int(self.rng.integers(-3, 4))
        self.hand.put_cells(z, whole, np.roll(cells, shift, axis=1))
        self.hand.finish_run()

    def _clear(self) -> None:
        if self.rng.random() < 0.2:
            self.session.source.editor.clear((self._place()[0],))

    def _undo(self) -> None:
        self.hand.undo()

    def _redo(self) -> None:
        self.hand.redo()

    def _exclude(self) -> None:
        z, _ = self._place()
        self.session.exclude(z, excluded=z not in self.session.source.excluded)


def main(folder: str, seed: str) -> None:
    session = Session()
    open_project(session, folder)
    sitting = Sitting(session, int(seed))
    pauses = np.random.default_rng(int(seed))
    steps = sitting.steps()
    number = 0
    while True:
        number += 1
        sys.stdout.write(f"{number} {time.monotonic()}\n")
        sys.stdout.flush()
        next(steps)
        time.sleep(float(pauses.exponential(0.03)))


if __name__ == "__main__":
    main(*sys.argv[1:])
