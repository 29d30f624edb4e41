"""Hand work drawn at random from a seed, and a program that saves it until killed.

Run as `python drawing.py FOLDER SEED`: opens the project, and writes the number of each
step to stdout before it is handed over.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from napari_emseg.core.regions import Region
from napari_emseg.project import Project
from napari_emseg.proofreading import Change, Edit, History, LinkedLabels
from napari_emseg.proofreading.edits import IdChange

SHAPE = (4, 700, 650)
"""More than a chunk in each direction, and no multiple of one."""


@dataclass
class Step:
    edit: Edit
    undone: bool


class Person:
    """Edits arrays in memory, one random step at a time."""

    def __init__(self, seed: int, shape: tuple[int, int, int] = SHAPE) -> None:
        self.rng = np.random.default_rng(seed)
        self.linked = LinkedLabels(
            np.zeros(shape, np.uint8),
            np.zeros(shape, np.uint32),
            np.zeros(shape, np.uint8),
        )
        self.history = History(self.linked)

    def steps(self) -> Iterator[Step]:
        while True:
            kind = self.rng.random()
            if kind < 0.2 and self.history.undoable:
                yield Step(self.history.undo(), undone=True)
            elif kind < 0.25 and self.history.redoable:
                yield Step(self.history.redo(), undone=False)
            else:
                edit = self._renaming() if kind < 0.4 else self._painting()
                self.history.do(edit)
                yield Step(edit, undone=False)

    def _painting(self) -> Edit:
        depth, height, width = self.linked.shape
        z = int(self.rng.integers(depth))
        self.linked.settle(z)
        y, x = int(self.rng.integers(height - 9)), int(self.rng.integers(width - 9))
        area = (
            slice(y, int(self.rng.integers(y + 1, height))),
            slice(x, int(self.rng.integers(x + 1, width))),
        )
        changes = []
        for name, most in (("cells", 9), ("corrections", 4)):
            old = np.array(self.linked.arrays[name][(z, *area)])
            new = np.full_like(old, self.rng.integers(most))
            new[self.rng.random(old.shape) < 0.2] = 0
            changes.append(Change.between(name, z, area, old, new))
        locked = frozenset(self.rng.integers(1, 9, 1).tolist()) - self.linked.locked
        real = tuple(c for c in changes if c is not None)
        region = Region(z, 0, 0, 1, int(self.rng.integers(1, 4)))
        known = region in self.linked.regions
        return Edit(
            *("paint", "painted", real),
            lock=locked,
            review=() if known else (region,),
            unreview=(region,) if known else (),
            reviewed_before=self.linked.regions if known else None,
            last_id=9,
            author="Ada",
        )

    def _renaming(self) -> Edit:
        a, b = (int(v) for v in self.rng.integers(1, 9, 2))
        first = int(self.rng.integers(self.linked.shape[0]))
        ids = (IdChange(a, b, first, self.linked.shape[0]),)
        return Edit("merge in 3-D", "merged", ids=ids)


def hand_over(project: Project, step: Step) -> None:
    if step.undone:
        project.undo(step.edit)
    else:
        project.do(step.edit)


def state_of(linked: LinkedLabels) -> dict[str, np.ndarray]:
    linked.settle_all()
    return {n: np.array(linked.arrays[n]) for n in ("cells", "corrections")}


def saved_in(project: Project) -> dict[str, np.ndarray]:
    depth = project.info.source.shape[0]
    return {
        n: np.stack([project.section(n, z) for z in range(depth)])
        for n in ("cells", "corrections")
    }


def main(folder: str, seed: str) -> None:
    person = Person(int(seed))
    pauses = np.random.default_rng(int(seed))
    with Project(folder) as project:
        for number, step in enumerate(person.steps(), 1):
            sys.stdout.write(f"{number} {time.monotonic()}\n")
            sys.stdout.flush()
            hand_over(project, step)
            time.sleep(float(pauses.exponential(0.03)))


if __name__ == "__main__":
    main(*sys.argv[1:])
