"""Definitions and settings that several processes change: each change starts from what the others have answered, and of
two at one time none is lost.

A process that has not looked for a while stands for one whose copy of the registry is late.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from kio.schema.errors import ErrorCode

from core.clock import ManualClock
from core.cluster.following import Changed
from core.cluster.registry import Settings
from gateway.config.loading import load
from gateway.kafka_configs.broker_configs import CLUSTER, BrokerConfigs
from gateway.kafka_configs.features import FinalizedFeatures, Kind, LevelChange
from gateway.kafka_configs.keys import Change
from gateway.kafka_configs.resource_configs import ResourceConfigs
from gateway.kafka_configs.resource_keys import KINDS, ResourceType
from gateway.quotas.quotas import Quotas
from gateway.refusals import Refusal
from gateway.security.acls import Acl, AclFilter, Operation
from gateway.security.authorizer import Authorizer
from gateway.security.delegation_rows import TABLE as TOKENS
from gateway.security.delegation_tokens import DelegationTokens
from gateway.security.principal import Principal
from gateway.security.scram import ITERATIONS_MIN, ScramCredential
from gateway.security.scram_users import ScramUsers
from gateway.topics.topics import Topics
from tests.core.cluster.test_following import Process, two
from tests.core.support import run
from tests.gateway.security.harness import SILENT, acl

pytestmark = pytest.mark.slow

ALICE: Final = Principal("User", "alice")
GROUP: Final = KINDS[ResourceType.GROUP]
METRICS: Final = KINDS[ResourceType.CLIENT_METRICS]
SCRAM: Final = "SCRAM-SHA-256"
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
    features: FinalizedFeatures
    users: ScramUsers
    authorizer: Authorizer

    @classmethod
    async def of(cls, process: Process) -> Side:
        """It follows only when it catches up."""
        config, store, clock = load(environ={}, assignments=[SECRET]), process.store, ManualClock()
        topics = Topics(config, store, BrokerConfigs(config))
        tokens = DelegationTokens(config, store, clock)
        side = cls(
            process,
            topics,
            ResourceConfigs(store, config),
            Quotas(store, clock),
            tokens,
            FinalizedFeatures(store, {"share.version": (0, 1), "transaction.version": (0, 2)}, config.node_id),
            ScramUsers(store),
            Authorizer(config, store, SILENT),
        )
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
        self.features.take_over()
        self.users.take_over()
        self.authorizer.take_over()

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


def appending(name: str, item: str) -> Change:
    return lambda now: {**now, name: ",".join(filter(None, (now.get(name), item)))}


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


def test_configs_of_brokers_that_the_other_has_just_set(tmp_path: Path) -> None:
    """Setting them again changes nothing, and they are in effect at the answer."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            await one.topics.configure_broker(CLUSTER, setting("message.max.bytes", "9"))
            assert other.topics.configs.current(CLUSTER) == {}
            await other.topics.configure_broker(CLUSTER, setting("message.max.bytes", "9"))
            assert other.topics.configs.current(CLUSTER) == {"message.max.bytes": "9"}

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


