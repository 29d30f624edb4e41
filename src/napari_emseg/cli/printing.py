"""Results to stdout, everything else to stderr; errors in the words of options."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from io import StringIO, TextIOWrapper
from typing import Any, TextIO

import pydantic
from cyclopts import CycloptsError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from napari_emseg.core.errors import SettingError, UnusableInputsError
from napari_emseg.io.errors import (
    AmbiguousFileError,
    AmbiguousNetworkError,
    IdsDontFitError,
    OutputExistsError,
    RemoteWeightsError,
)

_WIDE = 200
"""Columns of a table where nobody looks at it, so that no cell is broken or cut."""


class _Talk(Console):
    """A console that doesn't mind if nobody reads any more: the work goes on."""

    def on_broken_pipe(self) -> None:
        """Let everything else that is said go nowhere; rich would end the program."""
        self.quiet = True
        give_up(sys.stderr)


def talk() -> Console:
    """Console on stderr, for progress and words."""
    return _Talk(file=sys.stderr, highlight=False, emoji=False, soft_wrap=True)


def give_up(stream: TextIO) -> None:
    """Send what is still written to a stream nowhere, since its reader has left."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def write_what_can_be_written() -> None:
    """Replace what a console or file of few characters can't hold by escapes.

    The output may be in any encoding (`LC_ALL=C`, `PYTHONIOENCODING=latin-1`, an old
    console of Windows), while names of files and units hold any characters. Where there
    is no stream at all, there is one that leads nowhere.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(message: str) -> None:
    """Tell the user something beside the result."""
    talk().print(Text(message))


def complain(message: str, *, hint: str = "", kind: str = "error") -> None:
    """Say what is wrong, in one line, and what to do."""
    console = talk()
    console.print(Text(f"{kind}: ", style="bold red") + Text(message, style="default"))
    if hint:
        console.print(Text(hint, style="dim"))


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")


def print_line(text: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(f"{text}\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns of numbers are aligned to the right."""
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numbers = all(_is_number(row[index]) for row in rows)
        table.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # written by us, since rich ends the program when a reader has had enough
    text = StringIO()
    width = None if sys.stdout.isatty() else _WIDE
    Console(file=text, width=width, highlight=False, emoji=False).print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _is_number(cell: str) -> bool:
    return cell == "–" or cell.lstrip("-").replace(".", "", 1).isdigit()


def usage_message(error: BaseException) -> str:
    """Return one line for the user, with the option that helps if there is one."""
    return _words(error) + _option(error)


REMEDIES = {
    "resume": "go on with --resume",
    "out": "choose another folder with --out",
    "overwrite": "begin anew with --overwrite",
    "weights": "or name another with --weights FILE",
    "edges": "or name another with --edges FILE",
    "voxel_size": "give it with --voxel-size Z,Y,X in nm",
}
"""How settings that end an error are set, where that isn't an option with its value."""


def _option(error: BaseException) -> str:
    if isinstance(error, SettingError):
        return "; " + ", or ".join(_remedy(*each) for each in error.remedies.items())
    if isinstance(error, OutputExistsError):
        return "; overwrite it with --overwrite"
    if isinstance(error, AmbiguousNetworkError):
        return (
            "; say it with --arch (unet, unetpp, cenet), and its shape with e.g. "
            "--network.base 32"
        )
    if isinstance(error, RemoteWeightsError):
        return "; fetch them with --download"
    if isinstance(error, IdsDontFitError) and error.kept is not None:
        there, wanted, format_ = error.kept
        return f": emseg export {there} {wanted} --format {format_} --ids …"
    return _of_project(error)


def _of_project(error: BaseException) -> str:
    """Say where a project's stack can be named, which no command does."""
    from napari_emseg.project.source import StackNotFoundError

    if isinstance(error, StackNotFoundError) and not error.remedy:
        return " in napari, which asks for it when the project is opened"
    return ""


def _remedy(name: str, value: object) -> str:
    return REMEDIES.get(name) or f"set {option_name(name)} {value}"


def question_message(error: AmbiguousFileError, prefix: str = "") -> str:
    """Return what a file asks, with the option to answer by.

    Parameters
    ----------
    prefix
        What options of this file are called by, e.g. `truth` for `--truth.dataset`.
    """
    parts = [prefix, error.option] if prefix else [error.option]
    return error.message(f"choose with {option_name(*parts)}")


def _lacks_memory(error: BaseException) -> bool:
    """Tell a library's error for want of memory; our own say what to do."""
    from napari_emseg.inference.runtime import is_out_of_memory

    own = type(error) is MemoryError and str(error) != ""
    return is_out_of_memory(error) and not own


def _words(error: BaseException) -> str:
    if isinstance(error, AmbiguousFileError):
        return question_message(error)
    if isinstance(error, IdsDontFitError):
        return error.message("--ids ")
    if isinstance(error, UnusableInputsError):
        return f"{error.question}: {'; '.join(map(usage_message, error.errors))}"
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
    if _lacks_memory(error):
        return (
            f"not enough memory ({text}); close other programs, or choose a smaller "
            "region or tile"
        )
    return text.strip("'\"") if isinstance(error, LookupError) else text


def option_name(*parts: str | int) -> str:
    """Return the option of a settings field: `minimum_size` → `--minimum-size`."""
    return "--" + ".".join(map(str, parts)).replace("_", "-")


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
