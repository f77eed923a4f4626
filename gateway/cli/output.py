"""Everything that a tool prints: tables, JSON, questions, progress.

Keeps: results go to standard output, all else to standard error. With `--json` standard output is JSON alone. Names and
values from a cluster are printed as text, never read as markup, and without control characters. Nothing is changed
without a yes.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.cli.refused import Refused
from gateway.exits import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
ROWS_MAX: Final = 10_000
"""Rows of one table; `--json` has no such bound."""


class Advance(Protocol):
    """Tell of work done, and of how much there is in all where that is known only now."""

    def __call__(self, done: int, total: int | None = None, /) -> None: ...


class Output:
    """Where one command prints to."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, value: Any) -> None:
        """The whole answer, with `--json`."""
        print(json_text(value, indent=2))

    def line(self, text: str) -> None:
        """One line of the answer."""
        print(visible(text))

    def note(self, text: str) -> None:
        """A word to the user beside the answer."""
        print(visible(text), file=sys.stderr)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table; columns whose values are numbers or sizes stand to the right."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for at, name in enumerate(columns):
            numbers = bool(rows) and all(isinstance(row[at], int | Size | None) for row in rows)
            table.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
        for row in rows[:ROWS_MAX]:
            table.add_row(*(Text(visible("-" if value is None else str(value))) for value in row))
        console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        if not sys.stdout.isatty():  # a file or a pipe has room for whole rows
            console = Console(highlight=False, width=_width(columns, rows))
        console.print(table)
        if len(rows) > ROWS_MAX:
            self.note(f"and {len(rows) - ROWS_MAX} rows more: --json has all")

    def fields(self, pairs: Mapping[str, object]) -> None:
        """Names with values, one in a line."""
        wide = max(map(len, pairs), default=0)
        for name, value in pairs.items():
            self.line(f"{name:<{wide}}  {'-' if value is None else value}")

    def confirm(self, change: str, *, yes: bool) -> None:
        """Ask before a change that cannot be undone. Raises Refused without a yes."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise Refused(f"{change}: say --yes where there is no terminal to ask at", ExitCode.CONFIGURATION)
        print(f"{visible(change)}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Refused("nothing was changed")

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None = None, *, shown: bool = True) -> Iterator[Advance]:
        """A bar on standard error while something takes long; none without a terminal.

        `shown`: false where something else is written to the terminal meanwhile, which the bar would garble.
        """
        if not (shown and sys.stderr.isatty()):
            yield lambda done, total=None, /: None
            return
        from rich.progress import Progress

        with Progress(console=_errors(), transient=True) as bars:
            task = bars.add_task(title, total=total)
            yield lambda done, total=None, /: bars.update(task, advance=done, total=total)


class Size:
    """Bytes, for people."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __str__(self) -> str:
        value, unit = float(self.size), 0
        while value >= 1024 and unit < len(_UNITS) - 1:
            value, unit = value / 1024, unit + 1
        return f"{self.size} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def time_of(timestamp_ms: int | None) -> str | None:
    """Milliseconds since 1970 as ISO 8601 in UTC; none for a negative one, which stands for no time."""
    if timestamp_ms is None or timestamp_ms < 0:
        return None
    try:
        return (
            datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
    except (OverflowError, ValueError, OSError):  # beyond the calendar
        return str(timestamp_ms)


def visible(text: str) -> str:
    """Text without characters that could act on a terminal; tabs stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in text)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON in which characters that could act on a terminal are escaped: another text of the same value."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def _width(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    widths = [len(name) for name in columns]
    for row in rows[:ROWS_MAX]:
        for at, value in enumerate(row):
            widths[at] = max(widths[at], len(visible(str(value))))
    return max(80, sum(widths) * 2 + 4 * len(widths))  # some characters take two columns


def _errors() -> Console:
    from rich.console import Console

    return Console(stderr=True)
