"""`controller_mutation_rate` over the wire (KIP-599): partitions made and deleted, strictly and permissively."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.gateway.apis.harness import KEYS, Admin, admin_of, code_and_message, new_name
from tests.gateway.apis.test_quotas import muted, set_quota
from tests.gateway.harness import Client

RATE: Final = "controller_mutation_rate"
ALL: Final[dict[str, str | None]] = {"client-id": None}
BURST: Final = 11
"""Partitions that a client may make at once, at one a second."""
EXCEEDED: Final = (89, "The throttling quota has been exceeded.")


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with admin_of(tmp_path_factory.mktemp("broker")) as admin:
        yield admin


@pytest.fixture
def client(fresh: Admin) -> Client:
    """A connection that may be muted, beside the harness' own."""
    return fresh.run(Client.connect(fresh.broker))


def asked(admin: Admin, client: Client, api: str, version: int, **request: Any) -> Any:
    return admin.run(client.ask(KEYS[api], version, request))


def topics(*counts: int) -> list[dict[str, Any]]:
    return [
        {"name": new_name(), "num_partitions": count, "replication_factor": 1, "assignments": [], "configs": []}
        for count in counts
    ]


def create(admin: Admin, client: Client, version: int, *counts: int, only_checked: bool = False) -> Any:
    wanted = topics(*counts)
    more = {"timeout": 1_000, "validate_only": only_checked}
    return asked(admin, client, "CreateTopics", version, topics=wanted, **more)


def test_new_versions_are_refused(fresh: Admin, client: Client) -> None:
    """The topic that uses the quota up is made; the next of the same request is refused with a pause, not made."""
    assert set_quota(fresh, ALL, RATE, 1.0) == 0
    answer = create(fresh, client, 7, 20, 1)

    made, refused = answer.topics
    assert made.error_code == 0
    assert code_and_message(refused) == EXCEEDED
    assert 8_000 < answer.throttle_time <= 9_000
    assert fresh.broker.topics.get(made.name) is not None
    assert fresh.broker.topics.get(refused.name) is None
    assert muted(fresh, client)


def test_old_versions_are_only_slowed(fresh: Admin, client: Client) -> None:
    """A client that does not know the refusal gets all its topics, and a pause."""
    set_quota(fresh, ALL, RATE, 1.0)
    answer = create(fresh, client, 5, 20, 1)

    assert [topic.error_code for topic in answer.topics] == [0, 0]
    assert 9_000 < answer.throttle_time <= 10_000
    assert muted(fresh, client)


def test_within_the_quota(fresh: Admin, client: Client) -> None:
    """Nobody pauses for a burst of eleven seconds, nor for what was refused for another reason."""
    set_quota(fresh, ALL, RATE, 1.0)
    assert create(fresh, client, 7, -5, BURST).throttle_time == 0
    assert not muted(fresh, client)


def test_checks_count_too(fresh: Admin, client: Client) -> None:
    """As in Kafka's controller, what is only validated takes tokens all the same."""
    set_quota(fresh, ALL, RATE, 1.0)
    assert create(fresh, client, 7, 20, only_checked=True).topics[0].error_code == 0
    assert create(fresh, fresh.run(Client.connect(fresh.broker)), 7, 1, only_checked=True).topics[0].error_code == 89


def test_growing_and_deleting(fresh: Admin, client: Client) -> None:
    """Partitions that are added, and those of deleted topics, count; refused ones stay as they were."""
    grown, deleted, kept = fresh.create(1), fresh.create(3), fresh.create(1)
    set_quota(fresh, ALL, RATE, 1.0)
    more = {"timeout": 1_000, "validate_only": False}
    growth = [{"name": grown, "count": 10, "assignments": None}]
    assert asked(fresh, client, "CreatePartitions", 3, topics=growth, **more).throttle_time == 0
    answer = asked(
        fresh,
        client,
        "DeleteTopics",
        6,
        topics=[{"name": name, "topic_id": None} for name in (deleted, kept)],
        timeout=1_000,
    )
    assert [code_and_message(one) for one in answer.responses] == [(0, None), EXCEEDED]
    assert 0 < answer.throttle_time <= 1_000
    assert fresh.broker.topics.get(deleted) is None
    assert fresh.broker.topics.get(kept) is not None

    other = fresh.run(Client.connect(fresh.broker))
    growth = [{"name": grown, "count": 11, "assignments": None}]
    refused = asked(fresh, other, "CreatePartitions", 3, topics=growth, **more)
    assert (refused.results[0].error_code, refused.throttle_time > 0) == (89, True)
    assert fresh.stream(grown).slot_count == 10
    third = fresh.run(Client.connect(fresh.broker))
    slowed = asked(fresh, third, "DeleteTopics", 4, topic_names=[kept], timeout=1_000)
    assert (slowed.responses[0].error_code, slowed.throttle_time > 0) == (0, True)


def test_topics_that_come_by_asking(fresh: Admin, client: Client) -> None:
    """The quota holds for topics that Metadata creates: they do not come, and the client is told what it always is."""
    set_quota(fresh, ALL, RATE, 0.001)
    create(fresh, client, 5, 1)
    name = new_name()
    for _ in range(3):
        (entry,) = fresh.ask("Metadata", 8, topics=[{"name": name}], allow_auto_topic_creation=True).topics
        assert entry.error_code == 3
    assert fresh.broker.topics.get(name) is None
