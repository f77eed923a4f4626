"""Kafka's keys have Kafka's ranges: Penstock takes and refuses the same values as Kafka's own validators."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from gateway.config.layers import ConfigError
from gateway.config.loading import load
from gateway.kafka_configs.broker_configs import CLUSTER, BrokerConfigs
from gateway.kafka_configs.resource_keys import KINDS, check
from gateway.refusals import Refusal
from tests.likeness.ranges import OURS, shared, told

pytestmark = pytest.mark.slow

RANGES: Final = json.loads(Path(__file__).with_name("ranges.json").read_text())
KEYS: Final = [(kind, key) for kind in RANGES if kind not in ("values", "names") for key in RANGES[kind]]
CONFIG: Final = load(environ={})
CONFIGS: Final = BrokerConfigs(CONFIG)
RESOURCES: Final = {kind.type.name.lower().replace("_", "-"): kind for kind in KINDS.values()}

MEBI: Final = 2**20
TAKEN_HERE: Final = {
    # The bound is looked at before a request is received, so one larger than it passes; Kafka refuses the start.
    ("broker", "queued.max.request.bytes"): lambda value: MEBI <= int(value) < 100 * MEBI,
}
"""Values that Kafka refuses, and Penstock has a meaning for."""
REFUSED_HERE: Final = {
    # Bounds of security: a delay, a skew or a request before authentication that is longer protects nobody.
    ("broker", "connection.failed.authentication.delay.ms"): lambda value: int(value) > 10_000,
    ("broker", "connections.max.reauth.ms"): lambda value: int(value) < 0,
    ("broker", "sasl.oauthbearer.clock.skew.seconds"): lambda value: not 0 <= int(value) <= 3_600,
    ("broker", "sasl.oauthbearer.jwks.endpoint.refresh.ms"): lambda value: int(value) < 1_000,
    ("broker", "sasl.server.max.receive.size"): lambda value: not 1_024 <= int(value) <= 16 * MEBI,
    ("broker", "default.replication.factor"): lambda value: not 1 <= int(value) <= 32_767,  # what a topic may ask for
    ("broker", "group.initial.rebalance.delay.ms"): lambda value: int(value) < 0,
    # The one is above the other, or there is no time-out that a member could ask for.
    ("broker", "group.max.session.timeout.ms"): lambda value: int(value) < 6_000,
    ("broker", "group.min.session.timeout.ms"): lambda value: not 1 <= int(value) <= 1_800_000,
    ("broker", "group.share.max.share.sessions"): lambda value: int(value) > 100_000,  # memory
    ("broker", "max.connections"): lambda value: int(value) < 1,  # nobody would be served
    ("broker", "max.incremental.fetch.session.cache.slots"): lambda value: int(value) > 1_000_000,  # memory
    ("broker", "offsets.topic.num.partitions"): lambda value: int(value) > 10_000,
    ("broker", "transaction.state.log.num.partitions"): lambda value: int(value) > 10_000,
    ("broker", "num.partitions"): lambda value: int(value) > 100_000,  # one request may not make more
    ("broker", "offset.metadata.max.bytes"): lambda value: int(value) < 0,
    ("broker", "queued.max.request.bytes"): lambda value: int(value) < MEBI,  # everything here has a bound
    ("cluster", "log.cleaner.min.cleanable.ratio"): lambda value: value in ("NaN", "0.5d"),  # Java's parser
    ("topic", "min.cleanable.dirty.ratio"): lambda value: value in ("NaN", "0.5d"),
    ("topic", "follower.replication.throttled.replicas"): lambda value: value == ",",  # Java's split
    ("topic", "leader.replication.throttled.replicas"): lambda value: value == ",",
}
"""Values that Kafka takes, and that make no sense here."""
OTHER_WORDS: Final = {("cluster", "log.cleaner.threads")}
"""Keys for which Kafka says `/ by zero`."""
OTHER_DEFAULTS: Final = {
    "num.partitions": "16",  # partitions cost next to nothing
    "max.connections": "10000",  # of what a process can hold
    "queued.max.request.bytes": str(256 * MEBI),  # everything has a bound
    "group.max.size": "5000",  # everything has a bound
    "group.consumer.max.size": "10000",
    "group.streams.max.size": "10000",
    "group.coordinator.rebalance.protocols": "classic,consumer,streams",  # those that are served
}


@cache
def refused_alone(its_type: str, value: str) -> Mapping[str, str]:
    """The reasons of the keys of a type that refuse a value whatever is given beside it. They are asked together: a
    load takes milliseconds, and tells of all of them."""
    found: dict[str, str] = {}
    left = [key for key, row in RANGES["broker"].items() if row["type"] == its_type]
    while left:
        try:
            load(environ={}, assignments=[f"{key}={value}" for key in left], check=lambda *_: ())
            break
        except ConfigError as refused:
            told = {problem.partition(" = ")[0]: problem for problem in refused.problems}
        if not told.keys() <= set(left):  # not of single keys: each is asked by itself
            break
        found |= told
        left = [key for key in left if key not in told]
    return found


def why_not(kind: str, key: str, value: str) -> str:
    """Penstock's reason to refuse a value; empty when it takes it."""
    if kind == "broker" and (why := refused_alone(RANGES[kind][key]["type"], value).get(key)):
        return why
    try:
        match kind:
            case "broker":
                load(environ={}, assignments=[f"{key}={value}"])
            case "cluster":
                CONFIGS.check_broker(CLUSTER, {key: value})
            case "topic":
                CONFIGS.check_topic({key: value})
            case resource:
                check(RESOURCES[resource], {key: value}, CONFIG)
    except (ConfigError, Refusal) as refused:
        return str(refused)
    return ""


