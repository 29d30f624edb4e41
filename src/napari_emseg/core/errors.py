"""Errors that carry what ends them; who shows one says how that is done there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class SettingError(Exception):
    """Ends if a setting is changed.

    `remedies` are names of settings of which one helps, and the values they need, None
    where that is the user's to say. Words for them are up to the command line and the
    panels.
    """

    remedies: Mapping[str, object] = {}


class UnknownVoxelSizeError(SettingError, ValueError):
    """Something is measured in nm, and the voxel size isn't known."""

    remedies: Mapping[str, object] = {"voxel_size": None}


class UnusableInputsError(ValueError):
    """None of the inputs can be used; `errors` say why, each for one of them."""

    question = "none of the inputs can be used"

    def __init__(self, errors: Sequence[Exception]) -> None:
        self.errors = tuple(errors)
        super().__init__(f"{self.question}: {'; '.join(map(str, errors))}")
