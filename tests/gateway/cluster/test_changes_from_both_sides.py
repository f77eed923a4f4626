"""Definitions and settings that several processes change: each change starts from what the others have answered.

A process that has not looked for a while stands for one whose copy of the registry is late.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from kio.schema.errors import ErrorCode

from core.clock import ManualClock
from core.cluster.following import Changed
from gateway.config.loading import load
from gateway.kafka_configs.broker_configs import CLUSTER, BrokerConfigs
from gateway.kafka_configs.keys import Change
from gateway.kafka_configs.resource_configs import ResourceConfigs
from gateway.kafka_configs.resource_keys import KINDS, ResourceType
from gateway.quotas.quotas import Quotas
from gateway.refusals import Refusal
from gateway.security.delegation_tokens import DelegationTokens
from gateway.security.principal import Principal
from gateway.topics.topics import Topics
from tests.core.cluster.test_following import Process, two
from tests.core.support import run

pytestmark = pytest.mark.slow

ALICE: Final = Principal("User", "alice")
GROUP: Final = KINDS[ResourceType.GROUP]
TIMEOUT: Final = "consumer.session.timeout.ms"
SECRET: Final = "delegation.token.secret.key=k"


@dataclass
class Side:
    """What a broker changes, over the store of one process."""

    process: Process
    topics: Topics
    resources: ResourceConfigs
    quotas: Quotas
    tokens: DelegationTokens

    @classmethod
    async def of(cls, process: Process) -> Side:
        """It follows only when it catches up."""
        config, store, clock = load(environ={}, assignments=[SECRET]), process.store, ManualClock()
        topics = Topics(config, store, BrokerConfigs(config))
        tokens = DelegationTokens(config, store, clock)
        side = cls(process, topics, ResourceConfigs(store, config), Quotas(store, clock), tokens)
        assert store._following is not None
        await store._following.stop()
        store.on_followed(side._followed)
        return side

    def _followed(self, changed: Changed) -> None:
        self.topics.followed(changed.streams, changed.deleted)
        self.topics.take_over_configs()
        self.resources.take_over()
        self.quotas.take_over()
        self.tokens.take_over()

    def configs(self) -> Mapping[str, str]:
        stream = self.topics.get("t")
        assert stream is not None
        return stream.config


@asynccontextmanager
async def both(directory: Path) -> AsyncIterator[tuple[Side, Side]]:
    """Two sides that know a topic of four partitions."""
    async with two(directory) as (one, other):
        sides = await Side.of(one), await Side.of(other)
        await one.store.create_stream("t", slots=4)
        for side in sides:
            await side.process.store.catch_up()
        yield sides


def setting(name: str, text: str) -> Change:
    return lambda now: {**now, name: text}


def without(name: str) -> Change:
    return lambda now: {one: text for one, text in now.items() if one != name}


def test_configs_of_a_topic(tmp_path: Path) -> None:
    """Of changes of several configs all are made; one that was just changed back is changed again."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            assert await one.topics.configure({"t": setting("retention.ms", "7")}) == {"t": None}
            assert await other.topics.configure({"t": setting("max.message.bytes", "9")}) == {"t": None}
            assert other.configs() == {"retention.ms": "7", "max.message.bytes": "9"}
            assert await one.topics.configure({"t": setting("max.message.bytes", "5")}) == {"t": None}
            assert await other.topics.configure({"t": setting("max.message.bytes", "9")}) == {"t": None}
            await one.process.store.catch_up()
            assert one.configs() == other.configs() == {"retention.ms": "7", "max.message.bytes": "9"}

    run(scenario())


def test_partitions_of_a_topic(tmp_path: Path) -> None:
    """Growing to what another has grown it to already is refused as Kafka does."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            assert await one.topics.grow({"t": 8}) == {"t": None}
            refusal = (await other.topics.grow({"t": 8}))["t"]
            assert refusal is not None
            assert refusal.code is ErrorCode.invalid_partitions
            assert await one.topics.grow({"t": 9}) == {"t": None}
            assert await other.topics.grow({"t": 10}) == {"t": None}

    run(scenario())


def test_settings(tmp_path: Path) -> None:
    """What another has just set is taken away, and what it has taken away is set again: of groups, brokers, quotas."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            user = frozenset({("user", "u")})
            await one.resources.configure(GROUP, "g", setting(TIMEOUT, "45000"))
            await other.resources.configure(GROUP, "g", without(TIMEOUT))
            await one.topics.configure_broker(CLUSTER, setting("message.max.bytes", "9"))
            await other.topics.configure_broker(CLUSTER, without("message.max.bytes"))
            await one.quotas.change(user, {"producer_byte_rate": 5.0})
            await other.quotas.change(user, {"producer_byte_rate": None})
            await one.process.store.catch_up()
            assert (one.resources.own(GROUP.type, "g"), one.topics.configs.current(CLUSTER)) == ({}, {})
            assert one.quotas.entities() == {}

            await one.quotas.change(user, {"producer_byte_rate": 5.0})
            await other.process.store.catch_up()
            await one.quotas.change(user, {"producer_byte_rate": None})
            await other.quotas.change(user, {"producer_byte_rate": 5.0})
            await one.process.store.catch_up()
            assert one.quotas.entities() == {user: {"producer_byte_rate": 5.0}}

    run(scenario())


def test_a_token_is_renewed_where_it_was_not_made(tmp_path: Path) -> None:
    """At once: its owner was answered."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            token = await one.tokens.create(ALICE, ALICE, [], 1_000)
            renewed = await other.tokens.renew(one.tokens.secret_of(token.id), ALICE, 500)
            assert renewed.id == token.id
            await one.tokens.expire(one.tokens.secret_of(token.id), ALICE, -1)
            assert len(other.tokens) == 1
            with pytest.raises(Refusal, match="no such token"):
                await other.tokens.renew(one.tokens.secret_of(token.id), ALICE, 500)

    run(scenario())
