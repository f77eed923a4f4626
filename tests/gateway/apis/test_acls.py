"""ACLs made, described and deleted over the wire, and what they do at once to others who are connected."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import pytest

from gateway.http.problems import Problem
from gateway.http.records import TopicRecords, Wanted
from gateway.security.acls import Operation, ResourceType
from tests.gateway.apis.harness import KEYS, NOW, Admin, admin_of
from tests.gateway.harness import FETCH, PRODUCE, Client, batch, fetch_body, produce_body
from tests.gateway.security.harness import ADMIN, ALICE, WITH_RIGHTS, come_as
from tests.likeness.rights import ALL, ALLOW, ALTER, ANY_ACL, DENY, DESCRIBE, GROUP, READ, TOPIC, WRITE, acl

pytestmark = pytest.mark.slow

TRANSACTIONAL: Final = 0x10


class Two:
    """An administrator and a client of one broker."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin
        self.client = admin.run(Client.connect(admin.broker))
        admin.run(self.client.ask(18, 0, {}))
        self.come(self.client, ALICE)

    def come(self, client: Client, principal: Any) -> None:
        come_as(self.admin.broker, client._writer.get_extra_info("sockname")[1], principal)

    def allow(self, name: str, operation: int, permission: int = ALLOW, **changes: Any) -> None:
        creation = {**acl(TOPIC, name, operation, permission), "principal": str(ALICE), **changes}
        (result,) = self.admin.ask("CreateAcls", 3, creations=[creation]).results
        assert result.error_code == 0

    def take(self, **changes: Any) -> int:
        (result,) = self.admin.ask("DeleteAcls", 3, filters=[{**ANY_ACL, **changes}]).filter_results
        assert result.error_code == 0
        return len(result.matching_acls)

    def produce(self, topic: str, **options: Any) -> int:
        return int(self.admin.run(self.client.produce(topic, batch(b"v", **options))).error_code)

    def fetch(self, topic: str, **options: Any) -> int:
        answer = self.admin.run(self.client.fetch((topic, 0, 0), **options))
        return int(answer.responses[0].partitions[0].error_code)


@pytest.fixture
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with admin_of(tmp_path_factory.mktemp("broker"), *WITH_RIGHTS) as admin:
        admin.ask("ApiVersions", 0)
        come_as(admin.broker, admin._client._writer.get_extra_info("sockname")[1], ADMIN)
        yield Two(admin)


def test_in_effect_at_once(two: Two) -> None:
    """A right holds from the answer to its making on, for clients that are connected, and ends with its deletion."""
    topic = two.admin.create()
    assert (two.produce(topic), two.fetch(topic)) == (29, 29)
    two.allow(topic, WRITE)
    assert (two.produce(topic), two.fetch(topic)) == (0, 29)
    two.allow(topic, READ)
    assert (two.produce(topic), two.fetch(topic)) == (0, 0)
    two.allow("*", WRITE, DENY)
    assert (two.produce(topic), two.fetch(topic)) == (29, 0)
    assert two.take(permission_type=DENY) == 1
    assert two.take(operation=READ) == 1
    assert (two.produce(topic), two.fetch(topic)) == (0, 29)


def test_former_names(two: Two) -> None:
    """The name that a deleted topic had is told to those only who might describe a topic of that name."""
    hidden, seen = two.admin.create(), two.admin.create()
    two.allow(seen, DESCRIBE)
    ids = [two.admin.stream(name).uuid for name in (hidden, seen)]
    gone = [{"name": name, "topic_id": None} for name in (hidden, seen)]
    two.admin.ask("DeleteTopics", 6, topics=gone, timeout=5_000)
    asked = [{"name": None, "topic_id": topic_id} for topic_id in ids]
    answer = two.admin.run(two.client.ask(KEYS["Metadata"], 12, {"topics": asked, "allow_auto_topic_creation": False}))

    told = {topic.topic_id: (topic.error_code, topic.name) for topic in answer.topics}
    assert told == {ids[0]: (100, None), ids[1]: (100, seen)}


