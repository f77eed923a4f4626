"""Topics are streams, partitions are slots: creating, growing, configuring and deleting them.

Keeps: definitions change one request at a time, so a change's checks still hold when it is made; where other processes
change them, too, it is decided in the registry. A change is answered when it is durable. Reading a topic never waits
for a change. Partitions are charged to their client's quota after all checks, before anything is changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

from kio.schema.errors import ErrorCode

from core.cluster.registry import SettingChanges, Settings, common_form
from core.deciding import Configure
from core.errors import StoreError, UnknownStream
from core.store import Store
from core.streams.live import Stream
from core.streams.state import StreamState
from core.turns import in_turns
from gateway.config.loading import Config
from gateway.kafka_configs.broker_configs import CLUSTER, SETTINGS, BrokerConfigs
from gateway.kafka_configs.keys import Change
from gateway.refusals import Refusal, refusal_of
from gateway.topics.checks import check_growth, check_name
from gateway.topics.roll import DeletionHook, Roll

logger = logging.getLogger(__name__)

Charge = Callable[[int], None]
"""Takes partitions that are about to be made or deleted. Raises Refusal when their client must pause first."""

_A = TypeVar("_A")
_T = TypeVar("_T")
_R = TypeVar("_R")
_S = TypeVar("_S")

CONSUMER_OFFSETS: Final = "__consumer_offsets"
TRANSACTION_STATE: Final = "__transaction_state"
INTERNAL: Final = frozenset({CONSUMER_OFFSETS, "__share_group_state", TRANSACTION_STATE})
"""Topics in which Kafka keeps its own state."""
VIEWED: Final = frozenset({CONSUMER_OFFSETS, TRANSACTION_STATE})
"""Of these, the ones that are made from tables when they are read (`gateway/internal_topics`)."""
CLUSTER_METADATA: Final = "__cluster_metadata"

CHANGES_AT_ONCE: Final = 500
"""Definitions that wait for the log together: they share syncs, and each holds a few KB."""
LOGGED_ONE_BY_ONE_MAX: Final = 20
"""Topics of one request that are logged by name; formatting 10,000 lines would take a second."""
AUTO_CREATIONS_MAX: Final = 1_000
"""Topics being created because clients asked for them; for more, clients must ask again."""


def _free(partitions: int) -> None:
    """Charges nothing: what the gateway does by itself has no quota."""


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic that passed every check."""

    name: str
    partitions: int
    overrides: dict[str, str]


@dataclass(frozen=True, slots=True)
class WantedTopic:
    """A topic as a request describes it; -1 partitions mean the default."""

    name: str
    partitions: int = -1
    overrides: Mapping[str, str | None] | None = None
    refusal: Refusal | None = None
    """The fault of its replicas, if there is one; its name and configs are checked first."""


