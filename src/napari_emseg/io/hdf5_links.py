"""Walk through an HDF5 file and what its links name, without leaving its folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import h5py

from napari_emseg.io.errors import UnreadableError

DEEPEST = 32
"""Groups in groups, and links that name links; more is a circle."""

MOST_LINKED = 2_000
"""Names behind links to groups that are listed; links multiply them without end."""

Node: TypeAlias = h5py.Group | h5py.Dataset


@dataclass
class Walk:
    """All datasets of a file, those behind soft and external links too.

    External links are followed into files of the same folder and of folders in it.

    Parameters
    ----------
    file
        The open file.
    refused
        Why a link isn't followed, by its path; filled by `datasets`.
    files
        Other files that links led to; likewise.
    """

    file: h5py.File
    refused: dict[str, str] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)
    _seen: set[h5py.h5g.GroupID] = field(default_factory=set)
    _linked: int = 0

    def datasets(self) -> Iterator[tuple[str, h5py.Dataset]]:
        """Yield the path and the dataset, in the order of paths.

        Raises
        ------
        OSError, KeyError, RuntimeError
            From h5py, if the file is damaged.
        """
        yield from self._below(self.file, "", (), through_link=False)

    def _below(
        self,
        group: h5py.Group,
        path: str,
        above: tuple[h5py.h5g.GroupID, ...],
        *,
        through_link: bool,
    ) -> Iterator[tuple[str, h5py.Dataset]]:
        if group.id in above:  # a link back to a group that it is in
            return
        if not through_link:  # as often as it has hard links, but once is enough
            if group.id in self._seen:
                return
            self._seen.add(group.id)
        for name in group:
            key = f"{path}/{name}".strip("/")
            self._linked += through_link
            if self._linked > MOST_LINKED or key.count("/") > DEEPEST:
                return
            try:
                node = self._child(group, name, 0)
            except UnreadableError as e:
                self.refused[key] = f"{key} {e}"
                continue
            if isinstance(node, h5py.Dataset):
                yield key, node
            elif isinstance(node, h5py.Group):
                link = not isinstance(group.get(name, getlink=True), h5py.HardLink)
                inside = (*above, group.id)
                linked = through_link or link
                yield from self._below(node, key, inside, through_link=linked)

    def _child(self, group: h5py.Group, name: str, hops: int) -> Node:
        """Return what a name in a group stands for.

        Raises
        ------
        UnreadableError
            If it is a link that leads outside, nowhere or in a circle.
        """
        if hops > DEEPEST:
            msg = "is a link that leads in a circle"
            raise UnreadableError(msg)
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            file = self._file(group.file, link.filename)
            return self._at(file, link.path, hops + 1)
        if isinstance(link, h5py.SoftLink):
            start = group.file if link.path.startswith("/") else group
            return self._at(start, link.path, hops + 1)
        node: Node = group[name]
        return node

    def _at(self, node: Node, path: str, hops: int) -> Node:
        """Return what a path stands for, each part of which may be a link."""
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if not isinstance(node, h5py.Group) or name not in node.keys():  # noqa: SIM118
                msg = f"is a link to {path}, which isn't there"
                raise UnreadableError(msg)
            node = self._child(node, name, hops)
        return node

    def _file(self, beside: h5py.File, name: str) -> h5py.File:
        """Open the file that a link names, if it lies in the same folder or below."""
        place = (Path(beside.filename).resolve().parent / name).resolve()
        if not place.is_relative_to(Path(self.file.filename).resolve().parent):
            msg = (
                f"is a link to {name}, outside the folder of the file, and isn't "
                "followed; open that file, or copy it beside"
            )
            raise UnreadableError(msg)
        if not place.is_file():
            msg = f"is a link to {name}, which isn't there"
            raise UnreadableError(msg)
        if place == Path(beside.filename).resolve():
            return beside
        self.files.add(place)
        try:
            return h5py.File(place, "r")
        except OSError as e:
            msg = f"is a link to {name}, which can't be opened ({e})"
            raise UnreadableError(msg) from e
