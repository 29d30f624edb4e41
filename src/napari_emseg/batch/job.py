"""A batch as it is asked for, and what of it is remembered in the folder of results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from napari_emseg._installed import __version__
from napari_emseg.batch.inputs import Input
from napari_emseg.batch.settings import BatchSettings
from napari_emseg.batch.where import ClusterSettings
from napari_emseg.core.atomic import remove_tree, write_whole
from napari_emseg.core.errors import SettingError, first_fault
from napari_emseg.core.lock import LOCK, WHO, Hold
from napari_emseg.core.paths import UnsafePathError, is_link, path_inside, read_bounded
from napari_emseg.core.settings import Precision
from napari_emseg.models.weights import Weights
from napari_emseg.segmentation.edge_classifier import EdgeClassifier

MOST_BYTES = 2**26
"""Of `batch.json`; an input takes about 100."""

FOLDER, MEMORY, LEDGER = ".emseg-batch", "batch.json", "ledger.jsonl"

EDGES = "edges.json"
"""A classifier of edges in the folder of a batch, where workers find it."""

OWN_EDGES = "-edges-"
"""Between the fingerprint of an input and the checksum of its project's classifier."""

FORMAT = 1
"""Of what a batch keeps until it ends, and of how parts are computed.

A batch goes on whichever version began it, as long as this is the same. It is raised
when a change of the program makes parts that can't stand beside those of before.
"""


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """What a batch is to do.

    Parameters
    ----------
    weights
        None if inputs are probabilities.
    out
        Folder of the results; it is made if it isn't there.
    resume
        Go on with what was interrupted.
    overwrite
        Replace results that are there, and begin anew.
    where
        What runs it.
    recipe
        Name and checksum of the recipe that the settings come from, for results to say.
    edges
        A classifier of edges for cells by one graph, instead of the usual one and of
        those of projects.
    spared
        Files that settings come from: results don't take their place.
    """

    inputs: tuple[Input, ...]
    out: Path
    weights: Weights | None = None
    settings: BatchSettings = field(default_factory=BatchSettings)
    where: ClusterSettings = ClusterSettings()  # noqa: RUF009 - frozen
    resume: bool = False
    overwrite: bool = False
    recipe: str | None = None
    edges: EdgeClassifier | None = None
    spared: tuple[Path, ...] = ()
    precision_reason: str = ""
    """Why the precision is what it is, where it was chosen; see `planning`."""
    settled: frozenset[str] = frozenset()
    """Settings that were left open; results are finished whatever these were for them.
    """

    @property
    def folder(self) -> Path:
        """Where the batch keeps what is unfinished."""
        return self.out / FOLDER


class UnfinishedBatchError(SettingError, FileExistsError):
    """The folder of results holds a batch that was interrupted."""

    remedies: Mapping[str, object] = {"resume": True, "overwrite": True}


class DifferentBatchError(SettingError, ValueError):
    """What is there was made of other inputs or by other settings, or is damaged."""

    remedies: Mapping[str, object] = {"out": None, "overwrite": True}


class BatchStoppedError(SettingError, OSError):
    """No part can be done any more; what is finished is kept."""

    remedies: Mapping[str, object] = {"resume": True}