def test_removing_one_keeps_the_others(two: Two) -> None:
    """The deletion of one ACL of a resource leaves the other ones in effect, denials above all (CVE-2024-27309)."""
    topic = two.admin.create()
    two.allow(topic, ALL)
    two.allow(topic, READ, DENY)
    two.allow(topic, ALTER)
    assert two.take(operation=ALTER) == 1
    assert (two.produce(topic), two.fetch(topic)) == (0, 29)


def test_a_session_is_asked_again(two: Two) -> None:
    """A fetch session goes on only as long as its client may read: each fetch asks again."""
    topic = two.admin.create()
    two.admin.produce(topic, NOW)
    two.allow(topic, READ)
    first = two.admin.run(two.client.fetch((topic, 0, 0), session_epoch=0))
    assert (first.error_code, first.responses[0].partitions[0].error_code) == (0, 0)
    two.take()
    two.admin.produce(topic, NOW + 1)
    second = two.admin.run(two.client.fetch(session_id=first.session_id, session_epoch=1))

    (partition,) = second.responses[0].partitions
    assert (partition.error_code, partition.records or b"") == (29, b"")


def test_a_fetch_that_waits_is_asked_again(two: Two) -> None:
    """Records that come after a right was taken away do not reach a fetch that waited for them."""
    topic = two.admin.create()
    two.allow(topic, READ)

    async def waits() -> tuple[int, int, int]:
        return two.client.send(FETCH, 11, fetch_body([(topic, 0, 0)], max_wait=15_000))

    sent = two.admin.run(waits())
    while not two.admin.broker.fetch_sessions.waiting:
        two.admin.ask("ApiVersions", 0)
    two.take()
    two.admin.produce(topic, NOW)
    answer = two.admin.run(two.client.receive(sent))

    (partition,) = answer.responses[0].partitions
    assert (partition.error_code, partition.records or b"") == (29, b"")


def test_a_replica_needs_its_right(two: Two) -> None:
    """Who says that it is a replica reads nothing by that (CVE-2018-1288), although it may read the topic."""
    topic = two.admin.create()
    two.admin.produce(topic, NOW)
    two.allow(topic, READ)
    assert two.fetch(topic, replica_id=7) == 29
    assert two.fetch(topic) == 0


def test_no_transaction_without_its_right(two: Two) -> None:
    """A transactional batch needs the right to its transactional id, and one without an id is refused
    (CVE-2018-17196)."""
    topic = two.admin.create()
    two.allow(topic, WRITE)
    sealed = batch(b"v", attributes=TRANSACTIONAL, producer_id=7, producer_epoch=0, base_sequence=0)
    for transactional_id in (None, "t"):
        body = {**produce_body(topic, [(0, sealed)]), "transactional_id": transactional_id}
        answer = two.admin.run(two.client.ask(PRODUCE, 8, body))
        assert answer.responses[0].partition_responses[0].error_code == 53
    assert two.admin.slot(topic).end == 0


def test_auto_creation_needs_its_right(two: Two) -> None:
    """A client that may describe but not create a topic does not make it by asking for it."""
    two.allow("new", DESCRIBE)
    answer = two.admin.run(two.client.ask(3, 9, {"topics": [{"name": "new"}], "allow_auto_topic_creation": True}))

    assert [topic.error_code for topic in answer.topics] == [29]
    assert two.admin.broker.topics.get("new") is None


def test_after_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """ACLs are there after a restart, described as they were made, resource by resource."""
    with admin_of(tmp_path_factory.mktemp("broker"), *WITH_RIGHTS) as admin:
        for is_first in (True, False):
            admin.ask("ApiVersions", 0)
            come_as(admin.broker, admin._client._writer.get_extra_info("sockname")[1], ADMIN)
            if is_first:
                creations = [acl(TOPIC, "a", READ), acl(TOPIC, "a", WRITE), acl(TOPIC, "b", READ)]
                admin.ask("CreateAcls", 3, creations=creations)
                admin.restart()
        resources = admin.ask("DescribeAcls", 3, **ANY_ACL).resources

        assert {resource.resource_name: len(resource.acls) for resource in resources} == {"a": 2, "b": 1}


