"""By what a stack is known again: its files, and a fingerprint of what they hold.

Projects, batches and checkpoints ask here whether a stack still is what it was, and
every run asks at its end whether its files stayed as they were while it read them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from napari_emseg.core.records import Note, Record
from napari_emseg.core.stack import Stack
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.folder import describe_runs, find_files
from napari_emseg.io.formats import ZARR, recognise
from napari_emseg.io.output import may_be_section
from napari_emseg.io.reading import open_stack
from napari_emseg.io.sections import SectionArray

R = TypeVar("R")

SAMPLE = 256
"""Side of the squares that are looked at to know a Zarr again, px."""

MOST_FILES = 100_000
"""Of one source that are looked at; a Zarr may have millions of chunks."""

MOST_OPENED = 4096
"""Files that are read for that."""

FEW_FILES = 256
"""Of one source that are looked at where it is done often."""

MOST_COMPARED = 2**29
"""Bytes of a source that are read to know it again though its files were touched."""

_OF_ZARR = re.compile(r"zarr\.json|\.z(array|group|attrs|metadata)|c|(c\.)?\d+(\.\d+)*")
"""Names of the notes and chunks of a Zarr; whatever else lies there isn't read."""

_GONE = "no longer there"

FileFacts = tuple[str, int, int]
"""Name, bytes, and time of change in ns."""


class SourceChangedError(OSError):
    """Files went away or changed while they were read."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """The files of a stack at one moment.

    Parameters
    ----------
    source
        Path or URL.
    files
        What is known of each; of a URL the notes and shape of what is there. Empty if
        there is nothing.
    digest
        Of what is in them; empty if that would take long.
    """

    source: str
    files: tuple[FileFacts, ...]
    digest: str = ""

    def is_same(self, now: SourceState) -> bool:
        """Tell if files are as they were, or were merely touched."""
        if self.files == now.files:
            return True
        sizes, sizes_now = ([f[:2] for f in s.files] for s in (self, now))
        return sizes == sizes_now and self.digest == _digest(now.files) != ""


def files_of(source: str | Path) -> list[Path]:
    """Return the files of a stack: itself, those in a folder, those of a glob.

    Of a Zarr they are its notes at the top. Empty if nothing is there.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        return [p for p in path.iterdir() if p.is_file()]
    return find_files(str(path))


def fingerprint(path: str, stack: Stack) -> str:
    """Return what changes when a stack does, as hexadecimal digits.

    Of files their sizes and times of change count; of what lies elsewhere, and of
    Zarrs, whose files may be millions, the notes and some squares of three sections.

    Parameters
    ----------
    path
        File, folder, glob or URL of the stack.

    Raises
    ------
    OSError
        If it can't be read.
    """
    digest = hashlib.sha256(repr((stack.shape, str(stack.dtype))).encode())
    place = Path(path)
    zarr = "://" in path or (place.exists() and recognise(place) is ZARR)
    if zarr:
        digest.update(json.dumps(stack.metadata, default=str).encode())
        for values in _squares(stack):
            digest.update(np.ascontiguousarray(values).tobytes())
    if "://" not in path:
        digest.update(repr(_facts_for_digest(place, zarr=zarr)).encode())
    return digest.hexdigest()


def source_state(stack: Stack, *, most: int = MOST_FILES) -> SourceState | None:
    """Return what the files of a stack are like now; None if it is read from none.

    Parameters
    ----------
    most
        Files that are looked at; of more, those that are evenly spread.
    """
    if stack.source is None or not isinstance(stack.data, SectionArray):
        return None
    if "://" in stack.source:
        return SourceState(stack.source, _facts_of_url(stack))
    known = _known_files(stack, most)
    return SourceState(stack.source, known, _digest(known))


