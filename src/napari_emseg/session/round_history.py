"""All rounds of one window, by the folder in which their weights are."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from psygnal import Signal

from napari_emseg.models.weights import SUFFIX, Weights, list_weights, own_folder
from napari_emseg.session.rounds import (
    CANDIDATES,
    Round,
    found_weights,
    read_rounds,
    write_rounds,
)


class RoundHistory:
    """Keeps rounds, and writes their list into a project.

    The rounds of a folder stay known when another one is chosen, and one that is on
    its way ends up where it began.

    Signals: `changed` when any round, or the folder, is another one.
    """

    changed = Signal()

    def __init__(self) -> None:
        self.trouble = ""
        """Why the list of rounds can't be read or written, if it can't."""
        self._unreadable: dict[Path, str] = {}
        self._rounds: dict[Path, tuple[Round, ...]] = {}
        self._listed: set[Path] = set()
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """Where accepted weights are; candidates lie in a folder of their own in it."""
        return self._folder or own_folder()

    def choose(self, folder: Path | None) -> tuple[str, ...]:
        """Use another folder, with the list that is in it; None: the user's own.

        Returns
        -------
        Names of classes, by code, of a folder that is seen for the first time.
        """
        self._folder = folder
        names: tuple[str, ...] = ()
        if folder is not None and folder not in self._listed:
            self._listed.add(folder)
            try:
                rounds, names = read_rounds(folder)
            except OSError as e:  # its list stays as it is, for whoever can mend it
                rounds = found_weights(folder)
                self._unreadable[folder] = f"{e}; no rounds are written there"
            self._rounds[folder] = tuple(rounds)
        self.changed.emit()
        return names

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Rounds of the folder, and one of another that is on its way; oldest first."""
        here = self._rounds.get(self.folder, ())
        elsewhere = (
            round_
            for folder, rounds in self._rounds.items()
            for round_ in rounds
            if folder != self.folder and round_.state == "learning"
        )
        return (*here, *elsewhere)

    def find(self, name: str) -> Round | None:
        """Return a round by its name."""
        known = (*self.rounds, *(r for rounds in self._rounds.values() for r in rounds))
        return next((r for r in known if r.name == name), None)

    def known(self, name: str) -> Round:
        """Return a round by its name.

        Raises
        ------
        ValueError
            If there is none.
        """
        found = self.find(name)
        if found is None:
            msg = f"there is no round {name!r}"
            raise ValueError(msg)
        return found

    def add(self, round_: Round) -> None:
        """Begin a round in the folder."""
        self._rounds[self.folder] = (*self._rounds.get(self.folder, ()), round_)
        self.changed.emit()

    def change(self, name: str, **what: object) -> Round:
        """Say something else of a round.

        Raises
        ------
        ValueError
            If there is none of that name.
        """
        return self.put(replace(self.known(name), **what))  # type: ignore[arg-type]

    def put(self, round_: Round) -> Round:
        """Take a round in place of the one of its name."""
        before = self.known(round_.name)
        for folder, rounds in self._rounds.items():
            if before in rounds:
                self._rounds[folder] = tuple(
                    round_ if r is before else r for r in rounds
                )
        self.changed.emit()
        return round_

    def write(self, classes: Iterable[str]) -> None:
        """Write lists into folders that were chosen; what fails is in `trouble`.

        Of the user's own folder the cards alone tell.
        """
        self.trouble = self._unreadable.get(self.folder, "")
        for folder in self._listed.difference(self._unreadable):
            try:
                write_rounds(folder, self._rounds.get(folder, ()), classes)
            except OSError as e:
                self.trouble = f"the list of rounds can't be written: {e}"

    def free_name(self, stem: str) -> str:
        """Return a name that no round has, and no file of the folder."""
        taken = {r.name for rounds in self._rounds.values() for r in rounds}
        for folder in (self.folder, self.folder / CANDIDATES):
            taken |= {path.stem for path in folder.glob(f"*{SUFFIX}")}
        n = 1
        while f"{stem}-round{n}" in taken:
            n += 1
        return f"{stem}-round{n}"

    def weights_named(self, name: str) -> Weights | None:
        """Return accepted or bundled weights by their name."""
        return list_weights(own_folder(), self.folder).get(name)
