"""What the operator subscribes to of clients' metrics (KIP-714), and what that means for one client. Pure.

Keeps: two clients that match the same subscriptions are asked for the same metrics at the same interval, and a client's
subscription id changes whenever one of both does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

from crc32c import crc32c

from gateway.kafka_configs.patterns import BadPattern, whole_match
from gateway.kafka_configs.resource_keys import CLIENT_METRICS_KEYS

ALL: Final = "*"
INTERVAL_MS_DEFAULT: Final = 300_000
_KEYS: Final = {key.name: key for key in CLIENT_METRICS_KEYS}
_QUARTERS: Final = struct.Struct(">iiii")


class Properties(NamedTuple):
    """What a subscription can match: a client, by Kafka's names without their `client_`."""

    instance_id: str
    id: str
    software_name: str
    software_version: str
    source_address: str
    source_port: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """One `client-metrics` resource."""

    metrics: frozenset[str]
    interval_ms: int
    matches: tuple[tuple[str, Callable[[str], bool]], ...]

    def is_for(self, client: Properties) -> bool:
        return all(matches(getattr(client, name)) for name, matches in self.matches)


class Subscribed(NamedTuple):
    """What one client is asked for: prefixes of names, sorted, every so often."""

    id: int
    metrics: tuple[str, ...]
    interval_ms: int

    def wants(self, name: str) -> bool:
        return any(prefix == ALL or name.startswith(prefix) for prefix in self.metrics)


def subscription_of(texts: Mapping[str, str]) -> Subscription | None:
    """The subscription that these configs describe; None if this release cannot read what an earlier one has stored."""
    values = {name: key.parse(texts.get(name) or str(key.default)) for name, key in _KEYS.items()}
    metrics, interval_ms, match = values["metrics"], values["interval.ms"], values["match"]
    assert isinstance(metrics, tuple)
    assert isinstance(interval_ms, int)
    assert isinstance(match, tuple)
    try:
        matches = tuple(
            (name.strip().removeprefix("client_"), whole_match(pattern.strip()))
            for name, _, pattern in (item.partition("=") for item in match)
        )
    except BadPattern:
        return None
    return Subscription(frozenset(metrics), interval_ms, matches)


def subscribed(subscriptions: Iterable[Subscription], client: Properties, instance_id: UUID) -> Subscribed:
    """What all subscriptions together ask of a client: every metric of each, at the shortest interval."""
    metrics: set[str] = set()
    interval_ms = INTERVAL_MS_DEFAULT
    for subscription in subscriptions:
        if subscription.is_for(client):
            metrics |= subscription.metrics
            interval_ms = min(interval_ms, subscription.interval_ms)
    wanted = (ALL,) if ALL in metrics else tuple(sorted(metrics))
    return Subscribed(_id_of(wanted, interval_ms, instance_id), wanted, interval_ms)


def _id_of(metrics: tuple[str, ...], interval_ms: int, instance_id: UUID) -> int:
    """As Kafka makes it: a checksum of what is asked for, mixed with the client's own id."""
    (checksum,) = struct.unpack(">i", crc32c(f"{', '.join(metrics)}{interval_ms}".encode()).to_bytes(4, "big"))
    for quarter in _QUARTERS.unpack(instance_id.bytes):
        checksum ^= quarter
    return int(checksum)
