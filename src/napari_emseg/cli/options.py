"""Options that several commands share, and how their words become values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cyclopts import Group, Parameter, Token

from napari_emseg.cli.printing import question_message, say
from napari_emseg.core.stack import Stack, VoxelSize, check_voxel_size
from napari_emseg.io import OUTPUT_KINDS, AmbiguousFileError, open_stack
from napari_emseg.io import Ids as IdsChoice
from napari_emseg.io import OutputFormat as Format
from napari_emseg.io import Stored as StoredAs

Edges = Annotated[
    Path | None,
    Parameter(
        help="A classifier of edges for --through graph; emseg learn-edges makes it."
    ),
]

Meaning = Literal["membrane", "inside", "cells"]


def _voxel_size(_: Any, tokens: Sequence[Token]) -> VoxelSize:
    text = tokens[0].value
    parts: list[float | None] = []
    for part in text.split(","):
        try:
            parts.append(None if part.strip() in ("", "?") else float(part))
        except ValueError as e:
            msg = f"--voxel-size must be Z,Y,X in nm such as 50,4,4; got {text!r}"
            raise ValueError(msg) from e
    return check_voxel_size(parts)


def _span(text: str, what: str) -> slice:
    """Return `A:B` as a slice from A up to, and without, B; `A` alone is A:A+1."""
    first, colon, last = text.strip().partition(":")
    try:
        start = int(first) if first.strip() else None
        stop = int(last) if last.strip() else None
    except ValueError as e:
        msg = f"{what} must be whole numbers A:B, got {text!r}"
        raise ValueError(msg) from e
    if not colon and start is not None:
        return slice(start, start + 1)
    return slice(start, stop)


def _sections(_: Any, tokens: Sequence[Token]) -> slice:
    return _span(tokens[0].value, "sections")


def numbers(hint: type, tokens: Sequence[Token]) -> tuple[int, ...]:
    """Return `A,B,C` as numbers.

    Raises
    ------
    ValueError
        If they are none.
    """
    try:
        return tuple(int(part) for part in tokens[0].value.split(","))
    except ValueError as e:
        msg = f"{tokens[0].value!r} is no list of numbers such as 14,20"
        raise ValueError(msg) from e


def _region(_: Any, tokens: Sequence[Token]) -> tuple[slice, slice]:
    parts = tokens[0].value.split(",")
    if len(parts) != 2:
        msg = f"--roi must be y0:y1,x0:x1 in px, got {tokens[0].value!r}"
        raise ValueError(msg)
    return _span(parts[0], "rows of --roi"), _span(parts[1], "columns of --roi")


def _which(_: Any, tokens: Sequence[Token]) -> int | Literal["z"]:
    text = tokens[0].value
    if text == "z":
        return "z"
    try:
        return int(text)
    except ValueError as e:
        msg = f"must be a number from 0, or z (they are the sections); got {text!r}"
        raise ValueError(msg) from e


Sections = Annotated[
    slice | None,
    Parameter(
        converter=_sections,
        n_tokens=1,
        metavar="A:B",
        help="Sections from A up to B - 1, counted from 0; all by default.",
    ),
]

Exclude = Annotated[
    tuple[int, ...],
    Parameter(
        converter=numbers,
        n_tokens=1,
        metavar="Z,Z",
        help="Sections without cells, counted from 0, e.g. damaged ones; links "
        "bridge them.",
    ),
]

Region = Annotated[
    tuple[slice, slice] | None,
    Parameter(
        name="--roi",
        converter=_region,
        n_tokens=1,
        metavar="Y0:Y1,X0:X1",
        help="Rows and columns in px, counted from 0; the whole section by default.",
    ),
]

Json = Annotated[
    bool, Parameter(name="--json", negative=(), help="Print one JSON object.")
]

Overwrite = Annotated[
    bool, Parameter(negative=(), help="Replace the output if it exists.")
]

_FORMATS = "; ".join(f"{kind.name}: {kind.opens_in}" for kind in OUTPUT_KINDS)

OutputFormat = Annotated[
    Format | None,
    Parameter(help=f"Of the output; by its name if not given. For {_FORMATS}."),
]

Ids = Annotated[
    IdsChoice,
    Parameter(
        help="Cells in fiji and mrc, which hold whole numbers up to 65,535: keep them, "
        "renumber from 1, or store as 32-bit float, exact up to 16,777,216."
    ),
]

Stored = Annotated[
    StoredAs,
    Parameter(help="uint8: probabilities as whole numbers, round(255 p)."),
]

Along = Annotated[
    int | Literal["z"] | None,
    Parameter(converter=_which, n_tokens=1, metavar="N|z", show_choices=False),
]

NETWORK = Group("The network", sort_key=1)

NetworkShape = Annotated[
    dict[str, str] | None,
    Parameter(
        name="--network",
        group=NETWORK,
        help="Its configuration, e.g. --network.base 32 for twice the channels.",
    ),
]


def network_config(shape: dict[str, str] | None) -> dict[str, Any]:
    """Return the configuration that `--network.…` means."""
    return {key.replace("-", "_"): value for key, value in (shape or {}).items()}


FILE = Group("How to read the file", sort_key=2)
RUN = Group("The run", sort_key=3)
CELLS = Group("Cells", sort_key=4)


@Parameter(name="*", group=FILE)
@dataclass(frozen=True)
class InputOptions:
    """What a file doesn't say, or says more than once."""

    voxel_size: Annotated[
        tuple[float | None, float, float] | None,
        Parameter(
            converter=_voxel_size,
            n_tokens=1,
            metavar="Z,Y,X",
            help="Voxel size in nm, if the file doesn't say it or says it wrong.",
        ),
    ] = None
    dataset: Annotated[
        str | None, Parameter(help="Path of the array in an HDF5 or Zarr file.")
    ] = None
    series: Annotated[
        Along,
        Parameter(help="Which of several pictures, from 0; z: they are the sections."),
    ] = None
    level: Annotated[
        int | None, Parameter(help="Scale level; 0 is the full resolution.")
    ] = None
    channel: Annotated[
        Along, Parameter(help="Which channel, from 0; z: they are the sections.")
    ] = None
    time: Annotated[
        Along, Parameter(help="Which point in time, from 0; z: they are the sections.")
    ] = None

    def open(self, path: str, *, prefix: str = "") -> Stack:
        """Open a file lazily.

        Parameters
        ----------
        path
            File, folder or glob.
        prefix
            What these options are called by, e.g. `truth` for `--truth.dataset`.

        Raises
        ------
        ValueError
            If the file needs a choice; the option to make it by is named.
        OSError
            As `open_stack`.
        """
        try:
            stack = open_stack(
                path,
                voxel_size_nm=self.voxel_size,
                dataset=self.dataset,
                series=self.series,
                level=self.level,
                channel=self.channel,
                time=self.time,
            )
        except AmbiguousFileError as e:
            raise ValueError(question_message(e, prefix)) from e
        for remark in stack.metadata.get("remarks", ()):
            say(f"warning: {stack.name}: {remark}")
        return stack


