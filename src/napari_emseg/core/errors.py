"""Errors that carry what ends them; who shows one says how that is done there."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError


def first_fault(error: ValidationError) -> str:
    """Return in one line what is wrong with a file of values, and where."""
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])


class SettingError(Exception):
    """Ends if a setting is changed.

    `remedies` are names of settings of which one helps, and the values they need, None
    where that is the user's to say. Words for them are up to the command line and the
    panels, so a message has none of them.
    """

    remedies: Mapping[str, object] = {}


class UnknownVoxelSizeError(SettingError, ValueError):
    """Something is measured in nm, and the voxel size isn't known."""

    remedies: Mapping[str, object] = {"voxel_size": None}


class OtherPrecisionError(SettingError, ValueError):
    """Nothing here computes in the precision that is asked for."""

    remedies: Mapping[str, object] = {"precision": "float32"}


class WorkFailedError(ValueError):
    """What was asked for was right, and the work failed all the same."""


class UnusableInputsError(ValueError):
    """None of the inputs can be used; `errors` say why, each for one of them."""

    question = "none of the inputs can be used"

    def __init__(self, errors: Sequence[Exception]) -> None:
        self.errors = tuple(errors)
        super().__init__(f"{self.question}: {'; '.join(map(str, errors))}")
