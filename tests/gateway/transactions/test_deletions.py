"""Groups and topics are deleted while transactions have offsets for them: these go, too, some at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from core.container.container import Container
from core.log.records import Delete, Operation
from gateway.groups.offsets.service import OffsetCommit
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE
from gateway.transactions.transaction import Identity
from tests.gateway.transactions.services import Services, run, serving

AT_ONCE = 3
MANY = 10


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pending offsets that each record of the log deletes by itself."""
    sizes: list[int] = []
    submit = Container.submit

    def noted(container: Container, operations: Sequence[Operation]) -> asyncio.Future[None]:
        found = [one for one in operations if isinstance(one, Delete) and one.table == PENDING_OFFSETS_TABLE]
        if found:
            sizes.append(len(found))
        return submit(container, operations)

    monkeypatch.setattr("gateway.transactions.participant.OFFSETS_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(Container, "submit", noted)
    return sizes


async def pending_many(services: Services, who: Identity, topic: str = "t", count: int = MANY) -> None:
    group = services.group
    commits = [OffsetCommit(topic, number, 7, -1, "") for number in range(count)]
    offsets, _ = services.groups.offsets.judge(group, commits)
    await services.transactions.commit_offsets(services.name, who, group, offsets)


def left(services: Services) -> int:
    return len(list(services.transactions.participant.pending_offsets.keys_of_group(services.group)))


def test_pending_offsets_of_a_group(tmp_path: Path, dropped: list[int]) -> None:
    """Those of several transactions; what these have for other groups they commit."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", MANY)
            other = services.name_in(0, "other")
            one, two = await services.init(), await services.init("y")
            await services.commit_offset(two, 1, name="y")
            await services.commit_offset(two, 5, name="y", group=other)
            await pending_many(services, one)
            assert services.groups.admission.commit(services.group, "", None, -1) is ErrorCode.none
            assert await services.groups.delete_group(services.group) is ErrorCode.none
            assert left(services) == 0
            await services.end(one)
            await services.end(two, name="y")

            assert services.groups.get(services.group) is None
            assert services.offset(group=other) == 5

    run(scenario())
    assert sorted(dropped) == [1, 1, 3, 3, 3]


def test_pending_offsets_of_a_topic(tmp_path: Path, dropped: list[int]) -> None:
    """What the transaction has of other topics it commits."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", MANY)
            await services.create("other")
            who = await services.init()
            await services.commit_offset(who, 8, topic="other")
            await pending_many(services, who)
            stream = services.topics.get("t")
            assert stream is not None
            assert await services.topics.delete([stream]) == [None]
            await services.create("t", MANY)
            await services.groups.offsets.finish()
            assert left(services) == 1
            await services.end(who)

            assert (services.offset(), services.offset(topic="other")) == (None, 8)
            assert services.store.table(PENDING_OFFSETS_TABLE).entries == {}

    run(scenario())
    assert dropped == [3, 3, 3, 1]


@pytest.mark.parametrize("what", ["group", "topic"])
def test_a_transaction_that_ends_meanwhile(tmp_path: Path, dropped: list[int], what: str) -> None:
    """It commits nothing to what is being deleted, also where another process has made a topic of that name anew, and
    offsets name no ids."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            services.all_groups.writes_ids = lambda: False
            await services.create("t", MANY)
            who = await services.init()
            await pending_many(services, who)
            groups = services.groups
            assert groups.admission.commit(services.group, "", None, -1) is ErrorCode.none
            if what == "group":
                deletion: asyncio.Task[object] = asyncio.create_task(groups.delete_group(services.group))
                while not groups.is_closed(services.group):  # noqa: ASYNC110 - it is after a turn of the loop
                    await asyncio.sleep(0)
            else:
                stream = services.topics.get("t")
                assert stream is not None
                going = groups.topic_deleted(stream)
                assert going is not None
                deletion = going
            assert not deletion.done()
            await services.end(who)
            await deletion

            assert [groups.offsets.of_group(services.group).get("t", {}).get(n) for n in range(MANY)] == [None] * MANY
            assert left(services) == 0

    run(scenario())


def test_nothing_becomes_pending_meanwhile(tmp_path: Path, dropped: list[int]) -> None:
    """Where offsets name no ids, a client that commits in a transaction to a new topic of the name asks again."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            services.all_groups.writes_ids = lambda: False
            await services.create("t", MANY)
            who = await services.init()
            await pending_many(services, who)
            stream = services.topics.get("t")
            assert stream is not None
            going = services.groups.topic_deleted(stream)
            assert going is not None
            offsets, errors = services.groups.offsets.judge(services.group, [OffsetCommit("t", 0, 9, -1, "")])
            assert (offsets, errors) == ({}, [ErrorCode.coordinator_load_in_progress])
            await going
            await services.commit_offset(who, 9)
            await services.end(who)
            assert services.offset() == 9

    run(scenario())


def test_a_transaction_over_two_topics_of_one_name(tmp_path: Path, dropped: list[int]) -> None:
    """What it has of the old topic goes, whether or not it ends meanwhile; what it has of the new one it commits, also
    for a partition of which it had an offset of the old one."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", MANY)
            one, two = await services.init(), await services.init("y")
            await pending_many(services, one)
            await services.commit_offset(two, 3, name="y")
            stream = services.topics.get("t")
            assert stream is not None
            assert await services.topics.delete([stream]) == [None]
            await services.create("t", MANY)
            await services.commit_offset(one, 9)
            await services.end(two, name="y")
            assert services.offset() is None
            await services.groups.offsets.finish()
            assert left(services) == 1
            await services.end(one)

            found = services.groups.offsets.of_group(services.group)
            assert {number: offset.offset for number, offset in found["t"].items()} == {0: 9}
            assert services.store.table(PENDING_OFFSETS_TABLE).entries == {}

    run(scenario())


def test_pending_offsets_after_a_crash(tmp_path: Path) -> None:
    """Those of a topic that is gone are not the new one's of its name: the start deletes them, and keeps the others."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t", MANY)
            who = await services.init()
            await pending_many(services, who)
            stream = services.topics.get("t")
            assert stream is not None
            await services.store.delete_stream(stream)  # and the process dies before anything else is done
            await services.store.create_stream("t", slots=MANY)
            await services.commit_offset(who, 9)
        async with serving(tmp_path) as services:
            await services.groups.offsets.finish()
            assert left(services) == 1
            await services.end(who)
            assert services.offset() == 9

    run(scenario())
