"""Topics: changes one at a time, finished even if nobody waits for them any more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from core.errors import StorageFailure, StorageFull, StoreClosed, StoreError, StreamExists, UnknownStream
from core.streams.live import Stream
from gateway.kafka_configs.broker_configs import CLUSTER
from gateway.kafka_configs.keys import Change
from gateway.refusals import Refusal, refusal_of
from gateway.topics.topics import WantedTopic
from tests.gateway.apis.harness import Admin, new_name


def test_finished_without_the_asker(admin: Admin) -> None:
    """A deletion whose asker has gone is finished, and heard of."""
    topics = admin.broker.topics
    gone: list[Stream] = []
    topics.on_deletion(gone.append)
    stream = admin.stream(admin.create())

    async def ask_and_leave() -> None:
        asking = asyncio.create_task(topics.delete([stream]))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await topics.create([WantedTopic(new_name())])  # takes its turn behind the deletion

    admin.run(ask_and_leave())
    assert [stream] == gone


def test_same_name_at_the_same_time(admin: Admin) -> None:
    """One of several creations of one name succeeds, the others hear that it exists."""
    wanted = [WantedTopic(new_name())]

    async def together() -> list[object]:
        outcomes = await asyncio.gather(*(admin.broker.topics.create(wanted) for _ in range(4)))
        return [outcome for (outcome,) in outcomes]

    outcomes = admin.run(together())
    assert sum(isinstance(outcome, Stream) for outcome in outcomes) == 1
    assert [outcome.code for outcome in outcomes if isinstance(outcome, Refusal)] == [36] * 3


def test_deleted_by_another_process_before_its_creation_is_told(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves nothing behind that would be in the way of another one of its name."""
    topics, store, name = admin.broker.topics, admin.broker.store, new_name()
    create, before = store.create_stream, topics.partition_count

    async def overtaken(*arguments: Any, **options: Any) -> Stream:
        stream = await create(*arguments, **options)
        await store.delete_stream(stream)
        topics.followed([], [stream.state])
        return stream

    with monkeypatch.context() as patch:
        patch.setattr(store, "create_stream", overtaken)
        admin.run(topics.create([WantedTopic(name)]))
    assert topics.partition_count == before
    (again,) = admin.run(topics.create([WantedTopic(name)]))
    assert isinstance(again, Stream)


def test_appends_at_the_same_time(admin: Admin) -> None:
    """Changes that start from the present configs see one another."""
    name = admin.create(max_message_bytes="0")

    def one_more(now: Mapping[str, str]) -> Mapping[str, str | None]:
        return {"max.message.bytes": str(int(now["max.message.bytes"]) + 1)}

    async def together() -> None:
        await asyncio.gather(*(admin.broker.topics.configure({name: one_more}) for _ in range(20)))

    admin.run(together())
    assert admin.stream(name).config["max.message.bytes"] == "20"


def test_configs_of_brokers_that_stay_as_they_are(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that is only checked, or changes nothing, goes through no topics; one that does, goes through all."""
    topics, store, refreshed = admin.broker.topics, admin.broker.store, list[str | None]()
    refresh = store.refresh_policies

    def noted() -> None:
        refreshed.append(topics.configs.current(CLUSTER).get("message.max.bytes"))
        refresh()

    def to(size: str | None) -> Change:
        return lambda now: {**now, "message.max.bytes": size}

    monkeypatch.setattr(store, "refresh_policies", noted)
    for size, validate_only in (("9", True), ("9", False), ("9", False), ("8", True), (None, False), (None, False)):
        admin.run(topics.configure_broker(CLUSTER, to(size), validate_only))
    assert refreshed == ["9", None]


def test_growth_at_the_same_time(admin: Admin) -> None:
    """The later of two growths starts from the result of the earlier one."""
    name = admin.create(2)

    async def together() -> list[Refusal | None]:
        outcomes = await asyncio.gather(*(admin.broker.topics.grow({name: count}) for count in (8, 4)))
        return [outcome[name] for outcome in outcomes]

    first, second = admin.run(together())
    assert (first, second and second.code, admin.stream(name).slot_count) == (None, 37, 8)


def test_deleted_twice_at_the_same_time(admin: Admin) -> None:
    """The second deletion hears that there is nothing left."""
    stream = admin.stream(admin.create())

    async def together() -> list[Refusal | None]:
        outcomes = await asyncio.gather(*(admin.broker.topics.delete([stream]) for _ in range(2)))
        return [outcome for (outcome,) in outcomes]

    first, second = admin.run(together())
    assert (first, second and second.code) == (None, 3)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (StorageFull("no room"), 56),
        (StorageFailure("EIO"), 56),
        (StoreClosed("stopping"), 56),
        (StreamExists("t"), 36),
        (UnknownStream("t"), 3),
    ],
)
def test_what_the_store_cannot_do(failure: StoreError, code: int) -> None:
    """A refusal of the store reaches the client under Kafka's code: storage trouble as a retriable one."""
    refusal = refusal_of(failure)

    assert code == refusal.code
    assert refusal.code.retriable == (code != 36)