class _Head(BaseModel):
    """What of `batch.json` any version can read; files of 0.1.0 say no format."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    version: str = __version__


class Memory(_Head):
    """`batch.json`: by what a batch knows that it may go on.

    Parameters
    ----------
    version
        Of the program that worked on it last.
    earlier
        Versions that did before, the one that began it first.
    precision_reason
        Why the precision is what it is, where it was chosen.
    settings
        Those that results depend on.
    inputs
        Fingerprints by name.
    """

    earlier: tuple[str, ...] = ()
    precision_reason: str = ""
    weights: str | None = None
    settings: dict[str, Any]
    inputs: dict[str, str]

    @property
    def versions(self) -> tuple[str, ...]:
        """All versions that worked on it, in their order."""
        return (*self.earlier, self.version)

    @property
    def precision(self) -> Precision:
        """What the network computes in; `auto` is what isn't bf16 or int8."""
        predict = _as_now(self.settings).get("predict")
        name = predict.get("precision") if isinstance(predict, dict) else None
        return next((one for one in get_args(Precision) if one == name), "auto")

    def after(self, before: Memory) -> Memory:
        """Return it as going on with what an earlier run began.

        Settings stay as they were written down where they mean the same: parts that are
        done are known by them.
        """
        alike = not _changed(before.settings, self.settings)
        settings = before.settings if alike else self.settings
        earlier = tuple(v for v in before.versions if v != self.version)
        return self.model_copy(update={"settings": settings, "earlier": earlier})

    def differences(self, now: Memory, settled: Collection[str] = ()) -> list[str]:
        """Return in words what is not as it was.

        Parameters
        ----------
        settled
            Settings that may be others, such as `predict.tile`.
        """
        if self.format != now.format:
            return [_other_format(self, now)]
        found = [] if self.weights == now.weights else ["the weights are others"]
        found += _changed(self.settings, now.settings, settled)
        found += [
            _input_changed(name, digits, now.inputs[name])
            for name, digits in self.inputs.items()
            if now.inputs.get(name, digits) != digits
        ]
        return found


def with_edges(fingerprint: str, own: EdgeClassifier | None) -> str:
    """Return the fingerprint of an input whose project brings a classifier of edges."""
    return fingerprint if own is None else f"{fingerprint}{OWN_EDGES}{own.sha256}"


def without_edges(fingerprint: str) -> str:
    """Return the fingerprint of an input alone."""
    return fingerprint.partition(OWN_EDGES)[0]


def edges_path(job: BatchConfig, sha256: str) -> Path:
    """Return where a batch keeps a classifier of edges, for workers and to go on."""
    if job.edges is not None and sha256 == job.edges.sha256:
        return path_inside(job.folder, EDGES)
    return path_inside(job.folder, f"edges-{sha256[:16]}.json")


def _input_changed(name: str, before: str, now: str) -> str:
    if without_edges(before) == without_edges(now):
        own = (_shown(d.partition(OWN_EDGES)[2] or None) for d in (before, now))
        return "edges of {} was {}, is {}".format(name, *own)
    return f"{name} has changed"


def _other_format(then: _Head, now: _Head) -> str:
    return (
        f"napari-emseg {then.version} keeps batches in format {then.format}, and this "
        f"version, {now.version}, in {now.format}"
    )


def _changed(
    before: dict[str, Any], now: dict[str, Any], settled: Collection[str] = ()
) -> list[str]:
    """Return in words which settings are others.

    One that an earlier version didn't know does at its default what that version did.
    """
    # nothing is noted of some while they are at their default, see `facts_of`
    plain = _flat(BatchSettings().model_dump(mode="json")) | {"edges": None}
    then, here = (plain | _flat(_as_now(said)) for said in (before, now))
    unknown = [
        f"{name} was {then[name]}, and version {__version__} has no such setting"
        for name in sorted({*then} - {*here})
    ]
    return unknown + [
        f"{name} was {_shown(then.get(name))}, is {_shown(value)}"
        for name, value in sorted(here.items())
        if then.get(name) != value and name not in settled
    ]


def _shown(value: Any) -> str:
    """Return a setting in words; of a checksum its beginning."""
    if value is None:
        return "none"
    is_checksum = isinstance(value, str) and len(value) == 64
    return f"{value[:12]}…" if is_checksum else f"{value}"


