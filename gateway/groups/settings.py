"""The settings of single consumer and streams groups: the operator's, and what a group's own configs say instead.

Keeps: a group's config takes effect with the next request of the group; a look-up without own configs is one
dictionary access.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.config.model import Config
from gateway.groups.consumer.rules import GroupSettings
from gateway.groups.streams.messages import StreamsSettings

SESSION: Final = "consumer.session.timeout.ms"
HEARTBEAT: Final = "consumer.heartbeat.interval.ms"
ASSIGNMENT: Final = "consumer.assignment.interval.ms"


def settings_of(config: Config, own: Callable[[str], Mapping[str, str]]) -> Callable[[str], GroupSettings]:
    """A function from a group's id to its settings; `own` has the configs that were set for it."""
    usual = GroupSettings(
        config.group_consumer_session_timeout_ms,
        config.group_consumer_heartbeat_interval_ms,
        config.group_consumer_assignment_interval_ms,
    )

    def settings(group_id: str) -> GroupSettings:
        said = own(group_id)
        if not said:
            return usual
        return GroupSettings(
            int(said.get(SESSION, usual.session_timeout_ms)),
            int(said.get(HEARTBEAT, usual.heartbeat_interval_ms)),
            int(said.get(ASSIGNMENT, usual.assignment_interval_ms)),
        )

    return settings


def streams_settings_of(config: Config, own: Callable[[str], Mapping[str, str]]) -> Callable[[str], StreamsSettings]:
    """The same for streams groups."""
    usual = StreamsSettings(
        session_timeout_ms=config.group_streams_session_timeout_ms,
        heartbeat_interval_ms=config.group_streams_heartbeat_interval_ms,
        assignment_interval_ms=config.group_streams_assignment_interval_ms,
        initial_delay_ms=config.group_streams_initial_rebalance_delay_ms,
        standbys=config.group_streams_num_standby_replicas,
    )

    def settings(group_id: str) -> StreamsSettings:
        said = own(group_id)
        if not said:
            return usual
        return StreamsSettings(
            session_timeout_ms=int(said.get("streams.session.timeout.ms", usual.session_timeout_ms)),
            heartbeat_interval_ms=int(said.get("streams.heartbeat.interval.ms", usual.heartbeat_interval_ms)),
            assignment_interval_ms=int(said.get("streams.assignment.interval.ms", usual.assignment_interval_ms)),
            initial_delay_ms=int(said.get("streams.initial.rebalance.delay.ms", usual.initial_delay_ms)),
            standbys=int(said.get("streams.num.standby.replicas", usual.standbys)),
        )

    return settings
