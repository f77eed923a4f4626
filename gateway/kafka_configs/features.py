"""The levels of features (KIP-584) that are in effect, which an administrator may raise and lower.

Keeps: a level in effect is durable, and one that this release knows; a change is made as a whole or not at all, and is
decided by the levels that are stored when it is made. A feature that nobody changed has its highest level; at level 0
it is off, and clients are not told of it.

Table `features`: key = the feature's name, UTF-8; value = its level in decimal, ASCII. Key `\\0changes`, which no
feature can have: the number of changes so far, in decimal. Both are written in one step.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kio.schema.errors import ErrorCode

from core.cluster.registry import SettingChanges, Settings
from core.errors import StoreError
from core.store import Store
from gateway.refusals import Refusal, refusal_of

logger = logging.getLogger(__name__)

TABLE: Final = "features"
CHANGES_KEY: Final = b"\0changes"
FIRST_EPOCH: Final = 2
NAME_CHARS_SHOWN_MAX: Final = 100
FIXED: Final = "metadata.version"
"""The feature that stands for the APIs and formats of a whole release: it goes up with a release, and never down."""


class Kind(enum.IntEnum):
    """FeatureUpdate's `upgrade_type`."""

    UPGRADE = 1
    SAFE_DOWNGRADE = 2
    UNSAFE_DOWNGRADE = 3


@dataclass(frozen=True, slots=True)
class LevelChange:
    """One feature's wanted level, and the kind of change that its client takes it for."""

    feature: str
    level: int
    kind: int


class FinalizedFeatures:
    """The levels in effect. `supported`: the lowest and highest level by feature."""

    def __init__(self, store: Store, supported: Mapping[str, tuple[int, int]], node_id: int) -> None:
        self.supported = supported
        self._store = store
        self._node_id = node_id
        self._levels: dict[str, int] = {}
        self.take_over()

    def take_over(self) -> None:
        """Put the stored levels into effect."""
        stored = self._store.registry.settings(TABLE)
        self._changes = _changes_of(stored)
        self._levels = self._levels_of(stored)
        for name, level in _stored_levels(stored).items():
            if (in_effect := self._levels.get(name)) != level:
                told = {"feature": name, "level": level, "in_effect": in_effect}
                logger.warning("a stored feature level is left out: this release does not know it", extra=told)

    def __repr__(self) -> str:
        return f"<FinalizedFeatures {self._levels}>"

    def _levels_of(self, stored: Settings) -> dict[str, int]:
        """The level in effect of each feature that is supported."""
        levels = {name: highest for name, (_, highest) in self.supported.items()}
        for name, level in _stored_levels(stored).items():
            lowest, highest = self.supported.get(name, (0, -1))
            if lowest <= level <= highest:
                levels[name] = level
        return levels

    @property
    def levels(self) -> dict[str, int]:
        """Level by feature, without those that are off."""
        return {name: level for name, level in self._levels.items() if level}

    @property
    def epoch(self) -> int:
        """A number that rises with every change, so that clients know which of two answers is newer."""
        return FIRST_EPOCH + self._changes

    def level(self, name: str) -> int:
        return self._levels.get(name, 0)

    async def update(self, changes: Sequence[LevelChange], *, validate_only: bool) -> None:
        """Put all levels into effect, durably. Raises Refusal, in Kafka's words, for the first that cannot be."""

        def decide(stored: Settings) -> SettingChanges:
            levels = self._levels_of(stored)
            for change in changes:
                if reason := self._why_not(change, levels):
                    raise _refused(change, reason)
            wanted = {change.feature: change.level for change in changes}
            changed = {name: level for name, level in wanted.items() if level != levels[name]}
            if validate_only or not changed:
                return {}
            rows = {name.encode(): str(level).encode() for name, level in changed.items()}
            return rows | {CHANGES_KEY: str(_changes_of(stored) + 1).encode()}

        try:
            changed = await self._store.registry.change_settings(TABLE, decide)
        except StoreError as failed:
            raise refusal_of(failed) from failed
        self.take_over()
        if changed:
            names = [key.decode() for key in changed if key != CHANGES_KEY]
            logger.info("features changed", extra={"levels": {name: self._levels[name] for name in names}})

    def _why_not(self, change: LevelChange, levels: Mapping[str, int]) -> str | None:
        if change.kind not in set(Kind):
            return "The controller does not support the given upgrade type."
        if change.level < 0:
            return "A feature version cannot be less than 0."
        if change.feature not in self.supported:
            return f"Local controller {self._node_id} does not support this feature."
        lowest, highest = self.supported[change.feature]
        if not lowest <= change.level <= highest:
            return f"Local controller {self._node_id} only supports versions {lowest}-{highest}"
        now = levels[change.feature]
        if change.level < now and change.kind == Kind.UPGRADE:
            return (
                "Can't downgrade the version of this feature without setting the upgrade type to either safe or "
                "unsafe downgrade."
            )
        if change.level > now and change.kind != Kind.UPGRADE:
            return "Can't downgrade to a newer version."
        if change.level < now and change.feature == FIXED:
            return "Penstock's formats do not go back to those of an older release."
        return None


def _stored_levels(stored: Settings) -> dict[str, int]:
    return {key.decode(): int(value) for key, value in stored.items() if key != CHANGES_KEY}


def _changes_of(stored: Settings) -> int:
    return int(stored.get(CHANGES_KEY, b"0"))


def _refused(change: LevelChange, reason: str) -> Refusal:
    return Refusal(
        ErrorCode.invalid_update_version,
        "The update failed for all features since the following feature had an error: "
        f"Invalid update version {change.level} for feature {change.feature[:NAME_CHARS_SHOWN_MAX]}. {reason}",
    )