def test_too_many(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Beyond acls.max an ACL is refused; those that are there can be made again, and deleted."""
    with admin_of(tmp_path_factory.mktemp("broker"), *WITH_RIGHTS, "acls.max=2") as admin:
        admin.ask("ApiVersions", 0)
        come_as(admin.broker, admin._client._writer.get_extra_info("sockname")[1], ADMIN)
        creations = [acl(TOPIC, name, READ) for name in ("a", "b", "c", "a")]
        results = admin.ask("CreateAcls", 3, creations=creations).results

        assert [result.error_code for result in results] == [0, 0, 44, 0]
        assert len(admin.ask("DeleteAcls", 3, filters=[ANY_ACL]).filter_results[0].matching_acls) == 2


def test_a_share_fetch_that_waits_is_asked_again(two: Two) -> None:
    """The same of a share group's member: of the topic, and of its group."""
    topic = two.admin.create()
    services = two.admin.broker.services
    key = {"group_id": "shared", "member_id": "m"}
    for taken in ({"resource_type_filter": TOPIC}, {"resource_type_filter": GROUP}):
        two.allow(topic, READ)
        two.allow("shared", READ, resource_type=GROUP)
        joined = two.admin.run(two.client.ask(76, 1, {**key, "member_epoch": 0, "subscribed_topic_names": [topic]}))
        assert joined.error_code == 0
        wanted = [{"topic_id": services.topics.get(topic).uuid, "partitions": [{"partition_index": 0}]}]
        limits = {"min_bytes": 1, "max_bytes": 1_000_000, "max_records": 10, "batch_size": 10}
        fetch = {**key, **limits, "share_session_epoch": 0, "topics": wanted}

        async def waits(body: dict[str, Any] = fetch) -> tuple[int, int, int]:
            return two.client.send(78, 1, {**body, "max_wait": 15_000})

        begun = two.admin.run(two.client.ask(78, 1, {**fetch, "max_wait": 0}))
        assert begun.error_code == 0
        fetch["share_session_epoch"] = 1
        sent = two.admin.run(waits())
        while not any(session.waiting for session in services.share.sessions._sessions.values()):
            two.admin.ask("ApiVersions", 0)
        assert two.take(**taken) == 1
        two.admin.produce(topic, NOW)
        answer = two.admin.run(two.client.receive(sent))

        assert not any(part.records for one in answer.responses for part in one.partitions)
        two.take()
        two.admin.run(two.client.ask(76, 1, {**key, "member_epoch": -1}))


def test_a_read_over_http_that_waits_is_asked_again(two: Two) -> None:
    """The same of who reads records by the REST API."""
    topic = two.admin.create()
    services = two.admin.broker.services
    two.allow(topic, READ)
    asked = 0

    def require() -> None:
        nonlocal asked
        asked += 1
        rights = two.admin.broker.authorizer.rights(ALICE, "127.0.0.1")  # type: ignore[union-attr]
        if not rights.may(Operation.READ, ResourceType.TOPIC, topic, "HTTP"):
            raise Problem(403, "Not allowed", "its right was taken away")

    async def begin() -> asyncio.Task[Any]:
        wanted = Wanted(offset=0, since_ms=None, most=1, wait_ms=5_000, committed=False)
        return asyncio.ensure_future(TopicRecords(services).read(two.admin.slot(topic), wanted, require))

    async def end(reading: asyncio.Task[Any]) -> Any:
        return await reading

    reading = two.admin.run(begin())
    while not asked:
        two.admin.ask("ApiVersions", 0)
    two.take()
    two.admin.produce(topic, NOW)
    with pytest.raises(Problem, match="taken away"):
        two.admin.run(end(reading))
