"""Share-partitions of a process: what is told to be stored is stored."""

from __future__ import annotations

from pathlib import Path

from kio.schema.errors import ErrorCode

from gateway.groups.share.format import PARTITIONS_TABLE, PlaceKey, decode_partition, encode_key
from gateway.groups.share.partition import Judgement, Span, Verdict
from tests.gateway.apis.harness import NOW, admin_of


def test_what_was_settled_in_a_partition_that_is_closed(tmp_path: Path) -> None:
    """A partition is closed before what was settled in it is written, as when its container has come back to this node
    by another opening: the member hears that it is not settled."""
    with admin_of(tmp_path) as admin:
        topic = admin.create()
        admin.produce(topic, *[NOW] * 10)
        slot, key = admin.slot(topic), PlaceKey("g", admin.stream(topic).uuid, 0)

        async def settled() -> ErrorCode:
            live = await admin.broker.share.partitions.of(key, slot)
            await live.begin_at(0)
            now_s = admin.broker.clock.monotonic_s()
            live.state.acquire("m", 0, [Span(0, 9)], 10, live.settings().limits, now_s)
            live.acknowledge("m", [Judgement(0, 9, [Verdict.ACCEPT])])
            live.close()
            return await live.stored()

        told = admin.run(settled())
        row = admin.broker.store.hosted(slot).container.table(PARTITIONS_TABLE).get(encode_key(key))
        assert row is not None
        assert decode_partition(row).start == 0
        assert told == ErrorCode.not_leader_or_follower
