"""What is finished, on the disk: a line for each part, added when its results are."""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from napari_emseg.core.errors import first_fault
from napari_emseg.core.sinks import Closing

Facts = dict[str, Any]
"""What a part of the work found out, as JSON has it."""


SUM = "sum"
"""Of facts: the checksum of the files that a part has written."""


class _Line(BaseModel):
    stamp: str
    facts: Facts


def stamp(*facts: object) -> str:
    """Return a number that is another one as soon as any of the facts is."""
    # a canonical form: the same facts in another order must give the same number
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def checksum(files: Iterable[Path], *, content: bool = True) -> str:
    """Return what changes when one of these files does, or comes or goes.

    Parameters
    ----------
    content
        Read them; else only their names and sizes count.

    Raises
    ------
    OSError
        If one can't be read.
    """
    paths = sorted(files)
    root = os.path.commonpath(paths) if paths else ""
    # CRC-32 of the contents: against damage by accident, not by intent, and quick
    digest = hashlib.blake2b(digest_size=12)
    for path in paths:
        facts = [os.path.relpath(path, root), path.stat().st_size]
        if content:
            facts.append(_crc(path))
        digest.update(repr(facts).encode())
    return digest.hexdigest()


def sum_of(outputs: Iterable[Path]) -> str:
    """Return what changes when a file of results comes, goes, or has another size."""
    files: list[Path] = []
    for path in outputs:
        inside = path.rglob("*") if path.is_dir() else [path]
        files += [p for p in inside if p.is_file()]
    return checksum(files, content=False)


def _crc(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while piece := file.read(2**22):
            found = zlib.crc32(piece, found)
    return found


class CompletionLog(Closing):
    """A file of lines, each with the stamp of a part that is done and its facts.

    A line that was cut short by a crash doesn't count. One process writes.

    Raises
    ------
    ValueError
        If it holds what no ledger does.
    """

    def __init__(self, path: Path) -> None:
        self._known: dict[str, Facts] = {}
        content = path.read_bytes() if path.exists() else b""
        # a line counts from its line end on: what follows the last one is cut off
        whole = content.rfind(b"\n") + 1
        for nth, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entry = _Line.model_validate_json(line)
            except ValidationError as e:
                msg = f"{path} is damaged in line {nth}: {first_fault(e)}"
                raise ValueError(msg) from e
            self._known[entry.stamp] = entry.facts
        self._file = path.open("ab")
        self._file.truncate(whole)

    def __contains__(self, stamp: str) -> bool:
        return stamp in self._known

    def __len__(self) -> int:
        return len(self._known)

    def facts(self, stamp: str) -> Facts | None:
        """Return what is known of a part that is done; None if it isn't."""
        return self._known.get(stamp)

    def record(self, stamp: str, facts: Facts) -> None:
        """Say that a part is done; it is on the disk when this returns.

        Raises
        ------
        OSError
            If it can't be written.
        """
        line = json.dumps({"stamp": stamp, "facts": facts})
        self._file.write(f"{line}\n".encode())
        self._file.flush()
        # the files of the part are on the disk before its line is: see `run_task`
        os.fsync(self._file.fileno())
        self._known[stamp] = facts

    def close(self) -> None:
        """Close the file."""
        self._file.close()
