"""Errors of libraries in our own words: which option, which value, what is allowed."""

from __future__ import annotations

import pydantic
from cyclopts import CycloptsError

from napari_emseg.io.errors import (
    AmbiguousNetworkError,
    IdsDontFitError,
    OutputExistsError,
)


def usage_message(error: BaseException) -> str:
    """Return one line for the user, with the option that helps if there is one."""
    return _words(error) + _option(error)


def _option(error: BaseException) -> str:
    if isinstance(error, OutputExistsError):
        return "; overwrite it with --overwrite"
    if isinstance(error, AmbiguousNetworkError):
        return (
            "; say it with --arch (unet, unetpp, cenet), and its shape with e.g. "
            "--network.base 32"
        )
    if isinstance(error, IdsDontFitError) and error.kept is not None:
        there, wanted, format_ = error.kept
        return f": emseg export {there} {wanted} --format {format_} --ids …"
    if isinstance(error, IdsDontFitError) and error.choices:
        return f": --ids {' or --ids '.join(error.choices)}"
    return ""


def _words(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(error, CycloptsError) and isinstance(cause, pydantic.ValidationError):
        return _out_of_bounds(cause)
    if isinstance(error, pydantic.ValidationError):
        return _out_of_bounds(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip() or type(error).__name__
    return text.strip("'\"") if isinstance(error, LookupError) else text


def option_name(*parts: str | int) -> str:
    """Return the option of a settings field: `minimum_size` → `--minimum-size`."""
    return "--" + ".".join(str(part).replace("_", "-") for part in parts)


def _out_of_bounds(error: pydantic.ValidationError) -> str:
    said = []
    for each in error.errors(include_url=False):
        what = (
            each["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        )
        if each["loc"]:
            name = option_name(*each["loc"])
            said.append(f"{name} must be {what}, got {each['input']}")
        else:  # of several settings together: it says which
            said.append(what)
    return "; ".join(said)
