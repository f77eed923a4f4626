"""Streams in a terminal: a table of all, and the epochs of one as a picture of key space and time.

Keeps: the picture is complete without colours: a segment's left and upper edges are drawn, with its number if there is
room. Names from clients are printed as they are, never as markup. A pipe gets whole lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROWS_MIN: Final = 8
ROWS_MAX: Final = 32
COLUMN: Final = 10
"""Characters of an epoch."""
LABEL: Final = 6
REASONS_SHOWN: Final = 10
TABLE_WIDTH: Final = 1_000
"""Characters of a line in a file or a pipe: room for the longest name and all columns."""
SEALED: Final = "default on grey23"
RAMP: Final = ("white on #24476b", "white on #1f6f8b", "black on #2a9d8f", "black on #e9c46a", "black on #f4a261",
               "white on #c8452d")  # fmt: skip

Told = Mapping[str, Any]


def show_list(listed: Told, console: Console | None = None) -> None:
    """All streams."""
    console = console or Console(highlight=False)
    if listed["total"] == 0:
        console.print("There is no stream yet: a topic that is created or produced to is one.", soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("stream", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("slots", "segments", "epoch", "bytes/s", "records/s", "log", "chunks"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stream in listed["streams"]:
        table.add_row(
            Text(stream["name"]),
            stream["state"],
            str(stream["slots"]),
            str(stream["segments"]),
            str(stream["epoch"]),
            size(stream["rate_bytes"]),
            f"{stream['rate_events']:,.0f}",
            size(stream["tiers"]["log"]),
            size(stream["tiers"]["chunks"]),
        )
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(table)


def show_stream(stream: Told, console: Console | None = None) -> None:
    """One stream."""
    console = console or Console(highlight=False)
    scaling, epochs = stream["scaling"], stream["epochs"]
    console.print(
        Text.assemble(
            (stream["name"], "bold"),
            f"  {stream['state']}, {_count(stream['slots'], 'slot')}, {_count(stream['segments'], 'active segment')}, "
            f"epoch {stream['epoch']}",
        )
    )
    soft = not console.is_terminal
    console.print(
        f"{size(stream['rate_bytes'])}/s, {stream['rate_events']:,.0f} records/s in; "
        f"{size(stream['tiers']['log'])} in the log, {size(stream['tiers']['chunks'])} in chunks; {_policy(scaling)}",
        soft_wrap=soft,
    )
    for line in picture(epochs, console.width, console.height):
        console.print(line, no_wrap=True, crop=True)
    for limit in stream["limits"]:
        console.print(Text(f"! {limit}", "yellow"), soft_wrap=soft)
    for epoch in epochs[-REASONS_SHOWN:]:
        when = _time(epoch["started_ms"], "%Y-%m-%d %H:%M:%S")
        console.print(Text(f"epoch {epoch['epoch']:>4}  {when}  {epoch['reason']}", "dim"), soft_wrap=soft)


def picture(epochs: Sequence[Told], width: int, height: int) -> list[Text]:
    """The newest epochs that fit, oldest at the left; the upper end of the key space is at the top."""
    shown = epochs[-max(1, (width - LABEL - 1) // COLUMN) :]
    most = max(len(epoch["segments"]) for epoch in shown)
    rows = max(ROWS_MIN, min(ROWS_MAX, height - REASONS_SHOWN - 6, 4 * most))
    hottest = max((s["rate_bytes"] for s in shown[-1]["segments"]), default=0.0)
    columns = [[_at(epoch, 1 - (row + 0.5) / rows) for row in range(rows)] for epoch in shown]
    lines = []
    for row in range(rows):
        edge = {0: "1.00 ", rows // 4: "0.75 ", rows // 2: "0.50 ", 3 * rows // 4: "0.25 "}.get(row, "")
        line = Text(f"{edge:>{LABEL}}")
        for n, column in enumerate(columns):
            line.append_text(_cell(columns[n - 1] if n else None, column, row, hottest))
        lines.append(line)
    times = "".join(f"{_time(epoch['started_ms']):<{COLUMN}}" for epoch in shown)
    return [*lines, Text(f"{'0.00 ':>{LABEL}}{times}")]


def _cell(before: Sequence[Told] | None, column: Sequence[Told], row: int, hottest: float) -> Text:
    """One row of one epoch."""
    segment = column[row]
    own = [n for n, other in enumerate(column) if other["id"] == segment["id"]]
    begins = before is None or all(other["id"] != segment["id"] for other in before)
    fill = "▔" if row == own[0] else " "
    label = f"{segment['id']}" if begins and row == own[len(own) // 2] else ""
    text = f"{'▏' if begins else fill}{label}"
    return Text(text + fill * (COLUMN - len(text)), _style(segment, hottest))


def _at(epoch: Told, point: float) -> Told:
    segments: Sequence[Told] = epoch["segments"]
    return next(s for s in segments if s["key_range"][0] <= point < s["key_range"][1])


def _style(segment: Told, hottest: float) -> str:
    if segment["state"] == "sealed":
        return SEALED
    share = segment["rate_bytes"] / hottest if hottest > 0 else 0.0
    return RAMP[min(len(RAMP) - 1, int(share * len(RAMP)))]


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _policy(scaling: Told) -> str:
    kind, target = scaling["policy"], scaling["target_rate"]
    if kind == "fixed":
        return "it does not scale by itself"
    return f"scaling at {size(target) if kind == 'bytes' else f'{target:,.0f} records'}/s a segment"


def _time(ms: int, form: str = "%H:%M:%S") -> str:
    return datetime.fromtimestamp(ms / 1000).strftime(form)