@dataclass(frozen=True)
class ScopeOptions:
    """What a command works on: sections and a region of a stack."""

    stack: Stack
    sections: range
    region: tuple[slice, slice]

    @classmethod
    def of(
        cls,
        stack: Stack,
        sections: slice | None = None,
        region: tuple[slice, slice] | None = None,
    ) -> Self:
        """Fill in what `--sections` and `--roi` leave open.

        Raises
        ------
        ValueError
            If a section doesn't exist, or the region is empty or reaches outside.
        """
        return cls(stack, pick_sections(sections, stack), pick_region(region, stack))

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(z, y, x)` of the result."""
        y, x = (part.stop - part.start for part in self.region)
        return len(self.sections), y, x

    @property
    def words(self) -> dict[str, str]:
        """The options that ask for this scope."""
        region = ",".join(map(_span_text, self.region))
        return {"sections": _span_text(self.sections), "roi": region}


def pick_sections(span: slice | None, stack: Stack) -> range:
    """Return the sections that `--sections` means; all by default.

    Raises
    ------
    ValueError
        If one of them doesn't exist.
    """
    n = stack.shape[0]
    if span is None:
        return range(n)
    start = 0 if span.start is None else span.start
    stop = n if span.stop is None else span.stop
    if not 0 <= start < stop <= n:
        msg = f"{stack.name} has sections 0:{n}; {start}:{stop} is not among them"
        raise ValueError(msg)
    return range(start, stop)


def pick_region(roi: tuple[slice, slice] | None, stack: Stack) -> tuple[slice, slice]:
    """Return the rows and columns that `--roi` means, with their bounds filled in.

    Raises
    ------
    ValueError
        If it is empty or reaches outside.
    """
    whole = slice(0, stack.shape[1]), slice(0, stack.shape[2])
    if roi is None:
        return whole
    parts = []
    for part, full in zip(roi, whole, strict=True):
        start = 0 if part.start is None else part.start
        stop = full.stop if part.stop is None else part.stop
        if not 0 <= start < stop <= full.stop:
            y, x = (f"0:{each.stop}" for each in whole)
            msg = f"--roi must lie in {y},{x} px; {start}:{stop} doesn't"
            raise ValueError(msg)
        parts.append(slice(start, stop))
    return parts[0], parts[1]


def _span_text(span: range | slice) -> str:
    """Return `A:B`."""
    return f"{span.start}:{span.stop}"
