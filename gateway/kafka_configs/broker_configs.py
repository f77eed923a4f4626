"""The broker's configuration as clients see and change it, and the topic defaults that follow from it.

Four layers, strongest first: set for this node, set for the cluster (both at run time, kept in table
`brokerconfig`), given at start, default. Topic configs lie above all of them.

Keeps: the configuration in effect is that of the table; a change is checked as a whole, beside what the table has when
the change is made; it is made durable, and only then takes effect. Table `brokerconfig`: key = entity ("" for the
cluster, else the node id in decimal), a zero byte, the config's name; value = its text; all UTF-8.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import dropwhile
from typing import Final

from kio.schema.errors import ErrorCode

from core.cluster.registry import SettingChanges, Settings
from gateway.config.loading import Config
from gateway.kafka_configs.broker_keys import CLEANER_BUFFER, CLEANER_THREADS, BrokerKey, broker_keys
from gateway.kafka_configs.keys import LONG_MAX, Change, ConfigKey, ConfigSource, ConfigType, ConfigValue, ResourceType
from gateway.kafka_configs.topic_config import TopicConfig, check_names, check_together, topic_config
from gateway.kafka_configs.topic_keys import GROUPS, MIN_BYTES, MIN_MS, TOPIC_KEYS
from gateway.refusals import InvalidConfig, Refusal

logger = logging.getLogger(__name__)

SETTINGS: Final = "brokerconfig"
CLUSTER: Final = ""
ENTRIES_MAX: Final = 1_000
"""Most configs set for one entity: Kafka keeps unknown names too, so the number needs a bound."""
CLEANER_THREAD_BYTES_MIN: Final = 2**20
PARSED_MAX: Final = 4_096
"""Different sets of overrides whose parsed form is cached."""


_KEEP_EVERYTHING: Final[Mapping[str, ConfigValue]] = {
    "cleanup.policy": (),
    "retention.bytes": -1,
    "retention.ms": -1,
    GROUPS: (),
    MIN_BYTES: LONG_MAX,
    MIN_MS: LONG_MAX,
    "min.compaction.lag.ms": LONG_MAX,
    "delete.retention.ms": LONG_MAX,
}
"""Values for unreadable configs that decide about deletion: nothing is deleted."""


@dataclass(frozen=True, slots=True)
class SynonymValue:
    """One place that sets a config."""

    name: str
    value: str | None
    source: ConfigSource


@dataclass(frozen=True, slots=True)
class DescribedConfig:
    """One config as DescribeConfigs shows it."""

    name: str
    value: str | None
    type: ConfigType
    source: ConfigSource
    read_only: bool
    doc: str
    synonyms: list[SynonymValue] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers below topics, at one moment."""

    node: str
    keys: Mapping[str, BrokerKey]
    set_at_run_time: Mapping[str, Mapping[str, str]]
    """By entity: the cluster, and this node."""

    def values(self, names: list[str]) -> Iterator[SynonymValue]:
        """Every place that sets one of the names, strongest first."""
        for entity, source in ((self.node, ConfigSource.NODE), (CLUSTER, ConfigSource.CLUSTER)):
            for name in names:
                if name in self.set_at_run_time[entity]:
                    yield SynonymValue(name, self.set_at_run_time[entity][name], source)
        for name in names:
            if self.keys[name].static is not None:
                yield SynonymValue(name, self.keys[name].static, ConfigSource.STATIC)
        for name in names:
            if self.keys[name].key.default is not None:
                yield SynonymValue(name, self.keys[name].key.default, ConfigSource.DEFAULT)

    def synonyms(self, names: list[str], first: str) -> list[SynonymValue]:
        """The places as DescribeConfigs lists them: those from the first that sets `first` on."""
        return list(dropwhile(lambda value: value.name != first, self.values(names)))

    def topic_default(self, key: ConfigKey) -> str:
        """The value for a topic without an override."""
        by_name = {synonym.name: synonym for synonym in key.synonyms}
        for value in self.values(list(by_name)):
            return by_name[value.name].convert(str(value.value))
        assert key.default is not None, "a topic config without synonyms has a default of its own"
        return key.default

    def topic_defaults(self) -> dict[str, ConfigValue]:
        """All topic configs of a topic without overrides. Raises InvalidConfig."""
        return {name: key.parse(self.topic_default(key)) for name, key in TOPIC_KEYS.items()}


