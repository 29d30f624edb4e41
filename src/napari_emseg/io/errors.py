"""What opening a file can end in: a choice that only the user can make, or damage."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from tokenize import TokenError
from typing import ClassVar
from zipfile import BadZipFile

Value = int | str


class AmbiguousFileError(ValueError):
    """A file holds more than one thing, and guessing would be wrong.

    Parameters
    ----------
    name
        The file, for the message.
    question
        What is the matter, in words.
    option
        Argument of `open_stack` that answers: `series`, `dataset`, `level`, `channel`
        or `time`.
    choices
        `(value, words)` of each possible answer.
    """

    MOST_SHOWN: ClassVar[int] = 12
    """Choices in the message; the rest is counted."""

    def __init__(
        self,
        name: str,
        question: str,
        option: str,
        choices: list[tuple[Value, str]],
    ) -> None:
        self.name = name
        self.question = question
        self.option = option
        self.choices = choices
        super().__init__(self.message(f"choose with {option}=…"))

    def message(self, how: str) -> str:
        """Return the message with another way to choose, e.g. that of a panel."""
        shown = [f"{value!r} ({words})" for value, words in self.choices]
        more = len(shown) - self.MOST_SHOWN
        tail = f" and {more} more" if more > 0 else ""
        listed = ", ".join(shown[: self.MOST_SHOWN])
        return f"{self.name}: {self.question}; {how}: {listed}{tail}"


class OutputExistsError(FileExistsError):
    """An output that is there already, and may be replaced if the user says so.

    Parameters
    ----------
    path
        The output.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path} exists already")


class IdsDontFitError(ValueError):
    """Cells whose ids a format can't hold as they are.

    Parameters
    ----------
    fact
        What is wrong, in words.
    ways
        Values of `ids` by which they fit, in words; there may be none.
    kept
        The file in which they are whole, the output that wasn't written because of
        them, and its format.
    """

    def __init__(
        self,
        fact: str,
        ways: Mapping[str, str],
        kept: tuple[Path, Path, str] | None = None,
    ) -> None:
        self.fact, self.ways, self.kept = fact, ways, kept
        super().__init__(self.message("ids "))

    def message(self, how: str) -> str:
        """Return the message with another way to choose, e.g. that of a command."""
        said = [f"{words} ({how}{value})" for value, words in self.ways.items()]
        said.append("take another format, such as tiff, zarr or hdf5")
        there = ""
        if self.kept is not None:
            there = (
                f". They are whole in {self.kept[0]}, from where they can be exported"
            )
        return f"{self.fact}; {'; or '.join(said)}{there}"


class AmbiguousNetworkError(ValueError):
    """Weights that don't say what network they are for; the user has to."""


class RemoteWeightsError(ValueError):
    """Weights that lie at an address; they are fetched if the user says so.

    Parameters
    ----------
    name
        The package that says so.
    url
        Where they are.
    sha256
        That they must have.
    """

    def __init__(self, name: str, url: str, sha256: str) -> None:
        self.url = url
        self.sha256 = sha256
        super().__init__(
            f"the weights of {name} aren't in it but at {url} (sha256 {sha256[:12]}…); "
            "nothing was downloaded"
        )


class UnreadableError(OSError):
    """A file, or a page of it, is damaged, empty, truncated or not what it says."""


class OtherFolderError(UnreadableError, FileNotFoundError):
    """A folder has nothing in it of what it was opened for."""


MOST_CAUSE = 300
"""Characters of what a library says that are told on."""

DAMAGE = (
    ArithmeticError,
    BadZipFile,
    BufferError,
    LZMAError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TokenError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What libraries were seen to raise on damaged files: nearly anything."""


def short_cause(error: Exception) -> str:
    """Return what a library says, in one line that isn't too long."""
    cause = " ".join(str(error).split()) or type(error).__name__
    # such as bytes of the file
    return cause if len(cause) <= MOST_CAUSE else f"{cause[:MOST_CAUSE]}…"


@contextmanager
def clear_errors(where: str) -> Iterator[None]:
    """Turn a library's complaint about a damaged file into one that names it.

    Raises
    ------
    UnreadableError
        With `where` and the cause. Questions, and files that are missing or not ours to
        read, pass unchanged.
    """
    try:
        yield
    except (AmbiguousFileError, PermissionError, FileNotFoundError):
        raise
    except UnreadableError as e:
        msg = f"{where}: {e}"
        raise UnreadableError(msg) from e
    except DAMAGE as e:
        msg = f"{where}: is damaged or cut short ({short_cause(e)})"
        raise UnreadableError(msg) from e