def test_items_that_both_append(tmp_path: Path) -> None:
    """At one time, to one list: of the cluster's configs, of a subscription's. None is lost, and both have all."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            items = [f"item{n}" for n in range(6)]
            halves = list(zip((one, other), (items[::2], items[1::2]), strict=True))
            await asyncio.gather(
                *(
                    side.topics.configure_broker(CLUSTER, appending("a.list", item))
                    for side, own in halves
                    for item in own
                )
            )
            await asyncio.gather(
                *(
                    side.resources.configure(METRICS, "s", appending("metrics", item))
                    for side, own in halves
                    for item in own
                )
            )
            for side in (one, other):
                await side.process.store.catch_up()
                of_brokers, of_metrics = side.topics.configs.current(CLUSTER), side.resources.own(METRICS.type, "s")
                assert sorted(of_brokers["a.list"].split(",")) == sorted(of_metrics["metrics"].split(",")) == items

    run(scenario())


def test_features_that_both_change(tmp_path: Path) -> None:
    """Each change is judged by the levels that the other has just set, and each counts."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            lower = LevelChange("transaction.version", 1, Kind.SAFE_DOWNGRADE)
            await one.features.update([lower], validate_only=False)
            assert other.features.level("transaction.version") == 2
            with pytest.raises(Refusal, match="Can't downgrade to a newer version"):
                await other.features.update([LevelChange(lower.feature, 2, lower.kind)], validate_only=True)
            await other.features.update([LevelChange(lower.feature, 2, Kind.UPGRADE)], validate_only=False)
            await asyncio.gather(
                one.features.update([lower], validate_only=False),
                other.features.update([LevelChange("share.version", 0, Kind.SAFE_DOWNGRADE)], validate_only=False),
            )
            for side in (one, other):
                await side.process.store.catch_up()
                assert side.features.levels == {"transaction.version": 1}
                assert side.features.epoch == 2 + 4

    run(scenario())


def test_users_that_the_other_has_just_made(tmp_path: Path) -> None:
    """One is deleted at once, and only once: who comes second is told that there is none."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            alice = ScramCredential(SCRAM, ITERATIONS_MIN, b"salt", b"s" * 32, b"k" * 32)
            assert await one.users.change([("alice", SCRAM, alice)]) == []
            gone = ("alice", SCRAM, None)
            told = await asyncio.gather(one.users.change([gone]), other.users.change([gone]))
            assert sorted(told) == [[], [gone]]
            for side in (one, other):
                assert side.users.get(SCRAM, "alice") is None

    run(scenario())


def test_users_have_one_bound(tmp_path: Path) -> None:
    """Of two that both make at one time, where there is room for one, one is made; and strangers have one secret."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            await asyncio.gather(*(side.users.prepare(tmp_path / "none") for side in (one, other)))
            salts = {side.users.find(SCRAM, "stranger")[0].salt for side in (one, other)}
            assert len(salts) == 1
            made = ScramCredential(SCRAM, ITERATIONS_MIN, b"salt", b"s" * 32, b"k" * 32)
            outcomes = await asyncio.gather(
                one.users.change([("alice", SCRAM, made)], 1),
                other.users.change([("bob", SCRAM, made)], 1),
                return_exceptions=True,
            )
            (refusal,) = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
            assert refusal.code is ErrorCode.policy_violation
            await one.process.store.catch_up()
            assert len(one.users) == 1

    run(scenario())


def test_a_token_that_one_ends_while_the_other_renews_it(tmp_path: Path) -> None:
    """Whoever comes second sees it: nothing is left of the token."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            for _ in range(5):
                token = await one.tokens.create(ALICE, ALICE, [], 1_000)
                secret = one.tokens.secret_of(token.id)
                await other.process.store.catch_up()
                ended, renewed = await asyncio.gather(
                    one.tokens.expire(secret, ALICE, -1), other.tokens.renew(secret, ALICE, 500), return_exceptions=True
                )
                assert not isinstance(ended, BaseException)
                assert not isinstance(renewed, BaseException) or "no such token" in str(renewed)
                await one.process.store.catch_up()
                left: Settings = one.process.store.registry.settings(TOKENS)
                assert left == {}

    run(scenario())


def test_acls_that_both_remove(tmp_path: Path) -> None:
    """Each ACL is removed by one of them, and told by that one only."""

    async def scenario() -> None:
        async with both(tmp_path) as (one, other):
            acls: list[Acl] = [acl(f"t{n}", Operation.READ) for n in range(20)]
            assert await one.authorizer.create(acls) == [None] * 20
            removed = await asyncio.gather(
                *(side.authorizer.delete([AclFilter(*each) for each in acls]) for side in (one, other))
            )
            assert sorted(each for side in removed for some in side for each in some) == sorted(acls)
            assert len(one.authorizer) == len(other.authorizer) == 0

    run(scenario())