class BrokerConfigs:
    """All layers of one broker."""

    def __init__(self, config: Config) -> None:
        self.node = str(config.node_id)
        self.keys: Mapping[str, BrokerKey] = broker_keys(config)
        self._parsed: dict[frozenset[tuple[str, str]], TopicConfig] = {}
        self._use({CLUSTER: {}, self.node: {}})

    def _use(self, set_at_run_time: Mapping[str, Mapping[str, str]]) -> None:
        self._layers = Layers(self.node, self.keys, set_at_run_time)
        self._defaults = self._layers.topic_defaults()
        self._parsed.clear()

    # Topics

    def policy_for(self, overrides: Mapping[str, str]) -> TopicConfig:
        """The parsed form of accepted overrides, for the store and for Produce."""
        known = frozenset(overrides.items())
        found = self._parsed.get(known)
        if found is None:
            found = topic_config(self._defaults | self._readable(overrides))
            if len(self._parsed) >= PARSED_MAX:
                self._parsed.clear()
            self._parsed[known] = found
        return found

    def _readable(self, overrides: Mapping[str, str]) -> dict[str, ConfigValue]:
        """Parsed overrides, without those that this release does not know."""
        values: dict[str, ConfigValue] = {}
        for name, text in overrides.items():
            try:
                check_names({name: text})
                values[name] = TOPIC_KEYS[name].parse(text)
            except InvalidConfig as refused:
                logger.warning("a stored topic config is left out: %s", refused.message)
                if name in _KEEP_EVERYTHING:
                    values[name] = _KEEP_EVERYTHING[name]
        return values

    def check_topic(self, overrides: Mapping[str, str | None]) -> dict[str, str]:
        """The overrides, if a topic may have all of them. Raises InvalidConfig."""
        if nulls := [name for name, text in overrides.items() if text is None]:
            raise InvalidConfig(f"Null value not supported for topic configs: {','.join(nulls)}")
        texts = {name: text for name, text in overrides.items() if text is not None}
        check_names(texts)
        parsed = {name: TOPIC_KEYS[name].parse(text) for name, text in texts.items()}
        check_together(self._defaults | parsed)
        return texts

    def describe_topic(self, overrides: Mapping[str, str]) -> Iterator[DescribedConfig]:
        """Every topic config with its value, its source and its synonyms."""
        for name, key in TOPIC_KEYS.items():
            names = [synonym.name for synonym in key.synonyms]
            below = self._layers.synonyms(names, names[0]) if names else []
            if name in overrides:
                below.insert(0, SynonymValue(name, overrides[name], ConfigSource.TOPIC))
            source = below[0].source if below else ConfigSource.DEFAULT
            text = overrides.get(name, self._layers.topic_default(key))
            yield DescribedConfig(name, text, key.type, source, False, key.doc, below)

    # The broker itself

    def describe_node(self) -> Iterator[DescribedConfig]:
        """Every config of this broker."""
        for name, entry in self.keys.items():
            # Kafka shows a family of keys (hours, minutes, ms) each with its own value only.
            shown = next(self._layers.values([name]), None)
            family = self._layers.synonyms(self._family(name), name)
            source = family[0].source if family else ConfigSource.DEFAULT
            text = shown.value if shown else None
            yield DescribedConfig(name, text, entry.key.type, source, not entry.dynamic, entry.key.doc, family)

    def describe_cluster(self) -> Iterator[DescribedConfig]:
        """The configs set at run time for all brokers."""
        for name, text in sorted(self.current(CLUSTER).items()):
            synonym = SynonymValue(name, text, ConfigSource.CLUSTER)
            entry = self.keys.get(name)
            # As Kafka: an unknown config may be a secret.
            kind, doc = (entry.key.type, entry.key.doc) if entry else (ConfigType.PASSWORD, "")
            yield DescribedConfig(name, text, kind, synonym.source, entry is None or not entry.dynamic, doc, [synonym])

    def current(self, entity: str) -> Mapping[str, str]:
        """The configs set at run time for the cluster or for this node."""
        return self._layers.set_at_run_time[entity]

    def is_list(self, resource_type: int, name: str) -> bool:
        """May APPEND and SUBTRACT change this config of a topic or broker?"""
        key = self._key(resource_type, name)
        return key is not None and key.type is ConfigType.LIST

    def default_of(self, resource_type: int, name: str) -> str:
        """A config's value without an override on the resource, from which APPEND and SUBTRACT start."""
        key = self._key(resource_type, name)
        if resource_type == ResourceType.TOPIC and key is not None:
            return self._layers.topic_default(key)
        return (key and key.default) or ""

    def _key(self, resource_type: int, name: str) -> ConfigKey | None:
        if resource_type == ResourceType.TOPIC:
            return TOPIC_KEYS.get(name)
        entry = self.keys.get(name)
        return entry.key if entry else None

    def check_broker(
        self, entity: str, wanted: Mapping[str, str | None], beside: Mapping[str, Mapping[str, str]] | None = None
    ) -> dict[str, str]:
        """The configs, if an entity may have all of them, beside those of all entities that are set at run time: now,
        if no others are given. Raises Refusal: INVALID_REQUEST, as Kafka."""
        texts = {name: text for name, text in wanted.items() if text is not None}
        fixed = [name for name in wanted if name in self.keys and not self.keys[name].dynamic]
        if fixed:
            raise _bad(f"Cannot update these configs dynamically: [{', '.join(fixed)}]")
        if len(wanted) > ENTRIES_MAX:
            raise _bad(f"No more than {ENTRIES_MAX} configs can be set for a broker")
        try:
            for name, text in texts.items():
                if name in self.keys:
                    self.keys[name].key.parse(text)
            beside = self._layers.set_at_run_time if beside is None else beside
            changed = Layers(self.node, self.keys, {**beside, entity: texts})
            check_together(changed.topic_defaults())
            _check_cleaner(changed)
        except InvalidConfig as refused:
            raise _bad(refused.message) from refused
        return texts

    def changes(self, entity: str, change: Change, stored: Settings) -> SettingChanges:
        """The changes that turn the stored configs of an entity into those that are wanted. Raises Refusal."""
        set_now = self._readable_of(stored)
        now = set_now[entity]
        wanted = self.check_broker(entity, change(now), set_now)
        gone: dict[bytes, bytes | None] = {_table_key(entity, name): None for name in now if name not in wanted}
        return gone | {
            _table_key(entity, name): text.encode() for name, text in wanted.items() if now.get(name) != text
        }

    def take_over(self, stored: Settings) -> bool:
        """Put the durable configs into effect; returns whether those are others than before."""
        set_at_run_time = self._readable_of(stored)
        if set_at_run_time == self._layers.set_at_run_time:
            return False
        self._use(set_at_run_time)
        return True

    def _readable_of(self, stored: Settings) -> dict[str, dict[str, str]]:
        """The stored configs that take effect here, by entity: the cluster, and this node."""
        fresh: dict[str, dict[str, str]] = {CLUSTER: {}, self.node: {}}
        for key, value in stored.items():
            entity, _, name = key.decode().partition("\0")
            if entity in fresh and self._is_taken(name, value.decode()):  # another node's configs are not ours
                fresh[entity][name] = value.decode()
        return fresh

    def _is_taken(self, name: str, text: str) -> bool:
        """Does this release accept a value that an earlier one has stored? It must start even if not."""
        entry = self.keys.get(name)
        try:
            if entry is not None and not entry.dynamic:
                raise InvalidConfig(f"{name} cannot be set at run time")
            if entry is not None:
                entry.key.parse(text)
        except InvalidConfig as refused:
            logger.warning("a stored broker config is left out: %s", refused.message)
            return False
        return True

    def _family(self, name: str) -> list[str]:
        """The keys that set the same topic config, finest first; only the key itself if there is no other."""
        for key in TOPIC_KEYS.values():
            names = [synonym.name for synonym in key.synonyms]
            if name in names:
                return names
        return [name]


def _check_cleaner(layers: Layers) -> None:
    """Raises InvalidConfig for less memory than Kafka's cleaner threads would need."""
    memory, threads = (int(str(next(layers.values([name])).value)) for name in (CLEANER_BUFFER, CLEANER_THREADS))
    if not threads or memory // threads <= CLEANER_THREAD_BYTES_MIN:
        raise InvalidConfig(f"requirement failed: {CLEANER_BUFFER} must be at least 1MB per cleaner thread.")


def _table_key(entity: str, name: str) -> bytes:
    return f"{entity}\0{name}".encode()


def _bad(message: str | None) -> Refusal:
    return Refusal(ErrorCode.invalid_request, message)
