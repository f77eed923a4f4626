"""The settings of single share groups: the operator's configuration, and what a group's own configs say instead.

Keeps: a group's config takes effect with the next request of the group.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from gateway.config.groups import BOUNDED_GROUP_KEYS
from gateway.config.model import Config
from gateway.groups.share.group import Settings
from gateway.groups.share.partition import Limits
from gateway.kafka_configs.resource_keys import BY_KEY, COPY_DEAD, DEAD_LETTER_TOPIC, GROUP_KEYS

KNOWN_MAX: Final = 1_000
"""Groups whose settings are kept as they were read from their configs."""
_OF_BROKER: Final = frozenset(f"share.{what}" for what in BOUNDED_GROUP_KEYS["share"])
"""Keys of which the broker has a value for all groups."""
_OF_GROUPS: Final = {key.name: str(key.default) for key in GROUP_KEYS if key.name not in _OF_BROKER}
_DURATION: Final = re.compile(
    r"by_duration:\+?P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.IGNORECASE
)


class ShareSettings(NamedTuple):
    """One group's settings, as they are now. `reset_ms`: a new partition begins so long ago; None: at an end. An empty
    `dead_letter_topic` is none."""

    members: Settings
    limits: Limits
    lock_ms: int
    is_committed: bool
    may_renew: bool
    by_key: bool
    dead_letter_topic: str
    copies_dead: bool
    from_earliest: bool
    reset_ms: int | None


def share_settings(config: Config, own: Callable[[str], Mapping[str, str]]) -> Callable[[str], ShareSettings]:
    """A function from a group's id to its settings; `own` has the configs that were set for it, a new mapping after
    each change: a fetch asks several times for each of its partitions, and reading the texts takes 20 µs."""
    of_broker = {name: str(getattr(config, f"group.{name}".replace(".", "_"))) for name in _OF_BROKER}
    defaults = _OF_GROUPS | of_broker
    usual = _settings(defaults, config)

    known: dict[str, tuple[Mapping[str, str], ShareSettings]] = {}  # with the configs that they were made of

    def settings(group_id: str) -> ShareSettings:
        said = own(group_id)
        if not said:
            return usual
        found = known.get(group_id)
        if found is None or found[0] is not said:
            if len(known) >= KNOWN_MAX:
                known.clear()
            found = known[group_id] = said, _settings({**defaults, **said}, config)
        return found[1]

    return settings


def _settings(texts: Mapping[str, str], config: Config) -> ShareSettings:
    lock_ms = int(texts["share.record.lock.duration.ms"])
    reset = texts["share.auto.offset.reset"]
    topic = texts[DEAD_LETTER_TOPIC]
    return ShareSettings(
        members=Settings(
            session_timeout_ms=int(texts["share.session.timeout.ms"]),
            heartbeat_interval_ms=int(texts["share.heartbeat.interval.ms"]),
            max_size=config.group_share_max_size,
        ),
        limits=Limits(
            lock_s=lock_ms / 1_000,
            deliveries=int(texts["share.delivery.count.limit"]),
            in_flight=int(texts["share.partition.max.record.locks"]),
            keeps_dead=bool(topic),
        ),
        lock_ms=lock_ms,
        is_committed=texts["share.isolation.level"] == "read_committed",
        may_renew=_is_true(texts["share.renew.acknowledge.enable"]),
        by_key=_is_true(texts[BY_KEY]),
        dead_letter_topic=topic,
        copies_dead=_is_true(texts[COPY_DEAD]),
        from_earliest=reset == "earliest",
        reset_ms=_duration_ms(reset),
    )


def _is_true(text: str) -> bool:
    return text.strip().lower() == "true"


def _duration_ms(reset: str) -> int | None:
    found = _DURATION.fullmatch(reset)
    if found is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return round((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1_000)
