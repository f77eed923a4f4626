"""The demo's output: a picture that is redrawn on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.demo.doors import Doors
from deploy.demo.numbers import TIERS, Borders, Numbers
from deploy.demo.traffic import FromTheBeginning, Producer, TailReader

WIDTH: Final = 56
MIB: Final = 1 << 20
TIER_NAMES: Final = {"memory": "memory", "log": "log, tier 1", "chunk": "MinIO, tier 2"}
STYLES: Final = {"memory": "green", "log": "yellow", "chunk": "cyan"}
LEGEND: Final = (("cyan", "only in MinIO"), ("magenta", "in both"), ("yellow", "only in the log"))


class Clients:
    """The clients of the demo."""

    def __init__(self, address: str, doors: Doors) -> None:
        self.producer = Producer(address, doors)
        self.tail = TailReader(address, doors)
        self.beginning = FromTheBeginning(address, doors)

    def end(self) -> None:
        for client in (self.producer, self.tail, self.beginning):
            client.end()

    def check(self) -> None:
        """Raises the error that ended one of them."""
        for client in (self.producer, self.tail, self.beginning):
            if client.error is not None:
                raise client.error


def picture(title: str, numbers: Numbers, before: Numbers, seconds: float, clients: Clients) -> RenderableType:
    """The whole picture; `before` is a look `seconds` earlier."""
    return Panel(
        Group(
            _tiers(numbers),
            Text(),
            *(_bar(number, borders) for number, borders in enumerate(numbers.partitions)),
            _legend(),
            Text(),
            _segments(numbers),
            Text(),
            _reads(numbers, before, seconds),
            Text(),
            _clients(clients),
        ),
        title=title,
        width=WIDTH + 24,
    )


def _tiers(numbers: Numbers) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_row("[yellow]log[/] (tier 1)", f"{numbers.log_bytes / MIB:8.1f} MiB", "")
    table.add_row(
        "[cyan]MinIO[/] (tier 2)",
        f"{numbers.object_bytes / MIB:8.1f} MiB",
        f"{numbers.objects} chunks: {numbers.chunks_put:.0f} put, {numbers.chunks_rewritten:.0f} merged",
    )
    return table


def _bar(number: int, borders: Borders) -> Text:
    """A partition from its first record to its last, coloured by tier."""
    length = max(1, borders.end - borders.start)

    def cells(offset: int) -> int:
        return round((offset - borders.start) / length * WIDTH)

    local, tiered = cells(borders.local), max(cells(borders.local), cells(borders.tiered))
    bar = Text(f"{number} ")
    bar.append("█" * local, "cyan")
    bar.append("█" * (tiered - local), "magenta")
    bar.append("█" * (WIDTH - tiered), "yellow")
    return bar.append(f" {borders.start} … {borders.end}")


def _legend() -> Text:
    legend = Text("  ")
    for style, what in LEGEND:
        legend.append("■ ", style).append(f"{what}   ")
    return legend


def _segments(numbers: Numbers) -> Text:
    text = Text(f"the topic's segments: {numbers.segments} ")
    text.append("■" * numbers.segments, "green")
    return text.append(f"   after {numbers.scales} scales; the last: {numbers.last_scale}", "dim")


def _reads(numbers: Numbers, before: Numbers, seconds: float) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for tier in TIERS:
        rate = (numbers.served[tier] - before.served[tier]) / seconds if seconds else 0.0
        table.add_row(
            f"reads served from [{STYLES[tier]}]{TIER_NAMES[tier]}[/]",
            f"{numbers.served[tier] / MIB:8.1f} MiB",
            f"{rate / MIB:6.1f} MiB/s",
        )
    return table


def _clients(clients: Clients) -> RenderableType:
    beginning = clients.beginning
    state = f"{beginning.rounds} times to the end; now at record {beginning.position}"
    return Text(
        f"producer: {clients.producer.records} records   consumer at the tail: {clients.tail.records}\n"
        f"consumer from the beginning: {state if beginning.ident is not None else 'not yet'}"
    )


def line(seconds: float, numbers: Numbers, clients: Clients) -> str:
    """The same for a file or a pipe."""
    served = " ".join(f"read_{tier}={numbers.served[tier]:.0f}" for tier in TIERS)
    return (
        f"seconds={seconds:.0f} records={numbers.records} only_in_tier2={numbers.only_in_chunks} "
        f"log_bytes={numbers.log_bytes:.0f} objects={numbers.objects} object_bytes={numbers.object_bytes} {served} "
        f"segments={numbers.segments} scales={numbers.scales} "
        f"produced={clients.producer.records} consumed={clients.tail.records} "
        f"from_the_beginning={clients.beginning.records} rounds={clients.beginning.rounds}"
    )
