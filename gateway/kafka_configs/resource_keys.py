"""Kafka's keys, with its checks, for one consumer group and for one subscription to clients' metrics.

Keeps: Kafka accepts every value that is accepted here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.config.groups import BOUNDED_GROUP_KEYS
from gateway.config.model import Config
from gateway.kafka_configs.keys import (
    Check,
    ConfigKey,
    ConfigSource,
    ConfigType,
    ConfigValue,
    ResourceType,
    Synonym,
    at_least,
    between,
    invalid_value,
    one_of,
)
from gateway.kafka_configs.patterns import BadPattern, whole_match
from gateway.refusals import InvalidConfig, Refusal, invalid_request

BY_KEY: Final = "penstock.share.order.by.key"
DEAD_LETTER_TOPIC: Final = "errors.deadletterqueue.topic.name"
COPY_DEAD: Final = "errors.deadletterqueue.copy.record.enable"

_DURATION: Final = re.compile(
    r"by_duration:\+?P(?=.)(?:[0-9]{1,9}D)?(?:T(?=.)(?:[0-9]{1,9}H)?(?:[0-9]{1,9}M)?(?:[0-9]{1,9}(?:\.[0-9]{0,9})?S)?)?",
    re.I,
)
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_CLIENT_PROPERTIES: Final = frozenset(
    {
        "client_instance_id",
        "client_id",
        "client_software_name",
        "client_software_version",
        "client_source_address",
        "client_source_port",
    }
)


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """A kind of resource whose configs are kept by name."""

    type: ResourceType
    source: ConfigSource
    keys: Mapping[str, ConfigKey]
    unknown: Callable[[str], Refusal]
    """The message about a name that is no key."""
    nameless: str
    """The message about a resource without a name."""


def _bounded(low: int, lowest: int | None, highest: int | None) -> Check:
    """At least `low`, and within the bounds that the broker's keys set for its groups."""
    floor = at_least(low)

    def check(name: str, value: ConfigValue) -> None:
        floor(name, value)
        assert isinstance(value, int)
        protocol, _, rest = name.partition(".")
        rest = rest.removeprefix("num.")
        if lowest is not None and value < lowest:
            raise InvalidConfig(f"{name} must be greater than or equal to group.{protocol}.min.{rest}")
        if highest is not None and value > highest:
            raise InvalidConfig(f"{name} must be less than or equal to group.{protocol}.max.{rest}")

    return check


def _offset_reset(name: str, value: ConfigValue) -> None:
    text = str(value)
    if text not in ("earliest", "latest") and not _DURATION.fullmatch(text):
        why = (
            f"Invalid value `{text}` for configuration {name}. The value must be either 'earliest', 'latest' or of "
            "the format 'by_duration:<PnDTnHnMn.nS>'."
        )
        raise invalid_value(name, text, why)


def _topic_or_none(name: str, value: ConfigValue) -> None:
    text = str(value)
    if text and (not _TOPIC.fullmatch(text) or text in (".", "..") or text.startswith("__")):
        why = "Its name has up to 249 characters: ASCII alphanumerics, '.', '_' and '-'; an internal topic will not do."
        raise invalid_value(name, text, why)


def _bounded_key(name: str, default: int, low: int, doc: str) -> ConfigKey:
    """A key of consumer or streams groups; the broker's bounds are checked where its configuration is known."""
    return ConfigKey(name, ConfigType.INT, str(default), doc, at_least(low), (Synonym(f"group.{name}"),))


def _share_key(name: str, default: int, check: Check, doc: str) -> ConfigKey:
    return ConfigKey(name, ConfigType.INT, str(default), doc, check, (Synonym(f"group.{name}"),))


_SESSION: Final = _bounded(1, 45_000, 60_000)
_HEARTBEAT: Final = _bounded(1, 5_000, 15_000)
_ASSIGNMENT: Final = _bounded(0, 0, 15_000)

GROUP_KEYS: Final = (
    _bounded_key("consumer.session.timeout.ms", 45_000, 1, "A member that is silent for longer is removed."),
    _bounded_key("consumer.heartbeat.interval.ms", 5_000, 1, "Time between two heartbeats of a member."),
    _bounded_key("consumer.assignment.interval.ms", 1_000, 0, "Least time between two targets of the group."),
    _share_key("share.session.timeout.ms", 45_000, at_least(1), "A member that is silent for longer is removed."),
    _share_key("share.heartbeat.interval.ms", 5_000, at_least(1), "Time between two heartbeats of a member."),
    _share_key("share.assignment.interval.ms", 1_000, _ASSIGNMENT, "Accepted and kept; targets are made at once."),
    _share_key("share.record.lock.duration.ms", 30_000, at_least(1_000), "How long a member may hold a record."),
    _share_key("share.delivery.count.limit", 5, at_least(2), "Deliveries of a record that nobody accepts or rejects."),
    _share_key(
        "share.partition.max.record.locks",
        2_000,
        at_least(100),
        "Records of a partition that are delivered and not settled.",
    ),
    ConfigKey(
        "share.auto.offset.reset",
        ConfigType.STRING,
        "latest",
        "Where the group begins in a partition: earliest, latest, or by_duration:<PnDTnHnMn.nS>.",
        _offset_reset,
        (Synonym("share.auto.offset.reset"),),
    ),
    ConfigKey(
        "share.isolation.level",
        ConfigType.STRING,
        "read_uncommitted",
        "read_committed: records of aborted transactions are never delivered.",
        one_of("read_committed", "read_uncommitted"),
        (Synonym("share.isolation.level"),),
    ),
    ConfigKey(
        "share.renew.acknowledge.enable",
        ConfigType.BOOLEAN,
        "true",
        "Whether a member may extend the time for which it holds a record.",
        None,
        (Synonym("share.renew.acknowledge.enable"),),
    ),
    ConfigKey(
        BY_KEY,
        ConfigType.BOOLEAN,
        "false",
        "Whether records with the same key are with one member of a share group at a time, and come in order.",
    ),
    ConfigKey(
        DEAD_LETTER_TOPIC,
        ConfigType.STRING,
        "",
        "The topic for records that a share group has rejected, or could not use in as many deliveries as it allows. "
        "Empty: there is none.",
        _topic_or_none,
    ),
    ConfigKey(
        COPY_DEAD,
        ConfigType.BOOLEAN,
        "false",
        "Whether a record's key, value and headers are copied to the dead-letter topic, or only where it lies.",
    ),
    _bounded_key("streams.session.timeout.ms", 45_000, 1, "A member that is silent for longer is removed."),
    _bounded_key("streams.heartbeat.interval.ms", 5_000, 1, "Time between two heartbeats of a member."),
    _bounded_key("streams.assignment.interval.ms", 1_000, 0, "Least time between two targets of the group."),
    _bounded_key("streams.num.standby.replicas", 0, 0, "Copies of each task's state, on other processes."),
    _bounded_key("streams.initial.rebalance.delay.ms", 3_000, 0, "Time that the first target waits for members."),
)


