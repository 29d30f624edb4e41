"""Rounds of learning: what each was made from and has come to, also in a file."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from napari_emseg.core.atomic import clear_leftovers, move, write_whole
from napari_emseg.core.paths import path_inside, read_bounded
from napari_emseg.core.settings import Heads
from napari_emseg.io.errors import UnreadableError
from napari_emseg.models.weights import (
    SUFFIX,
    Weights,
    list_weights,
    own_folder,
    read_weights,
)
from napari_emseg.training.measures import Basis, Comparison, Interval, Verdict

State = Literal["learning", "stopped", "candidate", "accepted", "rejected", "failed"]

CANDIDATES = "candidates"
"""Folder, beside accepted weights, of those that are not."""

LIST = "rounds.json"
MOST_BYTES = 2**24

OUTPUT = re.compile(rf"({CANDIDATES}/)?[^/]+{re.escape(SUFFIX)}")
"""Names of weights that a round may have in its folder."""

BROKEN_OFF = "interrupted before its end"
NOTHING_LEFT = f"{BROKEN_OFF}, and nothing was saved yet: start a new one"


def checkpoint_of(output: Path) -> Path:
    """Where an unfinished round is kept, beside its weights."""
    return output.with_name(f"{output.stem}.checkpoint")


def lesson_of(output: Path) -> Path:
    """Where it is kept what a round learns from."""
    return output.with_name(f"{output.stem}.lesson")


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One round of learning.

    Parameters
    ----------
    output
        Where its weights are, or will be.
    parent
        Name of the weights that it began with; of none if they are new.
    learnt_from, outcome
        In words; `outcome` is how the comparison ended, or what went wrong.
    weights
        What it gave; None as long as there is nothing.
    beginning
        The weights that it began with.
    found
        There is no round behind it: its weights lay there.
    verdict
        Of the comparison, such as `better`; empty where there was none.
    rolled_back
        It was accepted, and then weights from before were used again.
    """

    name: str
    state: State
    output: Path
    parent: str = ""
    learnt_from: str = ""
    outcome: str = ""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    weights: Weights | None = None
    comparison: Comparison | None = None
    beginning: Weights | None = None
    found: bool = False
    verdict: str = ""
    rolled_back: bool = False

    @property
    def checkpoint(self) -> Path:
        """What an unfinished round goes on from."""
        return checkpoint_of(self.output)

    @property
    def resumable(self) -> bool:
        """True if it was stopped and can go on."""
        return self.state in ("stopped", "candidate") and self.checkpoint.is_file()

    def forget_checkpoint(self) -> None:
        """Delete what it could go on from."""
        for path in (self.checkpoint, lesson_of(self.output)):
            path.unlink(missing_ok=True)

    @property
    def decidable(self) -> bool:
        """True if there are weights that are neither in use nor turned down."""
        return self.weights is not None and self.state in ("candidate", "stopped")

    def moved(self, folder: Path) -> tuple[Round, Weights]:
        """Move its weights into another folder; return both as they are then.

        Raises
        ------
        OSError
            If that can't be done, or others of that name are there; then they stay
            where they are.
        """
        folder.mkdir(parents=True, exist_ok=True)
        target = path_inside(folder, self.output.name)
        if target.exists():
            msg = f"{target} exists already, and isn't replaced"
            raise FileExistsError(errno.EEXIST, msg)
        move(self.output, target)
        weights = read_weights(target)
        return replace(self, output=target, weights=weights), weights


class _Beginning(BaseModel):
    """By what the weights are found again that a round began with."""

    model_config = ConfigDict(extra="ignore")

    name: str
    sha256: str
    depth: int | None = None
    heads: Heads = "last"

    @classmethod
    def of(cls, weights: Weights) -> _Beginning:
        """Look at weights, or at a part of them."""
        name = (weights.whole or weights).card.name
        return cls(
            name=name, sha256=weights.sha256, depth=weights.depth, heads=weights.heads
        )

    def find(self, folder: Path) -> Weights | None:
        """Look among the weights of a folder, the user's own, and bundled ones."""
        for weights in list_weights(own_folder(), folder).values():
            if weights.card.name == self.name and weights.sha256 == self.sha256:
                return weights.at(self.depth, self.heads)
        return None


class _Measurement(BaseModel):
    """A comparison in the file, without the pictures of what changed."""

    model_config = ConfigDict(extra="ignore")

    verdict: Verdict
    basis: Basis
    pixels: int
    current: dict[str, float]
    candidate: dict[str, float]
    differences: dict[str, tuple[float, float | None, float | None]]
    """Each with its interval, if it has one."""

    @classmethod
    def of(cls, found: Comparison) -> _Measurement:
        """Keep what a table shows."""
        return cls(
            verdict=found.verdict,
            basis=found.basis,
            pixels=found.pixels,
            current=found.current,
            candidate=found.candidate,
            differences={
                name: (d.value, *((d.low, d.high) if d.known else (None, None)))
                for name, d in found.differences.items()
            },
        )

    def comparison(self) -> Comparison:
        """Return what was kept."""
        shared = self.current.keys() & self.candidate.keys()
        differences = {
            name: Interval(*(nan if end is None else end for end in told))
            for name, told in self.differences.items()
            if name in shared
        }
        return Comparison(
            self.verdict,
            self.basis,
            self.pixels,
            (),
            self.current,
            self.candidate,
            differences,
        )


