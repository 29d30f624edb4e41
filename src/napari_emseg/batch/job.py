"""A batch as it is asked for, and what of it is remembered in the folder of results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from napari_emseg import __version__
from napari_emseg.batch.inputs import Input
from napari_emseg.batch.settings import BatchSettings
from napari_emseg.batch.where import Where
from napari_emseg.core.atomic import write_whole
from napari_emseg.core.lock import Hold
from napari_emseg.models.weights import Weights

FOLDER, MEMORY, LEDGER = ".emseg-batch", "batch.json", "ledger.jsonl"


@dataclass(frozen=True, slots=True)
class Job:
    """What a batch is to do.

    Parameters
    ----------
    weights
        None if inputs are probabilities.
    out
        Folder of the results; it is made if it isn't there.
    resume
        Go on with what was broken off.
    overwrite
        Replace results that are there, and begin anew.
    where
        What runs it.
    """

    inputs: tuple[Input, ...]
    out: Path
    weights: Weights | None = None
    settings: BatchSettings = BatchSettings()  # noqa: RUF009 - frozen
    where: Where = Where()  # noqa: RUF009 - frozen
    resume: bool = False
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """Where the batch keeps what is unfinished."""
        return self.out / FOLDER


class Memory(BaseModel):
    """`batch.json`: by what a batch knows that it may go on.

    `settings` are those that results depend on; `inputs` are fingerprints by name.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str = __version__
    weights: str | None = None
    settings: dict[str, Any]
    inputs: dict[str, str]

    def differences(self, now: Memory) -> list[str]:
        """Return in words what is not as it was."""
        found = []
        if self.version != now.version:
            found.append(f"the program was version {self.version}, is {now.version}")
        if self.weights != now.weights:
            found.append("the weights are others")
        before, after = _flat(self.settings), _flat(now.settings)
        found += [
            f"{name} was {before.get(name)}, is {after.get(name)}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
        found += [
            f"{name} has changed"
            for name, digits in self.inputs.items()
            if now.inputs.get(name, digits) != digits
        ]
        return found


def remembered(job: Job) -> Memory | None:
    """Return what an unfinished batch left in the folder of results.

    Raises
    ------
    OSError
        If it can't be read.
    """
    path = job.folder / MEMORY
    return Memory.model_validate_json(path.read_bytes()) if path.exists() else None


def remember(job: Job, memory: Memory) -> None:
    """Write `batch.json`."""
    text = json.dumps(memory.model_dump(mode="json"), indent=1)
    write_whole(job.folder / MEMORY, f"{text}\n".encode())


def hold(job: Job) -> Hold:
    """Take the right to write to the folder of results, until it is released.

    Raises
    ------
    BlockingIOError
        If another batch has it.
    OSError
        If the folder can't be made or written to.
    """
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        return Hold(job.folder)
    except BlockingIOError as e:
        msg = f"{job.out}: another batch writes to it ({e})"
        raise BlockingIOError(msg) from e
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
