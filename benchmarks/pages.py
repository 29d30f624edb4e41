"""Tables that scripts put into pages of `docs/`, between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def put(page: str, name: str, body: str) -> None:
    """Replace what stands between `<!-- begin name -->` and `<!-- end name -->`.

    Raises
    ------
    ValueError
        If the page has no such marks.
    """
    path = DOCS / page
    begin, end = (f"<!-- {word} {name} -->" for word in ("begin", "end"))
    text = path.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        msg = f"{path} must hold {begin} and {end} once each"
        raise ValueError(msg)
    head, rest = text.split(begin)
    path.write_text(f"{head}{begin}\n\n{body.strip()}\n\n{end}{rest.split(end)[1]}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
