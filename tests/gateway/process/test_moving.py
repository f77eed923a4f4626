"""A partition moves between two containers of one worker, and not to another one's: what that one tells stays true."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from gateway.wire.codec import response_codec
from tests.gateway.forking import serving
from tests.gateway.http.calls import call, create_topic
from tests.likeness.asking import KEYS, Server, _framed

pytestmark = pytest.mark.slow

WITHIN_S = 60


def test_every_worker_tells_the_epochs_that_leaders_have(tmp_path: Path) -> None:
    """With the move the epoch of a whole container rises. A worker that told the one before would send the clients of
    all its partitions round in circles: fenced by their leader, and told the same again."""
    with serving(
        tmp_path,
        "--http",
        "127.0.0.1:0",
        "--set",
        "workers=2",
        "--set",
        "containers=4",
        "--set",
        "log.file.bytes=4194304",
    ) as running:
        ready = running.ready()
        address = ready["kafka"][0]
        create_topic(address, "t", 8)
        brokers = AdminClient({"bootstrap.servers": address}).list_topics(timeout=WITHIN_S).brokers
        servers = {id: Server(f"{one.host}:{one.port}", own={}) for id, one in brokers.items()}

        def leaders(server: Server) -> dict[int, tuple[int, int]]:
            answer = server._exchange(_framed("metadata", 12, {"topics": [{"name": "t"}]}))
            assert answer is not None
            told = response_codec(KEYS["metadata"], 12).decode(memoryview(answer), 5)
            (topic,) = told.topics
            return {one.partition_index: (one.leader_id, one.leader_epoch) for one in topic.partitions}

        before = leaders(servers[min(servers)])
        _, _, shown = call(ready["http"], "GET", "/api/v1/streams/t", None)
        of = {slot: one["container"] for one in shown["epochs"][-1]["segments"] for slot in one["slots"]}
        status, _, told = call(
            ready["http"], "POST", "/api/v1/streams/t/move", {"slot": 0, "container": (of[0] + 1) % 4}
        )
        assert status == 409, told
        assert f"container {(of[0] + 1) % 4} is open in another process" in told["detail"]
        assert "start with workers = 1, move it" in told["detail"]
        for container in ((of[0] + 2) % 4, of[0]):  # the way back leads to the lower epoch
            wanted = {"slot": 0, "container": container}
            status, _, told = call(ready["http"], "POST", "/api/v1/streams/t/move", wanted)
            assert (status, told["state"]) == (200, "moved"), told
        deadline = time.monotonic() + WITHIN_S
        while len({tuple(sorted(leaders(server).items())) for server in servers.values()}) > 1:
            assert time.monotonic() < deadline, {id: leaders(server) for id, server in servers.items()}
            time.sleep(0.05)
        after = leaders(servers[min(servers)])
        risen = {number for number in after if after[number][1] > before[number][1]}
        assert risen >= {number for number, container in of.items() if container == of[0]}
        for server in servers.values():
            server.close()
