"""The settings of single consumer groups: the operator's configuration, and what a group's own configs say instead.

Keeps: a group's config takes effect with the next request of the group; a look-up without own configs is one
dictionary access.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.config.model import Config
from gateway.groups.consumer.rules import GroupSettings

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
