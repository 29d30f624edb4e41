"""The table of a batch in a terminal, as it changes."""

from __future__ import annotations

import sys
from time import perf_counter

from rich.live import Live
from rich.table import Table
from rich.text import Text

from napari_emseg.batch import Row, RowChanged
from napari_emseg.cli.printing import say, talk
from napari_emseg.cli.progress import LOG_SECONDS
from napari_emseg.core.records import Note, Record


class BatchDisplay:
    """The table as it changes where somebody watches, else a line now and then."""

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._watched = sys.stderr.isatty()
        console = talk()
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._console = console
        self._drawn = 0.0

    def __enter__(self) -> BatchDisplay:
        if self._watched:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._watched:
            self._live.stop()

    def show(self, record: Record) -> None:
        """Show what happened."""
        if isinstance(record, Note):
            self._console.print(Text(record.message))
        if isinstance(record, RowChanged):
            before = self._rows.get(record.nth)
            self._rows[record.nth] = record.row
            if not self._watched and _is_news(before, record.row):
                say(_line(record.row))
        now = perf_counter()
        if self._watched and now - self._drawn > 0.25:
            self._drawn = now
            self._live.update(self._table(), refresh=True)
        elif not self._watched and now - self._drawn > LOG_SECONDS:
            self._drawn = now
            for row in self._rows.values():
                if row.state == "running":
                    say(_line(row))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("input", "state", "step", "done", "left"):
            table.add_column(name)
        for row in self._rows.values():
            table.add_row(*map(Text, _shown(row)))
        return table


def _is_news(before: Row | None, now: Row) -> bool:
    return before is not None and before.state != now.state


def _line(row: Row) -> str:
    name, state, step, done, left = _shown(row)
    words = [f"{name}: {state}", step, done if row.state == "running" else "", left]
    return ", ".join(word for word in words if word)


def _shown(row: Row) -> tuple[str, str, str, str, str]:
    left = "" if row.seconds_left is None else f"{duration(row.seconds_left)} left"
    return row.name, row.state, row.step, f"{row.share:.0%}", left


def duration(seconds: float) -> str:
    """Say a time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
