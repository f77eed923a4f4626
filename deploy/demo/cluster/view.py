"""What is seen of the cluster: a picture that is redrawn on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from deploy.demo.cluster.traffic import Reader, Writer

WIDTH: Final = 80
STYLES: Final = ("cyan", "yellow", "magenta")


@dataclass(frozen=True, slots=True)
class Look:
    """One look at everything."""

    seconds: float
    addresses: Mapping[int, str]
    alive: frozenset[int]
    leaders: Mapping[int, int]  # by partition

    def led_by(self, node: int) -> int:
        return sum(leader == node for leader in self.leaders.values())


def picture(title: str, look: Look, writer: Writer, reader: Reader) -> RenderableType:
    """The whole picture."""
    return Panel(
        Group(
            *(_node(look, node) for node in look.addresses),
            Text(),
            _partitions(look),
            Text(),
            _client("producer", f"{writer.records} acknowledged", writer.silence.now_s(), writer.silence.longest_s),
            _client("consumer", f"{reader.records} read", reader.silence.now_s(), reader.silence.longest_s),
            Text(f"          {reader.missed} missed, {reader.again} read twice"),
        ),
        title=f"{look.seconds:.0f} s: {title}",
        width=WIDTH,
    )


def _style(node: int) -> str:
    return STYLES[(node - 1) % len(STYLES)]


def _node(look: Look, node: int) -> Text:
    text = Text(f"node {node}    {look.addresses[node]}   ", _style(node))
    if node not in look.alive:
        return text.append("killed", "bold red")
    return text.append(f"leads {look.led_by(node)} partitions")


def _partitions(look: Look) -> Text:
    text = Text("partitions ")
    for partition, leader in look.leaders.items():
        whose = leader if leader in look.alive else 0
        text.append(f" {partition} ", f"black on {_style(whose)}" if whose else "white on red").append(" ")
    return text


def _client(name: str, done: str, now_s: float, longest_s: float) -> Text:
    return Text(f"{name}  {done:24} longest silence of a partition: {max(now_s, longest_s):5.2f} s")


def line(look: Look, writer: Writer, reader: Reader) -> str:
    """The same for a file or a pipe."""
    led = " ".join(f"node_{node}={look.led_by(node) if node in look.alive else -1}" for node in look.addresses)
    return (
        f"seconds={look.seconds:.0f} {led} acknowledged={writer.records} read={reader.records} missed={reader.missed} "
        f"again={reader.again} producer_silence_ms={writer.silence.longest_s * 1_000:.0f} "
        f"consumer_silence_ms={reader.silence.longest_s * 1_000:.0f}"
    )