class Topics:
    """All topics of the broker. Look-ups are the store's own dictionaries."""

    def __init__(self, config: Config, store: Store, configs: BrokerConfigs) -> None:
        self.configs = configs
        self._config = config
        self._store = store
        self._streams = store.streams
        self.get: Callable[[str], Stream | None] = store.streams.get
        self.by_uuid: Callable[[UUID], Stream | None] = store.streams.by_uuid
        self._changing = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()  # kept here so that none is collected before its end
        self._creations: dict[str, asyncio.Task[None]] = {}
        self._roll = Roll()
        self.former_names = self._roll.former_names
        self.on_deletion: Callable[[DeletionHook], None] = self._roll.on_deletion
        self.on_change: Callable[[Callable[[Stream], None]], None] = self._roll.on_change
        for stream in store.streams:
            self._roll.came(stream)
        self.take_over_configs()

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def partition_count(self) -> int:
        return self._roll.partition_count

    # --- Other processes ----------------------------------------------------------------------

    async def find(self, topic: str | UUID) -> Stream | None:
        """The topic of that name or id, also if another process has just created it. Raises StoreError."""
        get: Callable[[Any], Stream | None] = self.get if isinstance(topic, str) else self.by_uuid
        found = get(topic)
        if found is None and self._store.is_shared:
            await self._store.catch_up()
            found = get(topic)
        return found

    def followed(self, changed: Iterable[StreamState], deleted: Iterable[StreamState]) -> None:
        """What all processes have changed, this one too."""
        for state in changed:
            stream = self.by_uuid(state.uuid)
            if stream is not None:
                self._roll.came(stream)
        for state in deleted:
            self._roll.went(state.uuid)

    def take_over_configs(self) -> None:
        """Put the stored configs of brokers into effect. Topics are gone through only if others are in effect."""
        if self.configs.take_over(self._store.registry.settings(SETTINGS)):
            self._store.refresh_policies()

    # --- Creating -----------------------------------------------------------------------------

    async def create(
        self, wanted: Sequence[WantedTopic], validate_only: bool = False, charge: Charge = _free
    ) -> Sequence[NewTopic | Stream | Refusal]:
        """Create topics, each on its own. A topic that was only checked comes back as a NewTopic."""
        return await self._to_the_end(self._create_all(wanted, validate_only, charge))

    async def _create_all(
        self, wanted: Sequence[WantedTopic], validate_only: bool, charge: Charge
    ) -> Sequence[NewTopic | Stream | Refusal]:
        plans = await self._plan_all(wanted, charge)
        if validate_only:
            return plans
        outcomes = await _each(plans, self._create)
        _log_each("created", [outcome for outcome in outcomes if isinstance(outcome, Stream)])
        return outcomes

    async def _plan_all(self, wanted: Sequence[WantedTopic], charge: Charge) -> list[NewTopic | Refusal]:
        plans: list[NewTopic | Refusal] = []
        alike: dict[str, str] = {}
        topics = partitions = 0
        async for topic in in_turns(wanted):
            try:
                plan = self.plan(topic)
                other = alike.setdefault(common_form(plan.name), plan.name)
                if other != plan.name:
                    raise _collision(plan.name, other)
                self._check_room(partitions + plan.partitions, topics + 1)
                charge(plan.partitions)
                topics, partitions = topics + 1, partitions + plan.partitions
                plans.append(plan)
            except Refusal as refused:
                plans.append(refused)
        return plans

    def plan(self, wanted: WantedTopic) -> NewTopic:
        """Check a new topic in Kafka's order. Raises Refusal."""
        check_name(wanted.name)
        if wanted.name == CLUSTER_METADATA:
            raise Refusal(
                ErrorCode.invalid_request,
                f"Creation of internal topic {CLUSTER_METADATA} is prohibited.",
            )
        self._check_free(wanted.name)
        overrides = self.configs.check_topic(wanted.overrides or {})
        if wanted.refusal is not None:
            raise wanted.refusal
        partitions = self._config.num_partitions if wanted.partitions == -1 else wanted.partitions
        if partitions < 1:
            raise Refusal(
                ErrorCode.invalid_partitions,
                "Number of partitions was set to an invalid non-positive value.",
            )
        return NewTopic(wanted.name, partitions, overrides)

    def _check_room(self, partitions: int, topics: int = 0) -> None:
        """Raises Refusal when the new ones would exceed the bound on topics or on partitions."""
        config = self._config
        if len(self) + topics > config.topics_max:
            raise Refusal(ErrorCode.policy_violation, f"There are {len(self)} topics, topics.max={config.topics_max}.")
        if self.partition_count + partitions > config.partitions_max:
            why = f"There are {self.partition_count} partitions, partitions.max={config.partitions_max}."
            raise Refusal(ErrorCode.policy_violation, why)

    def _check_free(self, name: str) -> None:
        if self.get(name) is not None or name in VIEWED:
            raise Refusal(ErrorCode.topic_already_exists, f"Topic '{name}' already exists.")
        if (alike := self._roll.alike(name)) is not None:
            raise _collision(name, alike)

    async def _create(self, plan: NewTopic) -> Stream:
        stream = await self._store.create_stream(plan.name, slots=plan.partitions, config=plan.overrides)
        self._roll.came(stream)
        return stream

    def auto_create(self, name: str, charge: Charge, created: Callable[[Stream], None]) -> None:
        """Begin to create a topic that a client asked for; the client finds it when it asks again. `created` hears of
        it then."""
        if name in self._creations or len(self._creations) >= AUTO_CREATIONS_MAX:
            return
        if len(self) + len(self._creations) >= self._config.auto_create_topics_max:
            logger.warning(
                "a topic is not created for a client: there are as many as auto.create.topics.max allows",
                extra={"topic": name, "topics": len(self)},
            )
            return
        task = asyncio.create_task(self._auto_create(name, charge, created))
        self._creations[name] = task
        task.add_done_callback(lambda _: self._creations.pop(name, None))

    async def _auto_create(self, name: str, charge: Charge, created: Callable[[Stream], None]) -> None:
        (outcome,) = await self.create([WantedTopic(name)], charge=charge)
        if isinstance(outcome, Stream):
            created(outcome)
        if isinstance(outcome, Refusal) and outcome.code is not ErrorCode.topic_already_exists:
            logger.warning(
                "a topic could not be created for a client",
                extra={"topic": name, "reason": outcome.message},
            )

    def may_be_created(self, name: str) -> bool:
        """Whether this unknown topic is created when a client asks for it."""
        return self._config.auto_create_topics_enable and name not in INTERNAL | {CLUSTER_METADATA}

    def check_creatable(self, name: str) -> None:
        """Raises Refusal when no topic of that name could be created."""
        check_name(name)
        if self.get(name) is None:
            self._check_free(name)

    # --- Changing -----------------------------------------------------------------------------

    async def grow(
        self, wanted: Mapping[str, int], validate_only: bool = False, charge: Charge = _free
    ) -> dict[str, Refusal | None]:
        """Give topics more partitions, each on its own."""
        return await self._to_the_end(self._grow_all(wanted, validate_only, charge))

    async def _grow_all(
        self, wanted: Mapping[str, int], validate_only: bool, charge: Charge
    ) -> dict[str, Refusal | None]:
        checked: list[tuple[Stream, int] | Refusal] = []
        added = 0
        async for name, count in in_turns(wanted.items()):
            try:
                stream, added = self._plan_growth(name, count, added, charge)
                checked.append((stream, count))
            except Refusal as refused:
                checked.append(refused)
        outcomes = checked if validate_only else await _each(checked, self._grow)
        return dict(zip(wanted, map(_refusal_only, outcomes), strict=True))

    def _plan_growth(self, name: str, count: int, added: int, charge: Charge) -> tuple[Stream, int]:
        """The topic, and the partitions that its request adds so far, this topic's included."""
        stream = self.existing(name)
        check_growth(stream, count)
        added += count - stream.slot_count
        self._check_room(added)
        charge(count - stream.slot_count)
        return stream, added

    async def _grow(self, growth: tuple[Stream, int]) -> None:
        stream, count = growth
        before = stream.slot_count
        try:
            await self._store.grow_stream(stream, count)
        except ValueError:
            check_growth(stream, count)  # it raises Refusal if another process was faster
            raise
        self._roll.came(stream)
        logger.info("topic grown", extra={"topic": stream.name, "partitions": count, "before": before})

    async def configure(
        self,
        changes: Mapping[str, Change],
        validate_only: bool = False,
    ) -> dict[str, Refusal | None]:
        """Change topics' overrides: each function makes new ones from the present ones."""
        return await self._to_the_end(self._configure_all(changes, validate_only))

    async def _configure_all(self, changes: Mapping[str, Change], validate_only: bool) -> dict[str, Refusal | None]:
        checked = [_attempt(self._plan_config, name, change) async for name, change in in_turns(changes.items())]
        outcomes = checked if validate_only else await _each(checked, self._configure)
        return dict(zip(changes, map(_refusal_only, outcomes), strict=True))

    def _plan_config(self, name: str, change: Change) -> tuple[Stream, Configure]:
        """The topic, and what makes its new overrides of the newest ones. Kafka checks the values before it checks
        whether the topic exists."""
        stream = self.get(name)

        def configure(now: Mapping[str, str]) -> dict[str, str]:
            return self.configs.check_topic(change(now))

        configure(stream.config if stream else {})
        if stream is None and name in VIEWED:
            raise unchangeable(name)
        if stream is None:
            raise Refusal(ErrorCode.unknown_topic_or_partition, f"The topic '{name}' does not exist.")
        return stream, configure

    async def _configure(self, planned: tuple[Stream, Configure]) -> None:
        """Where other processes change topics, too, nothing is the same before it is decided."""
        stream, configure = planned
        if not self._store.is_shared and dict(stream.config) == configure(stream.config):
            return
        await self._store.update_stream(stream, config=configure)
        logger.info("topic configured", extra={"topic": stream.name, "configs": sorted(stream.config)})

    async def configure_broker(
        self,
        entity: str,
        change: Change,
        validate_only: bool = False,
    ) -> None:
        """Change the dynamic configs of the cluster or of this node. Raises Refusal."""
        await self._to_the_end(self._configure_broker(entity, change, validate_only))

    async def _configure_broker(self, entity: str, change: Change, validate_only: bool) -> None:
        def decide(stored: Settings) -> SettingChanges:
            changes = self.configs.changes(entity, change, stored)
            return {} if validate_only else changes

        try:
            changes = await self._store.registry.change_settings(SETTINGS, decide)
        except StoreError as failed:
            raise refusal_of(failed) from failed
        self.take_over_configs()
        if changes:
            whose = "cluster" if entity == CLUSTER else entity
            logger.info("broker configured", extra={"entity": whose, "configs": sorted(self.configs.current(entity))})

    # --- Deleting -----------------------------------------------------------------------------

    async def delete(self, streams: Iterable[Stream], charge: Charge = _free) -> list[Refusal | None]:
        """Delete topics, each on its own."""
        return await self._to_the_end(self._delete_all(list(streams), charge))

    async def _delete_all(self, streams: Sequence[Stream], charge: Charge) -> list[Refusal | None]:
        paid = [_attempt(_paid, stream, charge) async for stream in in_turns(streams)]
        outcomes = list(map(_refusal_only, await _each(paid, self._delete)))
        _log_each("deleted", [stream for stream in streams if stream.deleted])
        return outcomes

    async def _delete(self, stream: Stream) -> None:
        if stream.deleted:
            raise UnknownStream(stream.name)
        await self._store.delete_stream(stream)
        self._roll.went(stream.uuid)
        await self._roll.nothing_left()

    async def _to_the_end(self, change: Coroutine[Any, Any, _T]) -> _T:
        """Make one change at a time; once begun, it is finished even if its client has gone."""

        async def in_turn() -> _T:
            async with self._changing:
                return await change

        task = asyncio.create_task(in_turn())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    # --- Looking up ---------------------------------------------------------------------------

    def existing(self, name: str) -> Stream:
        """The topic of that name. Raises Refusal."""
        stream = self.get(name)
        if stream is None:
            raise unchangeable(name) if name in VIEWED else Refusal(ErrorCode.unknown_topic_or_partition)
        return stream


