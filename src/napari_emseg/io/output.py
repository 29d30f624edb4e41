"""An output under way: written beside its final name, and renamed when it is whole."""

import errno
import os
import shutil
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.atomic import (
    DiskFullError,
    check_replaceable,
    clear_leftovers,
    exchange,
    leftovers,
    naming_full_disk,
    private_part,
    publish,
    release,
    remove_tree,
)
from napari_emseg.core.lock import Claim
from napari_emseg.core.records import Provenance
from napari_emseg.core.sinks import ClosingSink, checked
from napari_emseg.core.stack import Stack
from napari_emseg.io.errors import OutputExistsError
from napari_emseg.io.formats import SECTION_SUFFIXES

_ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray")
_PRECOMPUTED = "neuroglancer_multiscale_volume"


def waiting_path(path: Path) -> Path:
    """Return where ids wait for an output that may be too small for them."""
    return path.with_name(f"{path.name}.ids.tif")


class Output:
    """The final name of an output, and the private `part` that it is written to.

    Nobody else writes the same output until it is finished or given up. What ended runs
    left of it is removed; see `core.atomic`.

    Parameters
    ----------
    path
        Final name.
    overwrite
        Replace an existing output, once the new one is whole.
    bytes_needed
        What it will take on disk, 0 if unknown.

    Raises
    ------
    OutputBusyError
        If another run is writing it.
    OSError
        As `check_output`.
    """

    def __init__(self, path: Path, *, overwrite: bool, bytes_needed: int = 0) -> None:
        check_output(path, overwrite=overwrite)
        with naming_full_disk(path):
            self._claim = Claim(path)
        try:
            _check_space(path, bytes_needed)
            clear_leftovers(path)
        except OSError:
            self._claim.release()
            raise
        self.path = path
        self.part = private_part(path)
        self._overwrite = overwrite

    @contextmanager
    def beginning(self) -> Iterator[Path]:
        """Begin the part, whose name is given; an error gives it up."""
        try:
            with naming_full_disk(self.path):
                yield self.part
        except BaseException:
            self.give_up(keep=False)
            raise

    def finish(self) -> Path:
        """Give the part its final name.

        Raises
        ------
        OSError
            If it can't be flushed or renamed, or something took the name meanwhile;
            then it is still to be given up.
        """
        check_output(self.path, overwrite=self._overwrite)
        if self.path.exists() and (self.path.is_dir() or self.part.is_dir()):
            exchange(self.part, self.path)
        else:
            publish(self.part, self.path)
        self._release()
        return self.path

    def give_up(self, *, keep: bool) -> Path | None:
        """Leave the part where it is, until the next run, or remove it."""
        try:
            if not keep:
                remove_tree(self.part)
        finally:
            self._release()
        return self.part if keep else None

    def _release(self) -> None:
        release(self.part)
        self._claim.release()


@contextmanager
def claimed_output(path: Path, *, overwrite: bool) -> Iterator[None]:
    """Keep others from writing an output while it is made.

    Raises
    ------
    OutputBusyError
        If another run is writing it.
    OSError
        As `check_output`.
    """
    check_output(path, overwrite=overwrite)
    with Claim(path):
        check_output(path, overwrite=overwrite)  # a run may have ended in between
        yield


def check_output(path: Path, *, overwrite: bool) -> None:
    """Check that an output may be written there.

    Raises
    ------
    OutputExistsError
        If there is something already and `overwrite` is not set.
    FileExistsError
        If it is a folder of something else.
    FileNotFoundError, PermissionError
        If the folder is missing or can't be written to, or if a layer or another
        program holds on to what is to be replaced (on Windows).
    """
    if path.exists():
        _check_existing(path, overwrite=overwrite)
    folder = path.absolute().parent
    if not folder.is_dir():
        msg = f"the folder {folder} does not exist"
        raise FileNotFoundError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"the folder {folder} can't be written to"
        raise PermissionError(msg)
    if path.exists():
        check_replaceable(path)


def _check_space(path: Path, bytes_needed: int) -> None:
    """Check that there is room; what ended runs left goes, so it counts as free.

    Raises
    ------
    DiskFullError
        If there isn't.
    """
    folder = path.absolute().parent
    free = shutil.disk_usage(folder).free + sum(map(_disk_bytes, leftovers(path)))
    if bytes_needed > free:
        msg = (
            f"not enough space in {folder}: {path.name} needs "
            f"{bytes_needed / 1e9:.2g} GB, {free / 1e9:.2g} GB are left"
        )
        raise DiskFullError(errno.ENOSPC, msg)


