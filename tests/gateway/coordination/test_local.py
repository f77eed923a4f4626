"""Coordinators of several containers in one process: which one answers, and what happens when a container goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from gateway.groups.classic.messages import JoinRequest, SyncRequest
from gateway.groups.offsets.service import OffsetCommit
from gateway.groups.persistence import OFFSETS_TABLE
from gateway.refusals import Refusal
from gateway.transactions.persistence import TRANSACTIONS_TABLE
from tests.core.support import owner_of, until
from tests.core.test_several_containers import failing
from tests.gateway.groups.harness import RANGE
from tests.gateway.transactions.services import ELSEWHERE, HOME, Services, run, serving

BOTH = (HOME, ELSEWHERE)
JOIN = JoinRequest(
    member_id="",
    instance_id=None,
    client_id="c",
    client_host="/127.0.0.1",
    protocol_type="consumer",
    protocols=RANGE,
    session_timeout_ms=10_000,
    rebalance_timeout_ms=60_000,
    reason=None,
    requires_known_member_id=False,
    supports_skip_assignment=True,
)


async def commit(services: Services, group: str, offset: int) -> ErrorCode:
    """A commit of a consumer that assigns by itself."""
    coordinator = services.all_groups.of(group)
    error = coordinator.admission.commit(group, "", None, -1)
    assert error is ErrorCode.none
    (error,) = await coordinator.offsets.commit(group, [OffsetCommit("t", 0, offset, -1, "")])
    return error


def test_rows_lie_at_home(tmp_path: Path) -> None:
    """Offsets and transactional ids of each name are in the log of its home, and are found there again."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.create("t")
            groups = [services.name_in(number, "g") for number in BOTH]
            names = [services.name_in(number) for number in BOTH]
            for number, (group, name) in enumerate(zip(groups, names, strict=True)):
                assert await commit(services, group, number) is ErrorCode.none
                await services.init(name)
            tables = [services.store.containers[number].container.table(OFFSETS_TABLE) for number in BOTH]
            assert [len(table.entries) for table in tables] == [1, 1]
        async with serving(tmp_path, containers=BOTH) as services:
            assert [services.offset(group) for group in groups] == [0, 1]
            assert sorted(known.transactional_id for known in services.all_transactions) == sorted(names)
            assert sorted(group.group_id for group in services.all_groups) == sorted(groups)
            assert await services.all_groups.consumed("t", [0, 1], groups) == [0, None]
            assert await services.all_groups.consumed("t", [0], [*groups, "nobody"]) == [None]

    run(scenario())


def test_budgets_are_shared(tmp_path: Path) -> None:
    """As many groups and transactional ids as one container might keep, not as many for each."""

    async def scenario() -> None:
        bounds = ("groups.max=2", "transactional.ids.max=2")
        async with serving(tmp_path, *bounds, containers=BOTH) as services:
            await services.create("t")
            for number in BOTH:
                assert await commit(services, services.name_in(number, "g"), 1) is ErrorCode.none
                await services.init(services.name_in(number))
            for number in BOTH:
                group = services.name_in(number, "further")
                assert (await services.all_groups.of(group).join(group, JOIN)).error is ErrorCode.policy_violation
                with pytest.raises(Refusal, match="policy_violation"):
                    await services.init(services.name_in(number, "further"))

    run(scenario())