def _collision(name: str, other: str) -> Refusal:
    return Refusal(
        ErrorCode.invalid_topic_exception,
        f"Topic '{name}' collides with existing topic: {other}",
    )


def unchangeable(name: str) -> Refusal:
    """The refusal of a change of a topic that is made from tables."""
    why = f"The internal topic {name} is a view of the store's tables: it can be read, and not changed."
    return Refusal(ErrorCode.invalid_topic_exception, why)


def _log_each(what: str, streams: Sequence[Stream]) -> None:
    for stream in streams[:LOGGED_ONE_BY_ONE_MAX]:
        extra = {"topic": stream.name, "partitions": stream.slot_count}
        logger.info(f"topic {what}", extra=extra)
    if further := len(streams[LOGGED_ONE_BY_ONE_MAX:]):
        logger.info(f"further topics {what}", extra={"count": further})


def _refusal_only(outcome: object) -> Refusal | None:
    return outcome if isinstance(outcome, Refusal) else None


def _paid(stream: Stream, charge: Charge) -> Stream:
    charge(stream.slot_count)
    return stream


def _attempt(check: Callable[[_S, _A], _T], subject: _S, argument: _A) -> _T | Refusal:
    try:
        return check(subject, argument)
    except Refusal as refused:
        return refused


async def _each(checked: Sequence[_T | Refusal], change: Callable[[_T], Awaitable[_R]]) -> list[_R | Refusal]:
    """Make changes together, so that they share syncs; each may fail alone."""

    async def one(item: _T | Refusal) -> _R | Refusal:
        if isinstance(item, Refusal):
            return item
        try:
            return await change(item)
        except StoreError as failed:
            return refusal_of(failed)
        except Refusal as refused:  # another process has changed meanwhile what was checked
            return refused

    outcomes: list[_R | Refusal] = []
    async for first in in_turns(range(0, len(checked), CHANGES_AT_ONCE)):
        some = checked[first : first + CHANGES_AT_ONCE]
        refused = [item for item in some if isinstance(item, Refusal)]
        outcomes += refused if len(refused) == len(some) else await asyncio.gather(*map(one, some))
    return outcomes