class _Line(BaseModel):
    """A round in the file."""

    model_config = ConfigDict(extra="ignore")

    name: str
    state: State
    file: str
    parent: str = ""
    learnt_from: str = ""
    outcome: str = ""
    verdict: str = ""
    comparison: _Measurement | None = None
    began: AwareDatetime
    beginning: _Beginning | None = None
    # beside the state, so that a version which doesn't know it reads the list as well
    rolled_back: bool = False


class _Listed(BaseModel):
    model_config = ConfigDict(extra="ignore")

    classes: tuple[str, ...] = ()
    rounds: tuple[_Line, ...] = Field(default=())


def write_rounds(folder: Path, rounds: Iterable[Round], classes: Iterable[str]) -> None:
    """Write a list of rounds beside their weights, as a whole or not at all.

    Raises
    ------
    OSError
        If it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        _line(r, folder)
        for r in rounds
        if r.output.is_relative_to(folder) and not r.found
    ]
    content: dict[str, Any] = {"classes": list(classes), "rounds": lines}
    clear_leftovers(folder / LIST)
    write_whole(folder / LIST, json.dumps(content, indent=2) + "\n")


def _line(round_: Round, folder: Path) -> dict[str, Any]:
    found = round_.comparison
    line = _Line(
        name=round_.name,
        state=round_.state,
        file=round_.output.relative_to(folder).as_posix(),
        parent=round_.parent,
        learnt_from=round_.learnt_from,
        outcome=round_.outcome,
        verdict=round_.verdict,
        comparison=None if found is None else _Measurement.of(found),
        began=round_.began,
        beginning=None if round_.beginning is None else _Beginning.of(round_.beginning),
        rolled_back=round_.rolled_back,
    )
    return line.model_dump(mode="json")


def read_rounds(folder: Path) -> tuple[list[Round], tuple[str, ...]]:
    """Read what `write_rounds` wrote; rounds whose weights are gone are left out.

    A round that was learning then was interrupted; it is said if nothing is left of it.
    Weights that no round knows are among them, see `found_weights`.

    Returns
    -------
    rounds
    classes
        Names by code.

    Raises
    ------
    OSError
        If the list can't be read or is damaged, or a round names a file anywhere else.
    """
    try:
        content = read_bounded(folder / LIST, MOST_BYTES)
        listed = _Listed.model_validate_json(content)
    except FileNotFoundError:
        listed = _Listed()
    except ValidationError as e:
        why = " ".join(e.errors(include_url=False)[0]["msg"].split())
        msg = f"{folder / LIST} is damaged: {why}"
        raise UnreadableError(msg) from e
    found = [_read(line, folder) for line in listed.rounds]
    rounds = [
        r
        for r in found
        if r.weights is not None or r.resumable or r.outcome == NOTHING_LEFT
    ]
    rounds += found_weights(folder, {r.output for r in rounds})
    return sorted(rounds, key=lambda r: r.began), listed.classes


def found_weights(folder: Path, known: Collection[Path] = ()) -> list[Round]:
    """Return rounds of which only the weights are there; they count as accepted.

    Parameters
    ----------
    known
        Weights of other rounds, which are left out.
    """
    rounds = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        weights = None if path in known else _weights(path)
        if weights is not None:
            rounds.append(
                Round(
                    path.stem,
                    "accepted",
                    path,
                    learnt_from=weights.card.summary,
                    began=datetime.fromtimestamp(path.stat().st_mtime, UTC),
                    weights=weights,
                    found=True,
                )
            )
    return rounds


def _read(line: _Line, folder: Path) -> Round:
    output = path_inside(folder, line.file, allowed=OUTPUT)
    round_ = Round(
        line.name,
        line.state,
        output,
        parent=line.parent,
        learnt_from=line.learnt_from,
        outcome=line.outcome,
        verdict=line.verdict,
        comparison=None if line.comparison is None else line.comparison.comparison(),
        began=line.began,
        weights=_weights(output),
        rolled_back=line.rolled_back,
    )
    if line.state == "learning":
        round_ = replace(round_, state="stopped", outcome=BROKEN_OFF)
        if not (round_.decidable or round_.resumable):
            round_ = replace(round_, state="failed", outcome=NOTHING_LEFT)
    if line.beginning is not None and (round_.decidable or round_.resumable):
        round_ = replace(round_, beginning=line.beginning.find(folder))
    return round_


def _weights(path: Path) -> Weights | None:
    try:
        return read_weights(path)
    except (OSError, ValueError):
        return None