def test_a_failed_container(tmp_path: Path) -> None:
    """Its groups and transactional ids are refused, whoever waits is answered, and those of other containers go on."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            await services.create_elsewhere("u")
            here, away = (services.name_in(number, "g") for number in BOTH)
            who = await services.init()
            coordinator = services.all_groups.of(away)
            joined = await coordinator.join(away, JOIN)
            asks = SyncRequest(
                member_id=joined.member_id,
                instance_id=None,
                generation=joined.generation,
                protocol_type=None,
                protocol_name=None,
                assignments=(),
            )
            with failing(ELSEWHERE):
                waiting = asyncio.create_task(coordinator.sync(away, asks))
                with pytest.raises(Exception, match="Input/output error"):
                    await owner_of(services.slot("u")).update()
                await until(lambda: services.all_groups.in_container(ELSEWHERE) is None)
            assert (await waiting).error is ErrorCode.not_coordinator

            for coordinators, name in ((services.all_groups, away), (services.all_transactions, services.name_in(1))):
                with pytest.raises(Refusal, match="not_coordinator"):
                    coordinators.of(name)  # type: ignore[attr-defined]
                assert not coordinators.is_here(name)  # type: ignore[attr-defined]
            assert await commit(services, here, 3) is ErrorCode.none
            await services.write(who, "t", b"a")
            await services.end(who)
            assert (services.offset(here), await services.committed("t")) == (3, [b"a"])

    run(scenario())


def test_a_released_container(tmp_path: Path) -> None:
    """Its coordinators end; a topic that is deleted later is none of their business."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.create("t")
            groups = [services.name_in(number, "g") for number in BOTH]
            for group in groups:
                await commit(services, group, 5)
            await services.release(ELSEWHERE)
            with pytest.raises(Refusal, match="not_coordinator"):
                services.all_groups.of(groups[1])
            assert [group.group_id for group in services.all_groups] == [groups[0]]
            stream = services.topics.get("t")
            assert stream is not None
            assert await services.topics.delete([stream]) == [None]
            await services.groups._journal.settle()
            assert services.offset(groups[0]) is None
        async with serving(tmp_path, containers=BOTH) as services:
            await until(lambda: services.offset(groups[1]) is None)  # the start deletes it: there is no such topic

    run(scenario())


def test_what_a_released_container_knew(tmp_path: Path) -> None:
    """It is let go of, although objects that refer to one another keep it for long. Who still asks is not told that
    there is nothing: a transactional id of another coordinator is no unknown one."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.create("t")
            group, name = services.name_in(ELSEWHERE, "g"), services.name_in(ELSEWHERE)
            assert await commit(services, group, 5) is ErrorCode.none
            who = await services.init(name)
            container = services.store.containers[ELSEWHERE].container
            groups, transactions = services.all_groups.of(group), services.all_transactions.of(name)
            await services.release(ELSEWHERE)
            await until(lambda: not len(transactions) and not groups._committed._groups)
            await until(lambda: not any(container.table(one).entries for one in (OFFSETS_TABLE, TRANSACTIONS_TABLE)))
            for asks in (transactions.get, transactions._known.find):
                with pytest.raises(Refusal, match="not_coordinator"):
                    asks(name)
            with pytest.raises(Refusal, match="not_coordinator"):
                await transactions.init_producer(name, 60_000, None)
            with pytest.raises(Refusal, match="not_coordinator"):
                await transactions.end(name, who, committed=True, bumps=True)
            await until(lambda: not services.all_groups._freeing | services.all_transactions._freeing)

    run(scenario())


def test_it_is_let_go_of_beside_its_next_life(tmp_path: Path) -> None:
    """A coordinator that goes and comes back forgets nothing of what it knows now."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            group, name = services.name_in(ELSEWHERE, "g"), services.name_in(ELSEWHERE)
            for offset in (1, 2):
                assert await commit(services, group, offset) is ErrorCode.none
                await services.init(name)
                for kind in (services.all_transactions, services.all_groups):
                    await kind.release(ELSEWHERE)
                for step in ("load_in", "start_in"):
                    for kind in (services.all_groups, services.all_transactions):
                        await getattr(kind, step)(ELSEWHERE)
                await until(lambda: not services.all_groups._freeing | services.all_transactions._freeing)
                assert services.offset(group) == offset
                assert services.known(name).epoch == offset - 1

    run(scenario())


def test_while_it_loads(tmp_path: Path) -> None:
    """A container that is being opened asks its clients to come again, and then serves them."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            group = services.name_in(ELSEWHERE, "g")
            await commit(services, group, 5)
            await services.all_transactions.release(ELSEWHERE)
            await services.all_groups.release(ELSEWHERE)
            await services.all_groups.load_in(ELSEWHERE)
            with pytest.raises(Refusal, match="coordinator_load_in_progress"):
                services.all_groups.of(group)
            assert services.all_groups.is_here(group)
            await services.all_transactions.load_in(ELSEWHERE)
            await services.all_groups.start_in(ELSEWHERE)
            await services.all_transactions.start_in(ELSEWHERE)
            assert services.offset(group) == 5

    run(scenario())


def test_one_container(tmp_path: Path) -> None:
    """With one container every name has its home there."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            for name in ("", "g", "x", "y" * 1_000):
                assert services.all_groups.of(name) is services.groups
                assert services.all_transactions.of(name) is services.transactions

    run(scenario())
