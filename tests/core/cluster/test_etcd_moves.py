"""Rows of wanted moves in etcd, byte by byte, and who may change them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from core.cluster.etcd.client import EtcdClient, EtcdSettings
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.session import Session
from core.cluster.etcd.wire import Put, Range, end_of
from core.cluster.etcd_moves import WHY_CHARS_MAX, EtcdMoves
from core.cluster.wanted_moves import WantedMove
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.support import connected, new_prefix, run, until

GOLDEN = {
    b"moves/0000002a/3": b'{"v":1,"target":5,"home":2}',
    b"moves/0000002a/10": b'{"v":1,"target":0,"home":1,"why":"it is damaged"}',
}
"""Format 1, as it was first released: a later release reads it."""
FIRST = WantedMove(place=(42, 3), target=5, home=2)
SECOND = WantedMove(place=(42, 10), target=0, home=1)


@asynccontextmanager
async def moves_in(settings: EtcdSettings, prefix: bytes) -> AsyncIterator[EtcdMoves]:
    client = EtcdClient(settings)
    mirror = await Mirror.open(client, prefix)
    try:
        yield EtcdMoves(mirror, Session(client, prefix))
    finally:
        await mirror.close()
        await client.close()


def test_the_rows(etcd: EtcdServer) -> None:
    """What is written, that all nodes hear of it in the order in which it was wanted, and that it goes."""

    async def test() -> None:
        prefix = new_prefix()
        async with (
            connected(etcd.settings()) as client,
            moves_in(etcd.settings(), prefix) as one,
            moves_in(etcd.settings(), prefix) as two,
        ):
            heard = asyncio.Event()
            two.on_changed(heard.set)
            assert await one.want(FIRST)
            assert await two.want(SECOND)
            assert not await one.want(replace(SECOND, target=7)), "the slot has a row"
            await one.refuse(SECOND, "it is damaged")
            refused = replace(SECOND, why_not="it is damaged")
            await until(lambda: two.wanted() == one.wanted() == [FIRST, refused])
            assert heard.is_set()
            found = (await client.read(Range(prefix + b"moves/", end_of(prefix + b"moves/")))).keys
            assert {row.key[len(prefix) :]: row.value for row in found} == GOLDEN

            await two.forget(SECOND)  # it is another one by now
            assert len(two.wanted()) == 2
            await two.forget(refused)
            await until(lambda: one.wanted() == [FIRST])
            assert await one.want(SECOND)
            assert one.wanted() == [FIRST, SECOND]
            await one.refuse(FIRST, "w" * 1_000)
            assert len(one.wanted()[0].why_not) == WHY_CHARS_MAX

    run(test())


def test_golden_rows_are_read_and_others_are_told_of(etcd: EtcdServer, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        prefix = new_prefix()
        strange = {b"moves/0000002a/x": b"{}", b"moves/1/2": b'{"v":2,"target":1,"home":1}', b"moves/1": b"["}
        async with connected(etcd.settings()) as client:
            await client.decide((), [Put(prefix + key, value) for key, value in (GOLDEN | strange).items()])
            async with moves_in(etcd.settings(), prefix) as moves:
                assert set(moves.wanted()) == {FIRST, replace(SECOND, why_not="it is damaged")}

    run(test())
    assert sum("cannot be read" in record.message for record in caplog.records) == 3
