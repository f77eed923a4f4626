"""The settings of single share groups: Kafka's defaults, and what a group's own configs say instead.

Keeps: a group's config takes effect with the next request of the group.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from gateway.groups.share.group import Settings
from gateway.groups.share.partition import Limits
from gateway.kafka_configs.resource_keys import GROUP_KEYS

MEMBERS_MAX: Final = 200
"""Members of a group: Kafka's `group.share.max.size`."""

_DEFAULTS: Final = {key.name: str(key.default) for key in GROUP_KEYS if key.name.startswith("share.")}
_DURATION: Final = re.compile(
    r"by_duration:\+?P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.IGNORECASE
)


class ShareSettings(NamedTuple):
    """One group's settings, as they are now. `reset_ms`: a new partition begins so long ago; None: at an end."""

    members: Settings
    limits: Limits
    lock_ms: int
    is_committed: bool
    may_renew: bool
    from_earliest: bool
    reset_ms: int | None


def share_settings(own: Callable[[str], Mapping[str, str]]) -> Callable[[str], ShareSettings]:
    """A function from a group's id to its settings; `own` has the configs that were set for it."""
    usual = _settings(_DEFAULTS)

    def settings(group_id: str) -> ShareSettings:
        said = own(group_id)
        return _settings({**_DEFAULTS, **said}) if said else usual

    return settings


def _settings(texts: Mapping[str, str]) -> ShareSettings:
    lock_ms = int(texts["share.record.lock.duration.ms"])
    reset = texts["share.auto.offset.reset"]
    return ShareSettings(
        members=Settings(
            session_timeout_ms=int(texts["share.session.timeout.ms"]),
            heartbeat_interval_ms=int(texts["share.heartbeat.interval.ms"]),
            max_size=MEMBERS_MAX,
        ),
        limits=Limits(
            lock_s=lock_ms / 1_000,
            deliveries=int(texts["share.delivery.count.limit"]),
            in_flight=int(texts["share.partition.max.record.locks"]),
        ),
        lock_ms=lock_ms,
        is_committed=texts["share.isolation.level"] == "read_committed",
        may_renew=texts["share.renew.acknowledge.enable"].lower() == "true",
        from_earliest=reset == "earliest",
        reset_ms=_duration_ms(reset),
    )


def _duration_ms(reset: str) -> int | None:
    found = _DURATION.fullmatch(reset)
    if found is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return round((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1_000)
