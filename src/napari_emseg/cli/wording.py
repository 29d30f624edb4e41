"""Errors of libraries in our own words: which option, which value, what is allowed."""

from __future__ import annotations

import pydantic
from cyclopts import CycloptsError


def usage_message(error: BaseException) -> str:
    """Return one line for the user."""
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
