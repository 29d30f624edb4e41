"""What is finished, on the disk: a line for each part, added when its results are."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Facts = dict[str, Any]
"""What a part of the work found out, as JSON has it."""


def stamp(*facts: object) -> str:
    """Return a number that is another one as soon as any of the facts is."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Ledger:
    """A file of lines, each with the stamp of a part that is done and its facts.

    A line that was cut short by a crash doesn't count. One process writes.
    """

    def __init__(self, path: Path) -> None:
        self._known: dict[str, Facts] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            entry = json.loads(line)
            self._known[entry["stamp"]] = entry["facts"]
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
        os.fsync(self._file.fileno())
        self._known[stamp] = facts

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
