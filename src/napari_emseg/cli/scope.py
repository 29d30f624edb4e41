"""The sections and the region of a stack that a command works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from napari_emseg.core.stack import Stack


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
