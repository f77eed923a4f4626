"""DeleteTopics, by name and by id."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from core.streams.live import Stream
from tests.gateway.apis.harness import Admin, admin_of

NOBODY = UUID(int=7)


def named(name: str | None, topic_id: UUID | None = None) -> dict[str, Any]:
    return {"name": name, "topic_id": topic_id}


def delete(admin: Admin, *topics: dict[str, Any]) -> list[tuple[str | None, int, str | None]]:
    answer = admin.ask("DeleteTopics", 6, topics=list(topics), timeout=5_000)
    return [(r.name, r.error_code, r.error_message) for r in answer.responses]


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_by_name(admin: Admin, version: int) -> None:
    """Up to v5 topics are deleted by name; an unknown one gets an error of its own."""
    name = admin.create()
    answer = admin.ask("DeleteTopics", version, topic_names=[name, "nope"], timeout=5_000)

    assert {name: 0, "nope": 3} == {r.name: r.error_code for r in answer.responses}
    assert admin.broker.topics.get(name) is None


def test_by_id(admin: Admin) -> None:
    """From v6 on a topic can be deleted by its id, and the answer has its name."""
    name = admin.create()
    uuid = admin.stream(name).uuid

    assert [(name, 0, None)] == delete(admin, named(None, uuid))
    assert admin.broker.topics.by_uuid(uuid) is None


@pytest.mark.parametrize(
    ("topic", "code", "why"),
    [
        (named("nope"), 3, "This server does not host this topic-partition."),
        (named("a b"), 3, "This server does not host this topic-partition."),
        (named(None, NOBODY), 100, "This server does not host this topic ID."),
        (named("nope", NOBODY), 42, "You may not specify both topic name and topic id."),
        (named(None), 42, "Neither topic name nor id were specified."),
    ],
)
def test_refused(admin: Admin, topic: dict[str, Any], code: int, why: str) -> None:
    """An entry that names no topic is refused."""
    assert [(topic["name"], code, why)] == delete(admin, topic)


def test_twice(admin: Admin) -> None:
    """A topic that is there twice is not deleted, however it is named."""
    name = admin.create()
    uuid = admin.stream(name).uuid

    assert [(name, 42, "Duplicate topic name.")] == delete(admin, named(name), named(name))
    assert delete(admin, named(None, uuid), named(None, uuid)) == [(None, 42, "Duplicate topic id.")]
    why = "The provided topic name maps to an ID that was already supplied."
    assert [(name, 42, why)] == delete(admin, named(name), named(None, uuid))
    assert admin.broker.topics.get(name) is not None


def test_others_hear_of_it(admin: Admin) -> None:
    """Registered listeners hear of a deleted topic."""
    gone: list[Stream] = []
    admin.broker.topics.on_deletion(gone.append)
    stream = admin.stream(admin.create())

    delete(admin, named(stream.name))

    assert [stream] == gone
    assert stream.deleted


def test_recreated(admin: Admin) -> None:
    """A topic created again has a new id and no records."""
    name = admin.create()
    old = admin.stream(name).uuid
    admin.produce(name, 1, 2, 3)
    delete(admin, named(name))
    admin.create(name=name)

    assert (admin.stream(name).uuid != old, admin.slot(name).durable_end) == (True, 0)


def test_survives_a_restart(tmp_path: Path) -> None:
    """A deleted topic stays deleted."""
    with admin_of(tmp_path) as admin:
        name = admin.create()
        delete(admin, named(name))
        admin.restart()

        assert admin.broker.topics.get(name) is None


def test_disabled(tmp_path: Path) -> None:
    """delete.topic.enable=false refuses: INVALID_REQUEST before v3, then TOPIC_DELETION_DISABLED."""
    with admin_of(tmp_path, "delete.topic.enable=false") as admin:
        name = admin.create()
        codes = [
            admin.ask("DeleteTopics", version, topic_names=[name], timeout=5_000).responses[0].error_code
            for version in (2, 3)
        ]

        assert codes == [42, 73]
        assert admin.broker.topics.get(name) is not None