def refuse_to_replace(output: Path, inputs: Iterable[Stack]) -> None:
    """Raise a ValueError if an output would replace what a stack is read from.

    Sections are read when they are needed: what took their place would be read as EM.
    A folder counts with all that lies in it.
    """
    check_distinct([output], [p for stack in inputs for p in input_paths(stack)])


def input_paths(stack: Stack) -> list[Path]:
    """Return the files and folders that a stack is read from; none of a URL."""
    further = [Path(file) for file in stack.metadata.get("files", ())]
    if not stack.source or "://" in stack.source:
        return further
    source = Path(stack.source)
    return [source, *further] if source.exists() else further


def _disk_bytes(path: Path) -> int:
    """Return what removing a file or folder would free; a hole takes nothing."""
    if path.is_dir() and not path.is_symlink():
        return sum(_disk_bytes(each) for each in path.iterdir())
    known = path.lstat()
    return getattr(known, "st_blocks", known.st_size // 512) * 512


def _check_existing(path: Path, *, overwrite: bool) -> None:
    # first, since leave to overwrite would not help
    if path.is_dir() and not is_volume(path):
        msg = f"{path} is a folder of something else and won't be replaced"
        raise FileExistsError(msg)
    if not overwrite:
        raise OutputExistsError(path)


def check_distinct(outputs: Sequence[Path], inputs: Iterable[Path]) -> None:
    """Check that no output would replace or change an input or another output.

    That is so if they are the same file, also by a link or another spelling, or if one
    lies in the other. In a folder of sections only a file that would be read as one of
    them is refused.

    Raises
    ------
    ValueError
        It names the output.
    """
    written = _Places()
    for output in outputs:
        found = written.same(output) or written.around(output) or written.in_(output)
        if found:
            msg = (
                f"{output} and {found[0]} are both to be written, and would replace "
                "each other; give each output a place of its own"
            )
            raise ValueError(msg)
        written.add(output)
    read = list(inputs)
    for path in read:  # first, since it says more than that it lies in a folder
        if found := written.same(path):
            msg = f"{found[0]} is the input; give the output another name"
            raise ValueError(msg)
    for path in read:
        if found := [p for p in written.in_(path) if _takes(path, p)]:
            msg = f"{found[0]} lies in the input {path}; write it elsewhere"
        elif found := written.around(path):
            msg = f"{found[0]} holds the input {path}; give the output another name"
        else:
            continue
        raise ValueError(msg)


class _Places:
    """Paths by where they lead; looking one up takes no longer the more there are."""

    def __init__(self) -> None:
        self._at: dict[Path | tuple[int, int], Path] = {}
        self._below: defaultdict[Path, list[Path]] = defaultdict(list)

    def add(self, path: Path) -> None:
        resolved, *keys = _keys(path)
        self._at |= dict.fromkeys((resolved, *keys), path)
        for folder in cast("Path", resolved).parents:
            self._below[folder].append(path)

    def same(self, path: Path) -> list[Path]:
        """Return what leads to the same file or folder, whether it exists or not."""
        return [self._at[key] for key in _keys(path) if key in self._at]

    def around(self, path: Path) -> list[Path]:
        """Return the folders, also future ones, that a path lies in."""
        folders = _resolved(path).parents
        return [self._at[folder] for folder in folders if folder in self._at]

    def in_(self, folder: Path) -> list[Path]:
        """Return what lies in a folder."""
        return self._below.get(_resolved(folder), [])


def _resolved(path: Path) -> Path:
    return path.expanduser().resolve()


def _keys(path: Path) -> list[Path | tuple[int, int]]:
    """Return by what a place is known: its full path, and what exists there."""
    resolved = _resolved(path)
    try:
        found = resolved.stat()
    except OSError:
        return [resolved]
    return [resolved, (found.st_dev, found.st_ino)]


def _takes(folder: Path, output: Path) -> bool:
    """Tell if an output in the folder of an input would become a part of it."""
    if is_volume(folder) or not any(map(may_be_section, folder.iterdir())):
        return True
    beside = _resolved(folder) == _resolved(output).parent
    return beside and may_be_section(output)


def may_be_section(path: Path) -> bool:
    """Tell if a folder of sections takes a file of this name for one of them."""
    return path.suffix.lower() in SECTION_SUFFIXES and not path.name.startswith(".")


def is_zarr(path: Path) -> bool:
    """Tell a Zarr array or group from any other folder."""
    return any((path / mark).exists() for mark in _ZARR_MARKS)


def is_volume(path: Path) -> bool:
    """Tell a folder that is one output (Zarr, precomputed) from any other folder."""
    info = path / "info"
    return is_zarr(path) or (
        info.is_file() and _PRECOMPUTED in info.read_text("utf-8", "replace")
    )


class FileSink(ClosingSink):
    """An output of sections, in any order, that gets its name when it is closed.

    A format adds how a section is stored (`_store`), and says what is left to do at the
    end (`_let_go`).
    """

    readable_early: ClassVar[bool] = True
    """Whether a part can be read whose end couldn't be written."""

    def __init__(
        self,
        output: Output,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        made: Provenance | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._output = output
        self._made = made
        self._open = True

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        with naming_full_disk(self._output.path):
            self._store(checked(self, z, section), section)

    @abstractmethod
    def _store(self, z: int, section: NDArray[Any]) -> None:
        """Store a section that fits."""

    def note_settings(self, facts: Mapping[str, object]) -> None:
        """Correct what the provenance says of settings, before `close`."""
        if self._made is None or not self._open:
            return
        said = self._made.settings | dict(facts)
        if said != self._made.settings:
            self._made = self._made.model_copy(update={"settings": said})
            with naming_full_disk(self._output.path):
                self._tell(self._made)

    @abstractmethod
    def _tell(self, made: Provenance) -> None:
        """Write down how the values came to be, in place of what is said of it."""

    def _let_go(self, *, keep: bool) -> None:
        """Write what waits, unless nothing is kept, and close what is open.

        By default nothing waits and nothing is open.
        """

    def close(self) -> Path:
        """Finish, and return where the result is; doing so again does nothing.

        Raises
        ------
        OSError
            If that can't be done, e.g. for want of space; then `abort` is left to do.
        """
        if not self._open:
            return self._output.path
        with naming_full_disk(self._output.path):
            self._let_go(keep=True)
            finished = self._output.finish()
        self._open = False
        return finished

    def abort(self, *, keep: bool = False) -> Path | None:
        """Stop early; return the part that holds finished sections if it is kept.

        After `close` there is nothing to stop.
        """
        if not self._open:
            return None
        self._open = False
        try:
            self._let_go(keep=keep)
        except OSError:  # what waits can't be written; the reason is known by now
            keep = keep and self.readable_early
        finally:
            kept = self._output.give_up(keep=keep)
        return kept


SLAB_BYTES = 512 * 2**20
"""Sections that share chunks are kept until they are together, up to this size."""


def slab_depth(shape: tuple[int, int, int], itemsize: int, most: int) -> int:
    """Return how many sections chunks are deep: a power of 2, at most `most`.

    Less where sections are so large, or so few, that they can't be kept together.
    """
    section = shape[1] * shape[2] * itemsize
    return 1 << (max(1, min(most, SLAB_BYTES // section, shape[0])).bit_length() - 1)


class SlabSink(FileSink):
    """An output whose chunks hold several sections.

    Sections that share chunks are kept until they are together, so that a chunk is
    written once if sections come in order.

    Parameters
    ----------
    depth
        Sections of a chunk.
    """

    def __init__(
        self,
        output: Output,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        depth: int,
        made: Provenance | None = None,
    ) -> None:
        super().__init__(output, shape, dtype, made)
        self._depth = depth
        self._slab: dict[int, NDArray[Any]] = {}

    @abstractmethod
    def _store_run(self, z: int, values: NDArray[Any]) -> None:
        """Store sections `(n, y, x)` that follow one another from z on."""

    def _store(self, z: int, section: NDArray[Any]) -> None:
        """Keep section `z`, `(y, x)`, and write what is together."""
        if self._slab and z // self._depth != next(iter(self._slab)) // self._depth:
            self._flush()
        self._slab[z] = section.astype(self.dtype)
        if len(self._slab) == self._depth:
            self._flush()

    def _flush(self) -> None:
        """Write what was kept: at once if nothing between is missing."""
        zs = sorted(self._slab)
        together = len(zs) == zs[-1] - zs[0] + 1
        for run in [zs] if together else [[z] for z in zs]:
            self._store_run(run[0], np.stack([self._slab[z] for z in run]))
        self._slab.clear()

    def _let_go(self, *, keep: bool) -> None:
        if keep and self._slab:
            self._flush()