def _as_now(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as an earlier version wrote them, by their names of now."""
    predict = settings.get("predict")
    if not isinstance(predict, dict) or "half_precision" not in predict:
        return settings
    now = {name: v for name, v in predict.items() if name != "half_precision"}
    # what "auto" is in a batch that has not chosen: float32, but float16 on CUDA
    now.setdefault("precision", "auto" if predict["half_precision"] else "float32")
    return settings | {"predict": now}


def remembered(job: BatchConfig) -> Memory | None:
    """Return what an unfinished batch left in the folder of results.

    Raises
    ------
    OSError
        If it can't be read.
    ValueError
        If it holds what no batch has written, or none of this version.
    """
    path = path_inside(job.folder, MEMORY)
    if not path.exists():
        return None
    text = read_bounded(path, MOST_BYTES)
    try:
        head = _Head.model_validate_json(text)
        if head.format > FORMAT:
            now = _Head(format=FORMAT)
            msg = f"{job.out} holds an unfinished batch: {_other_format(head, now)}"
            raise DifferentBatchError(msg)
        return Memory.model_validate_json(text)
    except ValidationError as e:
        msg = f"{path} is damaged ({first_fault(e)})"
        raise DifferentBatchError(msg) from e


def remember(job: BatchConfig, memory: Memory) -> None:
    """Write `batch.json`."""
    text = json.dumps(memory.model_dump(mode="json"), indent=1)
    write_whole(job.folder / MEMORY, f"{text}\n".encode())


def clear_folder(job: BatchConfig) -> None:
    """Remove what a batch that is finished was made with.

    The memory goes before the ledger, so what a kill leaves of it is either whole or
    known to be finished.
    """
    for path in sorted(job.folder.iterdir()):
        if path.name not in (MEMORY, LEDGER, LOCK, WHO):
            remove_tree(path)
    # in this order, so that whatever a kill leaves is known for what it is
    for name in (MEMORY, LEDGER, WHO, LOCK):
        with suppress(OSError):  # Windows keeps the lock as long as it is held
            (job.folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        job.folder.rmdir()


def refuse_links(job: BatchConfig) -> None:
    """Raise UnsafePathError if anything that a batch writes to leads elsewhere."""
    for folder, folders, names in os.walk(job.folder):
        for name in (*folders, *names):
            path = Path(folder, name)
            if is_link(path):
                msg = f"{path} is a link, and links aren't followed: remove it"
                raise UnsafePathError(msg)


@contextmanager
def output_held(job: BatchConfig) -> Iterator[Callable[[], None]]:
    """Hold the right to write to the folder of results.

    Yields what is called when the batch begins. One that is refused or cancelled
    before leaves nothing that wasn't there.

    Raises
    ------
    BlockingIOError
        If another batch has it.
    OSError
        If the folder can't be made or written to, or is a link.
    """
    made = [p for p in (job.out, *job.out.parents) if not p.exists()]
    there = _names_in(job.folder)
    try:
        held = _lock(job)
    except BlockingIOError:  # what is there is another batch's
        raise
    except OSError:
        _remove_begun(job, there, made)
        raise
    begun = Event()
    try:
        yield begun.set
    except BaseException:
        if os.name == "nt":  # where a file that is held can't be removed
            held.release()
        if not begun.is_set():
            _remove_begun(job, there, made)
        raise
    finally:
        held.release()


def _names_in(folder: Path) -> frozenset[str] | None:
    """Return what is in a folder; None if it isn't there."""
    return frozenset(os.listdir(folder)) if folder.is_dir() else None


def _remove_begun(
    job: BatchConfig, there: frozenset[str] | None, made: Sequence[Path]
) -> None:
    """Remove what a batch made before it was refused: files, then empty folders."""
    for name in (_names_in(job.folder) or frozenset()) - (there or frozenset()):
        with suppress(OSError):
            (job.folder / name).unlink()
    for folder in [*([job.folder] if there is None else []), *made]:
        with suppress(OSError):  # not empty: somebody else's
            folder.rmdir()


def _lock(job: BatchConfig) -> Hold:
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        path_inside(job.out, FOLDER)
        path_inside(job.folder, LOCK)
        job.folder.mkdir(parents=True, exist_ok=True)
        return Hold(job.folder)
    except BlockingIOError as e:
        msg = f"{job.out}: another batch writes to it ({e})"
        raise BlockingIOError(msg) from e
    except UnsafePathError:
        raise
    except OSError as e:
        why = e.strerror or str(e)
        msg = f"{job.out} can't be written to ({why}): choose another folder of results"
        raise type(e)(msg) from e


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