def _known_files(stack: Stack, most: int) -> tuple[FileFacts, ...]:
    files = _all_files(Path(str(stack.source)), stack)
    # every n-th, so that files from beginning to end count
    step = -(-len(files) // most) or 1
    facts = (_facts(path) for path in files[::step])
    return tuple(f for f in facts if f is not None)


@lru_cache(maxsize=64)
def _digest(files: tuple[FileFacts, ...]) -> str:
    """Return a digest of what is in files; empty if they are large, or can't be read.

    Their times are a part of the argument, so files that are touched are read anew.
    """
    if sum(size for _, size, _ in files) > MOST_COMPARED or len(files) > MOST_OPENED:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for name, _, _ in files:
            with open(name, "rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    except OSError:
        return ""
    return digest.hexdigest()


def source_states(*stacks: Stack | None) -> list[tuple[Stack, SourceState]]:
    """Return the states of those stacks that are read from files."""
    known = [(stack, source_state(stack)) for stack in stacks if stack is not None]
    return [(stack, state) for stack, state in known if state is not None]


def describe_change(
    stack: Stack, before: SourceState, *, most: int = MOST_FILES
) -> str:
    """Return in words what has become of a stack's files; empty if nothing."""
    now = source_state(stack, most=most)
    if now is None or before.is_same(now):
        return ""
    name = before.source.rstrip("/").rpartition("/")[2]
    if not now.files:
        return f"{name} is {_GONE}"
    then, files = ({f[0]: f[1:] for f in s.files} for s in (before, now))
    gone = [n for n in then if n not in files]
    # gone, new or changed
    other = [n for n in {**then, **files} if then.get(n) != files.get(n)]
    if gone and len(gone) == len(other):
        few = ", ".join(Path(n).name for n in gone[:3])
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        return f"{name}: {few}{more} {'are' if gone[1:] else 'is'} {_GONE}"
    return f"{name} was changed or replaced while it was read"


def check_sources_after(
    work: Generator[Record, None, R],
    *stacks: Stack | None,
    unread: Callable[[R], Iterable[int]] = lambda _: (),
) -> Generator[Record, None, R]:
    """Run `work` to its end; then see whether the files of stacks stayed as they were.

    Parameters
    ----------
    unread
        From the result, the sections that couldn't be read.

    Raises
    ------
    SourceChangedError
        If they did not.
    """
    known = source_states(*stacks)
    try:
        result = yield from work
    except (OSError, ValueError):
        raise_if_changed(known)  # which is why
        raise
    raise_if_changed(known, unread=unread(result))
    return result


@contextmanager
def require_unchanged(*stacks: Stack | None) -> Iterator[None]:
    """Look at the end whether the files of stacks are what they were at the beginning.

    Raises
    ------
    SourceChangedError
        If they are not, so what was made of them can't be right as a whole.
    """
    known = source_states(*stacks)
    try:
        yield
    except (OSError, ValueError):
        raise_if_changed(known)  # which is why
        raise
    raise_if_changed(known)


def raise_if_changed(
    known: Iterable[tuple[Stack, SourceState]], *, unread: Iterable[int] = ()
) -> None:
    """Raise if the files of stacks are no longer what they were.

    Parameters
    ----------
    unread
        Sections that couldn't be read, for the message.

    Raises
    ------
    SourceChangedError
        If so.
    """
    changes = [describe_change(stack, state) for stack, state in known]
    words = "; ".join(filter(None, changes))
    if words:
        missing = describe_sections(unread)
        without = f", without {missing}" if missing else ""
        wrong = "is incomplete" if missing or _GONE in words else "may be wrong"
        msg = f"{words}: the result {wrong}{without}; run it again"
        raise SourceChangedError(msg)


def describe_sections(sections: Iterable[int]) -> str:
    """Return sections in words, runs of them as `3…7`; empty for none."""
    numbers = sorted(set(sections))
    if not numbers:
        return ""
    what = "section" if len(numbers) == 1 else "sections"
    return f"{what} {describe_runs(numbers)}"


SHOWN = 3
"""Sections that are told of one by one; more are told of together."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a result lacks of a section or part, in words: of one, and of several."""

    one: str
    several: str


LEFT_OUT = Loss("is left out", "are left out")
NO_CELLS = Loss("has no cells", "have no cells")
NO_MEMBRANES = Loss("has no membranes", "have no membranes")
NO_SMALLER_COPY = Loss("has no smaller copy", "have no smaller copies")
BLANK = Loss("gets probability 0", "get probability 0")


def describe_losses(loss: Loss, reasons: Mapping[int | str, str]) -> list[str]:
    """Return which sections a result lacks and why: few each in a line, many in one.

    Parameters
    ----------
    reasons
        By section, or by the name of a part.
    """
    each = list(reasons.items())
    if len(each) <= SHOWN:
        return [_describe_loss(loss, *one) for one in each]
    numbers = sorted(n for n in reasons if isinstance(n, int))
    whole = len(numbers) == len(each)
    which = f"sections {describe_runs(numbers)}" if whole else "parts of the stack"
    said = f"{which} {loss.several} ({len(each)} in all)"
    if len(set(reasons.values())) == 1:
        return [f"{said}: {each[0][1]}"]
    examples = "; ".join(f"{name}: {why}" for name, why in each[:SHOWN])
    return [f"{said}, such as {examples}"]


def _describe_loss(loss: Loss, name: int | str, why: str) -> str:
    which = f"section {name}" if isinstance(name, int) else name
    return f"{which} {loss.one}: {why}"


class LossNotes:
    """Tells of sections that a run lacks: the first as they come, all at its end."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._reasons: dict[int | str, str] = {}

    def add(self, z: int, why: str) -> Iterator[Note]:
        """Take note of a section; yields a note if few were told of by now."""
        self._reasons[z] = why
        if len(self._reasons) <= SHOWN:
            yield Note(_describe_loss(self._loss, z, why))

    def rest(self) -> Iterator[Note]:
        """Yield a note of all, if not all were told of."""
        if len(self._reasons) > SHOWN:
            yield from map(Note, describe_losses(self._loss, self._reasons))


def _squares(stack: Stack) -> Iterator[Any]:
    # three squares along the diagonal of the first, the middle and the last section
    z, y, x = stack.shape
    for k in sorted({0, z // 2, z - 1}):
        for part in (0, 1, 2):
            top, left = (part * max(0, n - SAMPLE) // 2 for n in (y, x))
            yield stack.data[k, top : top + SAMPLE, left : left + SAMPLE]


def _facts_for_digest(path: Path, *, zarr: bool) -> list[FileFacts]:
    """Return the facts that are part of a fingerprint, which is kept in files."""
    files = sorted(files_of(path))
    if path.is_dir() and zarr:
        # chunks may be millions; their values are looked at in squares instead
        files = [p for p in files if p.name == "zarr.json"]
    elif path.is_dir():
        files = [p for p in files if may_be_section(p)]
    stats = [(file.name, file.stat()) for file in files]
    return [(name, s.st_size, s.st_mtime_ns) for name, s in stats]


def _facts_of_url(stack: Stack) -> tuple[FileFacts, ...]:
    """Return what tells a store behind a URL from another: it is opened again."""
    source = str(stack.source)
    try:
        again = open_stack(source, **stack.metadata.get("choice", {}))
    except (OSError, ValueError):
        return ()
    notes = {k: v for k, v in again.metadata.items() if k != "choice"}
    words = json.dumps([again.shape, str(again.dtype), notes], default=str)
    return ((f"{source} {words}", 0, 0),)


def _all_files(path: Path, stack: Stack) -> list[Path]:
    """Return all files that a stack is read from, in a fixed order.

    Others that lie or come beside them in a folder don't matter.
    """
    listed = _listed_files(stack)
    if path.is_file():
        return list(dict.fromkeys([path, *listed]))
    if path.is_dir() and _is_zarr(path):
        return [*_files_of_zarr(path, stack.metadata.get("choice", {})), *listed]
    return listed or sorted(files_of(path))


def _listed_files(stack: Stack) -> list[Path]:
    """Return the files that were found when the stack was opened."""
    return [Path(p) for p in stack.metadata.get("files", ())]


def _is_zarr(path: Path) -> bool:
    try:
        return recognise(path) is ZARR
    except (OSError, UnreadableError):
        return False


def _files_of_zarr(path: Path, choice: dict[str, Any]) -> list[Path]:
    """Return notes and chunks; labels are others' unless they are what is read."""
    own = str(choice.get("dataset", ""))
    found: list[Path] = []
    for folder, folders, names in os.walk(path):
        if "labels" not in own.split("/"):
            folders[:] = [name for name in folders if name != "labels"]
        folders.sort()
        found += [Path(folder, n) for n in sorted(names) if _OF_ZARR.fullmatch(n)]
        # a walk over millions of chunks would take longer than the run
        if len(found) >= MOST_FILES:
            break
    return found[:MOST_FILES]


def _facts(path: Path) -> FileFacts | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return str(path), found.st_size, found.st_mtime_ns
