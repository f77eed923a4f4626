"""Clients' metrics as series of Prometheus' text format: the last value of each, or the sum of what was added.

Keeps: all clients together have at most `series_max` series; a push that would exceed it is taken in part, and what was
left out is counted. Names and labels hold characters that Prometheus allows, and no client can take the name of a
metric of the gateway's own: all begin with `PREFIX`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from typing import Final
from uuid import UUID

from core.turns import Turn
from gateway.telemetry.points import Point
from gateway.telemetry.subscriptions import Properties

PREFIX: Final = "penstock_client_"
COMMON: Final = "org.apache.kafka."
"""The beginning of all names of Kafka's clients (KIP-714), which is left away."""
LINES_AT_ONCE: Final = 500
OWN_LABELS: Final = ("client_instance_id", "client_id", "client_software_name", "client_software_version")
CLIENT_TEXT_CHARS_MAX: Final = 100

_NO_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")
_ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A metric's name and a point's labels, as clients send them."""


class _Client:
    """One client's series."""

    __slots__ = ("labels", "values")

    def __init__(self, client: Properties) -> None:
        texts = (client.instance_id, client.id, client.software_name, client.software_version)
        self.labels = ",".join(_label(name, text) for name, text in zip(OWN_LABELS, texts, strict=True))
        self.values: dict[Key, float] = {}


class ClientSeries:
    """The series of all clients. `series_max` 0: none are kept."""

    def __init__(self, series_max: int) -> None:
        self.series_max = series_max
        self.count = 0
        self.left_out = 0
        """Points that were not taken, since the start."""
        self._clients: dict[UUID, _Client] = {}
        self._only_rises: dict[str, bool] = {}  # by name

    def __repr__(self) -> str:
        return f"<ClientSeries {self.count} of {len(self._clients)} clients>"

    def add(self, instance_id: UUID, client: Properties, points: Iterable[Point]) -> None:
        """Take a push's points."""
        known = self._clients.get(instance_id)
        if known is None:
            known = self._clients[instance_id] = _Client(client)
        for point in points:
            key = point.name, point.labels
            before = known.values.get(key)
            if before is None:
                if self.count >= self.series_max:
                    self.left_out += 1
                    continue
                self.count += 1
            known.values[key] = point.value + (before or 0.0) if point.is_delta else point.value
            self._only_rises[point.name] = point.only_rises

    def forget(self, instance_id: UUID) -> None:
        """A client is gone, and its series with it."""
        known = self._clients.pop(instance_id, None)
        if known is not None:
            self.count -= len(known.values)
            if not self._clients:
                self._only_rises.clear()

    async def text(self, turn: Turn) -> AsyncIterator[bytes]:
        """All series in Prometheus' text format, some lines at a time; gives way in between."""
        families: dict[str, tuple[str, list[tuple[_Client, Key]]]] = {}
        for known in list(self._clients.values()):
            for key in known.values:
                families.setdefault(metric_name(key[0]), (key[0], []))[1].append((known, key))
            await turn.breathe()
        for name, (told, members) in sorted(families.items()):
            kind = "counter" if self._only_rises.get(told) else "gauge"
            lines = [f"# HELP {name} {_shown(told)} of clients\n# TYPE {name} {kind}\n"]
            for known, key in members:
                if key in known.values:
                    lines.append(_line(name, known, key))
                if len(lines) >= LINES_AT_ONCE:
                    yield "".join(lines).encode()
                    lines = []
                    await turn.breathe()
            yield "".join(lines).encode()


def metric_name(name: str) -> str:
    """A metric's name in Prometheus: what Kafka's names have in common is left away."""
    return PREFIX + _NO_NAME.sub("_", name.removeprefix(COMMON))


def _line(name: str, known: _Client, key: Key) -> str:
    labels = [known.labels]
    used = set(OWN_LABELS)
    for label, text in key[1]:
        plain = _NO_NAME.sub("_", label)
        if not plain or plain[0].isdigit() or plain.startswith("__"):
            plain = f"_{plain.lstrip('_')}"
        if plain not in used:
            used.add(plain)
            labels.append(_label(plain, text))
    return f"{name}{{{','.join(labels)}}} {known.values[key]!r}\n"


def _label(name: str, text: str) -> str:
    return f'{name}="{text[:CLIENT_TEXT_CHARS_MAX].translate(_ESCAPED)}"'


def _shown(name: str) -> str:
    return name.translate(_ESCAPED)
