"""What saving tells."""

from __future__ import annotations

from dataclasses import dataclass

from napari_emseg.core.records import Record


@dataclass(frozen=True, slots=True)
class Saved(Record):
    """Changes are on the disk: how many, and the seconds that writing took."""

    changes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SaveFailed(Record):
    """Changes could not be saved; they stay in memory and are tried again.

    Parameters
    ----------
    message
        Why, in words.
    waiting
        How many changes are not on the disk.
    again_in
        Seconds until the next try.
    """

    message: str
    waiting: int
    again_in: float
