"""A project's folder as it is and as it is to become: changes wait here for a save."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import RLock
from time import monotonic, sleep
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from napari_emseg.core.regions import Region
from napari_emseg.edit.edits import Edit, Name
from napari_emseg.io.errors import UnreadableError
from napari_emseg.project.chunks import Chunked, create_array
from napari_emseg.project.journal import Journal, sync, write
from napari_emseg.project.mirror import Mirror
from napari_emseg.project.state import FORMAT, EditLine, ProjectInfo, ReviewState

M = TypeVar("M", bound=BaseModel)

SUFFIX = ".emseg"
INFO, REVIEW, EDITS = "project.json", "review.json", "edits.jsonl"
ARRAYS: dict[Name, tuple[str, str]] = {
    "cells": ("cells.zarr", "uint32"),
    "corrections": ("corrections.zarr", "uint8"),
}
PIECE = 64
"""An edit of more changes, such as a run's, is saved in several steps."""

PATIENCE = 5.0
"""Seconds that a reader waits for a save of another window to end."""


def named(path: Path | str) -> Path:
    """Return the folder of a project: the name ends in `.emseg`."""
    path = Path(path)
    if path.suffix == SUFFIX:
        return path
    return path.with_name(f"{path.name}{SUFFIX}")


def create_folder(path: Path, info: ProjectInfo) -> None:
    """Make the folder of an empty project; it appears when it is whole.

    Raises
    ------
    ValueError
        If its name doesn't end in `.emseg`.
    FileExistsError, FileNotFoundError, PermissionError
        If there is something already, or the folder around can't be written to.
    """
    if path.suffix != SUFFIX:
        msg = f"the name of a project ends in .emseg, got {path.name}"
        raise ValueError(msg)
    if path.exists():
        msg = f"{path} exists already; open it, or choose another name"
        raise FileExistsError(msg)
    part = path.with_name(f"{path.name}.part")
    if part.is_dir() and not (part / INFO).exists() and any(part.iterdir()):
        msg = f"{part} is in the way: a folder of something else"
        raise FileExistsError(msg)
    part.mkdir(exist_ok=True)
    write(part / INFO, _json(info))
    for name, dtype in ARRAYS.values():
        if not (part / name / "zarr.json").exists():
            create_array(part / name, info.source.shape, dtype)
    (part / "weights").mkdir(exist_ok=True)
    write(part / REVIEW, _json(ReviewState()))
    write(part / EDITS, b"")
    for file in (part / INFO, part / REVIEW, *part.glob("*.zarr/zarr.json"), part):
        sync(file)
    part.rename(path)


