"""Rounds of learning: what each was made from and has come to, also in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_emseg.core.atomic import clear_leftovers, move, write_whole
from napari_emseg.core.settings import Heads
from napari_emseg.models.weights import (
    SUFFIX,
    Weights,
    list_weights,
    own_folder,
    read_weights,
)

if TYPE_CHECKING:
    from napari_emseg.train.acceptance import Comparison

State = Literal["learning", "stopped", "candidate", "accepted", "rejected", "failed"]

CANDIDATES = "candidates"
"""Folder, beside accepted weights, of those that are not."""

LIST = "rounds.json"

BROKEN_OFF = "broken off before its end"
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
            If that can't be done; then they stay where they are.
        """
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / self.output.name
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


class _Line(BaseModel):
    """A round in the file."""

    model_config = ConfigDict(extra="ignore")

    name: str
    state: State
    file: str
    parent: str = ""
    learnt_from: str = ""
    outcome: str = ""
    began: datetime
    beginning: _Beginning | None = None


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
    line = _Line(
        name=round_.name,
        state=round_.state,
        file=round_.output.relative_to(folder).as_posix(),
        parent=round_.parent,
        learnt_from=round_.learnt_from,
        outcome=round_.outcome,
        began=round_.began,
        beginning=None if round_.beginning is None else _Beginning.of(round_.beginning),
    )
    return line.model_dump(mode="json")


def read_rounds(folder: Path) -> tuple[list[Round], tuple[str, ...]]:
    """Read what `write_rounds` wrote; rounds whose weights are gone are left out.

    A round that was learning then was broken off; it is said if nothing is left of it.
    Weights that no round knows, such
    as those of another machine, count as accepted.

    Returns
    -------
    rounds
    classes
        Names by code.
    """
    try:
        text = (folder / LIST).read_text(encoding="utf-8")
        listed = _Listed.model_validate_json(text)
    except (OSError, ValidationError):
        listed = _Listed()
    found = [_read(line, folder) for line in listed.rounds]
    rounds = [
        r
        for r in found
        if r.weights is not None or r.resumable or r.outcome == NOTHING_LEFT
    ]
    known = {r.output for r in rounds}
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
    return sorted(rounds, key=lambda r: r.began), listed.classes


def _read(line: _Line, folder: Path) -> Round:
    output = folder / line.file
    round_ = Round(
        line.name,
        line.state,
        output,
        parent=line.parent,
        learnt_from=line.learnt_from,
        outcome=line.outcome,
        began=line.began,
        weights=_weights(output),
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
