"""The words that scenarios and client processes share: records, what became of them, and refusals.

Bytes travel between processes as base64 in JSON; null stays null, and empty stays empty.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

Partition = tuple[str, int]


def packed(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


def unpacked(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record that a scenario hands to a producer; without a partition the client's partitioner decides."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None
    timestamp: int | None = None

    def wire(self) -> dict[str, Any]:
        return {
            "key": packed(self.key),
            "value": packed(self.value),
            "headers": [[name, packed(value)] for name, value in self.headers],
            "partition": self.partition,
            "timestamp": self.timestamp,
        }


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A record that a consumer received. `timestamp_type` is None if the client does not show it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int
    timestamp_type: str | None

    @classmethod
    def from_wire(cls, raw: dict[str, Any]) -> Stored:
        return cls(
            topic=raw["topic"],
            partition=raw["partition"],
            offset=raw["offset"],
            key=unpacked(raw["key"]),
            value=unpacked(raw["value"]),
            headers=tuple((name, unpacked(value)) for name, value in raw["headers"]),
            timestamp=raw["timestamp"],
            timestamp_type=raw.get("timestamp_type"),
        )


@dataclass(frozen=True)
class Produced:
    partition: int
    offset: int


class Refused(Exception):
    """The server or the client library refused; `code` is Kafka's error number where there is one."""

    def __init__(self, code: int | None, name: str, message: str) -> None:
        super().__init__(f"{name} ({code}): {message}")
        self.code = code
        self.name = name

    @classmethod
    def from_wire(cls, raw: dict[str, Any]) -> Refused:
        return cls(raw.get("code"), raw.get("name", "?"), raw.get("message", ""))
