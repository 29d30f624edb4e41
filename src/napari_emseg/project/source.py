"""The stack that a project is about: where it is, and whether it is still the same."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.io.fingerprint import files_of
from napari_emseg.project.state import Fingerprint, SourceReference
from napari_emseg.sample import bundled

SECTIONS = 3
"""So many sections are read to know a stack again: the first, the last, between."""


class StackNotFoundError(FileNotFoundError):
    """The stack isn't where it was; whoever asks the user passes the new place on.

    Parameters
    ----------
    reference
        What is known of it: name, shape, fingerprint.
    tried
        Where it was looked for.
    remedy
        How else to get it, if that is known.
    """

    def __init__(
        self,
        reference: SourceReference,
        tried: tuple[Path, ...],
        remedy: str = "",
    ) -> None:
        self.reference = reference
        self.tried = tried
        self.remedy = remedy
        z, y, x = reference.shape
        places = ", ".join(map(str, tried))
        where = f"it is not at {places}" if tried else "it never was a file"
        super().__init__(
            f"the stack {reference.name} ({z} sections of {y} × {x} px; "
            f"{reference.fingerprint.words}) was not found: {where}; "
            f"{remedy or 'say where it is now'}"
        )


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A project's stack, and whether it still is what was worked on.

    Parameters
    ----------
    state
        `same`; or `changed`, if other values were found.
    words
        What has changed, for the user; empty if nothing.
    """

    stack: Stack
    state: Literal["same", "changed"]
    words: str = ""


def refer_to(stack: Stack, folder: Path) -> SourceReference:
    """Return where a stack is, as seen from a project's folder, and how to know it.

    Reads three sections.

    Raises
    ------
    OSError, ValueError
        From the reader.
    """
    absolute = None if stack.source is None else Path(stack.source).absolute()
    return SourceReference(
        name=stack.name,
        path=None if absolute is None else _relative(absolute, folder),
        absolute=None if absolute is None else str(absolute),
        choice=stack.metadata.get("choice", {}),
        shape=stack.shape,
        voxel_size_nm=stack.voxel_size_nm,
        fingerprint=_fingerprint(stack, _some(stack.shape[0])),
    )


def seen_from(reference: SourceReference, folder: Path) -> SourceReference:
    """Return a reference for a project in another folder."""
    if reference.absolute is None:
        return reference
    path = _relative(Path(reference.absolute), folder)
    return reference.model_copy(update={"path": path})


def find_source(reference: SourceReference, folder: Path) -> Path:
    """Return where the stack is now, from what the project remembers.

    Raises
    ------
    StackNotFoundError
        If it is not there.
    """
    tried = []
    if reference.path is not None:
        tried.append(Path(os.path.normpath(folder.absolute() / reference.path)))
    if reference.absolute is not None:
        tried.append(Path(reference.absolute))
        # beside the project: where stack and project were moved together
        tried.append(folder.absolute().parent / Path(reference.absolute).name)
    for place in tried:
        if files_of(place):
            return place
    sample, remedy = bundled.name_in_sample(reference.absolute or ""), ""
    if sample is not None:
        try:
            return bundled.path(sample)
        except ValueError as e:
            remedy = str(e)
    raise StackNotFoundError(reference, tuple(dict.fromkeys(tried)), remedy)


def open_source(
    reference: SourceReference, folder: Path, path: Path | None = None
) -> OpenedSource:
    """Open the stack of a project; `path` is its new place, if it was moved.

    Raises
    ------
    StackNotFoundError
        If it isn't where it was, and no new place is given.
    ValueError
        If there is a stack of another shape.
    OSError
        If it can't be read.
    """
    place = find_source(reference, folder) if path is None else path
    choice: dict[str, Any] = {str(k): v for k, v in reference.choice.items()}
    stack = open_stack(place, voxel_size_nm=reference.voxel_size_nm, **choice)
    stack = replace(stack, name=reference.name)
    return compare_source(reference, stack)


def compare_source(reference: SourceReference, stack: Stack) -> OpenedSource:
    """Tell if a stack is the one that was worked on.

    Raises
    ------
    ValueError
        If its shape is another one.
    """
    if stack.shape != reference.shape:
        now, then = (" × ".join(map(str, s)) for s in (stack.shape, reference.shape))
        msg = (
            f"{stack.name} has {now} voxels (z × y × x), but the project's stack "
            f"{reference.name} has {then}: it is another one"
        )
        raise ValueError(msg)
    known = reference.fingerprint
    # size and time are quick and usually enough; values decide only where these differ
    if known.size is not None and _on_disk(stack.source) == (
        known.size,
        known.modified,
    ):
        return OpenedSource(stack, "same")
    now_known = _fingerprint(stack, tuple(known.sections)).sections
    other = [z for z, digest in known.sections.items() if now_known[z] != digest]
    if not other and str(stack.dtype) == known.dtype:
        return OpenedSource(stack, "same")
    words = (
        f"{stack.name} has changed since the project was made: of sections "
        f"{', '.join(map(str, known.sections))}, "
        f"{', '.join(map(str, other)) or 'none'} differ, values are {stack.dtype} "
        f"and were {known.dtype}; corrections may no longer fit"
    )
    return OpenedSource(stack, "changed", words)


def _some(n: int) -> tuple[int, ...]:
    return tuple(sorted({int(z) for z in np.linspace(0, n - 1, SECTIONS)}))


def _fingerprint(stack: Stack, sections: tuple[int, ...]) -> Fingerprint:
    size, modified = _on_disk(stack.source)
    digests = {}
    for z in sections:
        values = np.ascontiguousarray(stack.section(z))
        digests[z] = hashlib.sha256(values.tobytes()).hexdigest()
    return Fingerprint(
        size=size, modified=modified, dtype=str(stack.dtype), sections=digests
    )


def _on_disk(source: str | None) -> tuple[int | None, int | None]:
    """Return the bytes of all files of a stack, and when the latest was changed."""
    # a stack may be a folder of files: their sum and the latest time stand for all
    files = [] if source is None else files_of(source)
    stats = [file.stat() for file in files]
    if not stats:
        return None, None
    return sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)


def _relative(path: Path, folder: Path) -> str | None:
    """Return a path as seen from a folder; None on another drive."""
    try:
        return Path(os.path.relpath(path, folder.absolute())).as_posix()
    except ValueError:
        return None
