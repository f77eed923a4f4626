"""A member that says of very many tasks that it has them."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from gateway.apis import streams_group_heartbeat
from gateway.groups.streams.messages import Extents, Tasks
from tests.gateway.apis.harness import Admin, admin_of

pytestmark = pytest.mark.slow

AT_ONCE = ("group.streams.initial.rebalance.delay.ms=0", "group.streams.assignment.interval.ms=0")
PARTITIONS = 20
ABSENT = ("source_topic_regex", "state_changelog_topics", "repartition_sink_topics", "repartition_source_topics")
UNSAID = ("instance_id", "rack_id", "topology", "process_id", "user_endpoint", "client_tags")


def beat(admin: Admin, epoch: int, owned: list[int] | None, **said: Any) -> Any:
    tasks = None if owned is None else [{"subtopology_id": "0", "partitions": owned}]
    others: dict[str, Any] = dict.fromkeys(("standby_tasks", "warmup_tasks"), None if owned is None else [])
    offsets = dict.fromkeys(("task_offsets", "task_end_offsets"))
    member = {"group_id": "g", "member_id": "m", "member_epoch": epoch, "endpoint_information_epoch": -1}
    unsaid = {**dict.fromkeys(UNSAID), "rebalance_timeout": -1, "shutdown_application": False}
    answer = admin.ask(
        "StreamsGroupHeartbeat", 0, **{**unsaid, **member, **offsets, **others, "active_tasks": tasks, **said}
    )
    assert answer.error_code == 0, answer
    return answer


def test_what_it_says_is_freed_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To free 100,000 tasks at once takes as long as two turns of the event loop."""
    monkeypatch.setattr(streams_group_heartbeat, "TASKS_AT_ONCE", PARTITIONS - 1)
    monkeypatch.setattr(streams_group_heartbeat, "FREED_AT_ONCE", 3)
    freed_by: list[int] = []
    owned_of, watched = streams_group_heartbeat._owned, list[weakref.ref[Any]]()

    def noted(*told: Any) -> tuple[Tasks, Extents]:
        owned, extents = owned_of(*told)
        watched.append(weakref.ref(owned.active, lambda _: freed_by.append(threading.get_ident())))
        return owned, extents

    monkeypatch.setattr(streams_group_heartbeat, "_owned", noted)
    with admin_of(tmp_path, *AT_ONCE) as admin:
        topic = admin.create(PARTITIONS)
        nothing: dict[str, list[Any]] = {name: [] for name in (*ABSENT, "copartition_groups")}
        topology = {"epoch": 0, "subtopologies": [{"subtopology_id": "0", "source_topics": [topic], **nothing}]}
        answer = beat(admin, 0, [], topology=topology, process_id="p", rebalance_timeout=60_000)
        (tasks,) = beat(admin, answer.member_epoch, None).active_tasks or answer.active_tasks
        assert list(tasks.partitions) == list(range(PARTITIONS))
        freed_by.clear()
        beat(admin, answer.member_epoch, list(tasks.partitions))

    assert len(freed_by) == 1
    assert freed_by[0] != threading.get_ident()