def verdicts(kind: str, key: str) -> Iterator[tuple[str, str, str]]:
    """Each value with Penstock's reason and Kafka's to refuse it."""
    row = RANGES[kind][key]
    theirs = {value: why for why, values in row["refused"].items() for value in values}
    for value in RANGES["values"][row["type"]]:
        yield value, why_not(kind, key, value), theirs.get(value, "")


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_taken_alike(kind: str, key: str) -> None:
    """A value is taken by both or by neither, save where it is written down why not."""
    for value, ours, theirs in verdicts(kind, key):
        if theirs and not ours:
            assert (kind, key) in TAKEN_HERE, f"{key} = {value!r}: Kafka says {theirs}"
            assert TAKEN_HERE[kind, key](value), value
        elif ours and not theirs:
            assert (kind, key) in REFUSED_HERE, f"{key} = {value!r}: only Penstock says {ours}"
            assert REFUSED_HERE[kind, key](value), value


@pytest.mark.parametrize(("kind", "key"), [place for place in KEYS if place[0] != "broker"])
def test_refused_alike(kind: str, key: str) -> None:
    """Refusals over the wire use Kafka's words, on which tools match."""
    for value, ours, theirs in verdicts(kind, key):
        if ours and theirs and (kind, key) not in OTHER_WORDS:
            assert theirs == told(" ".join(ours.split()), key, value)


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_defaults_alike(kind: str, key: str) -> None:
    """A key that nobody has set has Kafka's value, save where it is written down why not."""
    match kind:
        case "broker" | "cluster":
            default = CONFIGS.keys[key].key.default
        case "topic":
            default = CONFIGS.default_of(2, key)
        case resource:
            default = RESOURCES[resource].keys[key].default
    assert OTHER_DEFAULTS.get(key, RANGES[kind][key]["default"]) == (default or "")


def test_all_asked() -> None:
    """Every key that has the name of one of Kafka's has been asked about."""
    ours = {(kind, key) for kind, keys in shared().items() for key in keys}
    kafkas = {(kind, key) for kind, key in ours if kind not in ("broker", "cluster") or key in RANGES["names"]}

    assert not {(kind, key) for kind, key in kafkas if not key.startswith(OURS)} - set(KEYS)


@pytest.mark.parametrize(
    ("assignments", "taken"),
    [
        (("log.retention.hours=0",), False),
        (("log.retention.minutes=0",), False),
        (("log.retention.ms=0",), False),
        (("log.retention.hours=0", "log.retention.minutes=1"), True),
        (("log.retention.hours=0", "log.retention.ms=-1"), True),
        (("log.retention.minutes=5", "log.retention.ms=0"), False),
        (("log.retention.hours=-7",), True),
    ],
)
def test_retention(assignments: tuple[str, ...], taken: bool) -> None:
    """The key in effect must not be zero, as in Kafka; the message names it."""
    if taken:
        load(environ={}, assignments=assignments)
        return
    with pytest.raises(ConfigError) as refused:
        load(environ={}, assignments=assignments)

    assert f"{assignments[-1].replace('=', ' = ')} (--set): allowed: " in str(refused.value)
    assert "from 1 to" in str(refused.value)