_BOUNDED: Final = {f"{protocol}.{what}": protocol for protocol, keys in BOUNDED_GROUP_KEYS.items() for what in keys}
"""Keys of single groups for which the broker has a least and a largest value, and their protocols."""
STANDBYS: Final = "streams.num.standby.replicas"


def _interval(name: str, value: ConfigValue) -> None:
    try:
        between(100, 3_600_000)(name, value)
    except InvalidConfig:
        why = f"Invalid value {value} for {name}, interval must be between 100 and 3600000 (1 hour)"
        raise invalid_request(why) from None


def _names(name: str, value: ConfigValue) -> None:
    assert isinstance(value, tuple)
    if "" in value:
        raise InvalidConfig(f"Configuration '{name}' values must not be empty.")


def _patterns(name: str, value: ConfigValue) -> None:
    """Properties of clients, each with a regular expression for its value."""
    assert isinstance(value, tuple)
    _names(name, value)
    for item in value:
        key, _, pattern = (part.strip() for part in item.partition("="))
        if key not in _CLIENT_PROPERTIES or not pattern or "=" in pattern or not _is_pattern(pattern):
            raise InvalidConfig(f"Illegal client matching pattern: {item}")


def _is_pattern(text: str) -> bool:
    try:
        whole_match(text)
    except BadPattern:
        return False
    return True


CLIENT_METRICS_KEYS: Final = (
    ConfigKey("interval.ms", ConfigType.INT, "300000", "Time between two pushes of a client's metrics.", _interval),
    ConfigKey(
        "match",
        ConfigType.LIST,
        "",
        "Whose metrics: a regular expression (RE2) for each of a client's properties; all must match.",
        _patterns,
    ),
    ConfigKey("metrics", ConfigType.LIST, "", "Which metrics: prefixes of their names; * means all.", _names),
)

KINDS: Final[Mapping[int, ResourceKind]] = {
    ResourceType.GROUP: ResourceKind(
        ResourceType.GROUP,
        ConfigSource.GROUP,
        {key.name: key for key in GROUP_KEYS},
        lambda name: InvalidConfig(f"Unknown group config name: {name}"),
        "Default group resources are not allowed.",
    ),
    ResourceType.CLIENT_METRICS: ResourceKind(
        ResourceType.CLIENT_METRICS,
        ConfigSource.CLIENT_METRICS,
        {key.name: key for key in CLIENT_METRICS_KEYS},
        lambda name: invalid_request(f"Unknown client metrics configuration: {name}"),
        "Subscription name can't be empty",
    ),
}


def _check_bounds(texts: Mapping[str, str], config: Config) -> None:
    """Groups keep to the broker's bounds. Raises Refusal."""
    for name in texts.keys() & _BOUNDED.keys():
        protocol = _BOUNDED[name]
        rest = name.removeprefix(f"{protocol}.")
        low, high = (f"group.{protocol}.{bound}.{rest}" for bound in ("min", "max"))
        if int(texts[name]) < getattr(config, low.replace(".", "_")):
            raise InvalidConfig(f"{name} must be greater than or equal to {low}")
        if int(texts[name]) > getattr(config, high.replace(".", "_")):
            raise InvalidConfig(f"{name} must be less than or equal to {high}")
    if int(texts.get(STANDBYS, 0)) > config.group_streams_max_standby_replicas:
        raise InvalidConfig(f"{STANDBYS} must be less than or equal to group.streams.max.standby.replicas")


def check(kind: ResourceKind, wanted: Mapping[str, str | None], config: Config) -> dict[str, str]:
    """The texts, if a resource may have all of them. Raises Refusal in Kafka's words."""
    for name in wanted:
        if name not in kind.keys:
            raise kind.unknown(name)
    texts = {name: text for name, text in wanted.items() if text is not None}
    for name, text in texts.items():
        kind.keys[name].parse(text)
    if kind.type is ResourceType.GROUP:
        _check_bounds(texts, config)
    return texts