class Disk:
    """Reads a project's folder, takes changes, and saves them together.

    Not more than one thread at a time: `lock` is held by each method that is public.

    Raises
    ------
    UnreadableError
        If the folder is no project, is damaged, or of a later program.
    """

    def __init__(self, folder: Path, *, writing: bool) -> None:
        self.folder = folder
        self.lock = RLock()
        self._journal = Journal(folder)
        if writing:
            self._journal.finish()
        else:
            _wait_for(lambda: not self._journal.waiting)
        self.info = read_info(folder)
        self.review = _parsed(folder / REVIEW, ReviewState)
        names = [name for name, _ in ARRAYS.values()]
        self._arrays = dict(
            zip(ARRAYS, [Chunked(folder / name) for name in names], strict=True)
        )
        self._mirror = Mirror(
            self._arrays["cells"], self._arrays["corrections"], self.review
        )
        self._lines: list[EditLine] = []
        self._length = whole_lines(folder / EDITS)
        self._info_changed = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(z, y, x)` of the stack."""
        return self._arrays["cells"].shape

    def section(self, name: Name, z: int) -> Any:
        """Return cells or corrections of a section `(y, x)`."""
        with self.lock:
            if name == "cells":
                return self._mirror.up_to_date(z)
            return self._arrays[name][z]

    @property
    def nbytes(self) -> int:
        """Memory of what is not saved."""
        return sum(array.nbytes_changed for array in self._arrays.values())

    def make(self, edit: Edit, *, back: bool) -> None:
        """Make an edit, or take the latest one back."""
        with self.lock:
            if back:
                self._mirror.revert(edit)
            else:
                self._mirror.apply(edit)

    def put(self, name: Name, z: int, area: Any, values: Any) -> None:
        """Store an area of a section; ids that wait for it count as written."""
        with self.lock:
            if name == "cells":
                self._mirror.settle(z)
                self._mirror.last_id = max(self._mirror.last_id, int(values.max()))
            self._arrays[name][(z, *area)] = values

    def log(self, line: EditLine) -> None:
        """Add a line to `edits.jsonl`."""
        with self.lock:
            self._lines.append(line)

    def mark(self, change: Callable[[ReviewState], ReviewState]) -> None:
        """Change `review.json`."""
        with self.lock:
            self.review = change(self.review)

    def lock_cells(self, locked: frozenset[int]) -> None:
        """Say which cells are locked."""
        with self.lock:
            self._mirror.locked = locked

    def review_regions(self, regions: tuple[Region, ...]) -> None:
        """Say which parts of sections are reviewed."""
        with self.lock:
            self._mirror.regions = regions

    def tell(self, info: ProjectInfo) -> None:
        """Change `project.json`."""
        with self.lock:
            self.info = info
            self._info_changed = True

    def finish(self) -> None:
        """Put what a broken-off save has left into its place.

        Raises
        ------
        OSError
            If that can't be done now.
        """
        with self.lock:
            self._journal.finish()

    def save(self) -> None:
        """Write what has changed: after a crash all of it is there, or nothing.

        Raises
        ------
        OSError
            If it can't be written now; then it's still here, and may be tried again.
        """
        with self.lock:
            self._check_same()
            self._journal.begin()
            for name, array in self._arrays.items():
                for chunk, content in array.changed():
                    self._journal.replace(f"{ARRAYS[name][0]}/{chunk}", content)
            review = self._mirror.part_of(self.review)
            review = review.model_copy(update={"saves": review.saves + 1})
            self._journal.replace(REVIEW, _json(review))
            if self._info_changed:
                self._journal.replace(INFO, _json(self.info))
            lines = "".join(
                line.model_dump_json(exclude_defaults=True) + "\n"
                for line in self._lines
            ).encode()
            if lines:
                self._journal.append(EDITS, lines, self._length)
            self._journal.commit()
            self._saved(review, len(lines))
            self._journal.finish()

    def _saved(self, review: ReviewState, more: int) -> None:
        """Forget what has been written."""
        for array in self._arrays.values():
            array.written()
        self.review = review
        self._info_changed = False
        self._lines.clear()
        self._length += more

    def _check_same(self) -> None:
        """Refuse to write into another folder of the same name."""
        path = self.folder / INFO
        if not path.exists():
            msg = f"the folder {self.folder} is no longer there"
            raise FileNotFoundError(msg)
        if read_info(self.folder).id != self.info.id:
            msg = f"{self.folder} is another project now"
            raise FileNotFoundError(msg)


def pieces_of(edit: Edit) -> Iterator[Edit]:
    """Yield the parts of an edit that are saved one after the other."""
    whole = edit.changes
    last = max(0, (len(whole) - 1) // PIECE)
    for nth in range(last):
        some = whole[nth * PIECE : (nth + 1) * PIECE]
        yield Edit(edit.tool, changes=some, time=edit.time)
    yield replace(edit, changes=whole[last * PIECE :])


def read_info(folder: Path) -> ProjectInfo:
    """Read `project.json`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    UnreadableError
        If it is no project, damaged, or of a later program.
    """
    if not folder.is_dir():
        msg = f"no such project: {folder}"
        raise FileNotFoundError(msg)
    if not (folder / INFO).exists():
        msg = f"{folder} is no project: it has no {INFO}"
        raise UnreadableError(msg)
    info = _parsed(folder / INFO, ProjectInfo)
    if info.format > FORMAT:
        msg = (
            f"{folder} was made by a later version ({info.version}); "
            f"update napari-emseg to open it"
        )
        raise UnreadableError(msg)
    return info


def read_edits(folder: Path) -> tuple[EditLine, ...]:
    """Return what was done, in its order; a line that was cut short is left out."""
    path = folder / EDITS
    content = path.read_bytes()[: whole_lines(path)]
    try:
        return tuple(EditLine.model_validate_json(x) for x in content.splitlines())
    except ValidationError as e:
        msg = f"{path} is damaged: {e.errors()[0]['msg']}"
        raise UnreadableError(msg) from e


def whole_lines(path: Path) -> int:
    """Return how many bytes of a file end in a whole line."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


def _json(model: BaseModel) -> bytes:
    return (json.dumps(model.model_dump(mode="json"), indent=1) + "\n").encode()


def _parsed(path: Path, model: type[M]) -> M:
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError as e:
        msg = f"{path} is missing"
        raise UnreadableError(msg) from e
    except ValidationError as e:
        msg = f"{path} is damaged: {e.errors()[0]['msg']}"
        raise UnreadableError(msg) from e


def _wait_for(done: Callable[[], bool]) -> None:
    until = monotonic() + PATIENCE
    while not done() and monotonic() < until:
        sleep(0.02)
