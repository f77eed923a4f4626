"""The configs of single consumer groups and metrics subscriptions, kept by name.

Keeps: described configs are durable; each change is decided by those that are stored when it is made. Table
`resourceconfig`: key = Kafka's number of the resource's type in decimal, a zero byte, the resource's name, a zero byte,
the config's name; value = its text; all UTF-8. A resource without configs has no row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from kio.schema.errors import ErrorCode

from core.cluster.registry import SettingChanges, Settings
from core.errors import StoreError
from core.store import Store
from gateway.config.model import Config
from gateway.kafka_configs.broker_configs import DescribedConfig, SynonymValue
from gateway.kafka_configs.keys import Change, ConfigSource
from gateway.kafka_configs.resource_keys import KINDS, ResourceKind, check
from gateway.refusals import Refusal, invalid_request, refusal_of

logger = logging.getLogger(__name__)

SETTINGS: Final = "resourceconfig"
STORED_CHARS_MAX: Final = 8 * 2**20
"""Most characters in the names and values of all resources together: any client may name a group. Those that another
process has just set are not counted yet."""
NAME_CHARS_SHOWN_MAX: Final = 100
"""Characters of a resource's name in a log line."""

_NONE_SET: Final[Mapping[str, str]] = {}

Place = tuple[int, str]
"""A resource's type and name."""
ChangeHook = Callable[[int, str], None]
"""Hears of the type and the name of a resource whose configs have changed."""


class ResourceConfigs:
    """The configs set for groups and subscriptions."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        self._set: dict[Place, dict[str, str]] = {}
        self._chars = 0
        self.version = 0
        """Rises with every change."""
        self._hooks: list[ChangeHook] = []
        self.take_over()

    def on_change(self, hook: ChangeHook) -> None:
        """Call `hook` on the loop when a resource's configs have changed, here or in another process."""
        self._hooks.append(hook)

    def take_over(self) -> None:
        """Put the stored configs into effect."""
        before, self._set = self._set, {}
        for key, value in self._store.registry.settings(SETTINGS).items():
            kind, _, rest = key.decode().partition("\0")
            name, _, set_name = rest.rpartition("\0")
            self._set.setdefault((int(kind), name), {})[set_name] = value.decode()
        self._chars = sum(_chars(place, texts) for place, texts in self._set.items())
        self.version += 1
        for place in before.keys() | self._set.keys():
            if before.get(place) != self._set.get(place):
                self._tell(place)

    def _tell(self, place: Place) -> None:
        for hook in self._hooks:
            hook(*place)

    def __repr__(self) -> str:
        return f"<ResourceConfigs {len(self._set)} resources, {self._chars} characters>"

    def names(self, kind: ResourceKind) -> list[str]:
        """The names of a kind's resources that have configs of their own."""
        return sorted(name for of_kind, name in self._set if of_kind == kind.type)

    def own(self, resource_type: int, name: str) -> Mapping[str, str]:
        """The configs that were set for a resource."""
        return self._set.get((resource_type, name), _NONE_SET)

    def all_of(self, kind: ResourceKind) -> dict[str, Mapping[str, str]]:
        """The configs of each of a kind's resources that has some of its own, by name."""
        return {name: texts for (of_kind, name), texts in self._set.items() if of_kind == kind.type}

    def describe(self, kind: ResourceKind, name: str) -> Iterator[DescribedConfig]:
        """Every config of a resource, even of one that has none of its own."""
        overrides = self._set.get((kind.type, name), {})
        for key in kind.keys.values():
            below = [SynonymValue(synonym.name, key.default, ConfigSource.DEFAULT) for synonym in key.synonyms]
            text, source = key.default, ConfigSource.DEFAULT
            usual = self._usual(key.name)
            if usual is not None and usual != key.default:
                text, source = usual, ConfigSource.STATIC
                below.insert(0, SynonymValue(below[0].name, usual, source))
            if key.name in overrides:
                text, source = overrides[key.name], kind.source
                below.insert(0, SynonymValue(key.name, text, source))
            yield DescribedConfig(key.name, text, key.type, source, False, key.doc, below)

    async def configure(self, kind: ResourceKind, name: str, change: Change, validate_only: bool = False) -> None:
        """Change a resource's configs in one durable step. Raises Refusal."""
        place = (int(kind.type), name)

        def decide(stored: Settings) -> SettingChanges:
            now = self._stored_of(kind, place, stored)
            wanted = check(kind, change(now), self._config)
            chars = self._chars + _chars(place, wanted) - _chars(place, now)
            if chars > max(STORED_CHARS_MAX, self._chars):
                why = f"No more than {STORED_CHARS_MAX} characters of configs are kept for groups and subscriptions"
                raise Refusal(ErrorCode.policy_violation, why)
            return {} if validate_only else _changes(place, now, wanted)

        try:
            changes = await self._store.registry.change_settings(SETTINGS, decide)
        except StoreError as failed:
            raise refusal_of(failed) from failed
        self._take_over_one(kind, place)
        if changes:
            told = {"resource": name[:NAME_CHARS_SHOWN_MAX], "configs": sorted(self.own(*place))}
            logger.info("%s configured", kind.type.name.lower().replace("_", " "), extra=told)

    def _take_over_one(self, kind: ResourceKind, place: Place) -> None:
        """Put a resource's stored configs into effect: its own changes are there, and maybe later ones of others."""
        before, now = self.own(*place), self._stored_of(kind, place, self._store.registry.settings(SETTINGS))
        if before == now:
            return
        self._chars += _chars(place, now) - _chars(place, before)
        self.version += 1
        if now:
            self._set[place] = now
        else:
            del self._set[place]
        self._tell(place)

    def _stored_of(self, kind: ResourceKind, place: Place, stored: Settings) -> dict[str, str]:
        """A resource's stored configs, found by the names that there are: the others' rows are not gone through."""
        keys = {name: _key(place, name) for name in kind.keys.keys() | self.own(*place).keys()}
        return {name: stored[key].decode() for name, key in keys.items() if key in stored}

    def _usual(self, name: str) -> str | None:
        """The broker's value of a config of consumer groups."""
        value = getattr(self._config, f"group.{name}".replace(".", "_"), None)
        return None if value is None else str(value)


def kind_of(resource_type: int, name: str) -> ResourceKind:
    """The kind of a configurable resource. Raises Refusal for another type, and without a name."""
    kind = KINDS.get(resource_type)
    if kind is None:
        raise invalid_request(f"Unknown resource type {resource_type}")
    if not name:
        raise invalid_request(kind.nameless)
    return kind


def _chars(place: Place, texts: Mapping[str, str]) -> int:
    return sum(len(place[1]) + len(name) + len(text) for name, text in texts.items())


def _changes(place: Place, now: Mapping[str, str], wanted: Mapping[str, str]) -> SettingChanges:
    changes: dict[bytes, bytes | None] = {}
    for name in now.keys() | wanted.keys():
        if name not in wanted:
            changes[_key(place, name)] = None
        elif now.get(name) != wanted[name]:
            changes[_key(place, name)] = wanted[name].encode()
    return changes


def _key(place: Place, name: str) -> bytes:
    kind, resource = place
    return f"{kind}\0{resource}\0{name}".encode()
