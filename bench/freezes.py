"""How long a slot that moves takes no appends, by how long its store takes for a put: `python -m bench.freezes`.

One node with a real etcd, and an object store in a directory whose puts of logs take a quarter more or less than
`--put-ms`. Two idempotent writers and a transactional one append to a slot that goes to and fro between two containers.
Prints for how long appends were refused, up to the decision, and the longest time in which none was acknowledged.

Keeps: what the writers were acknowledged is read in the end, once and in order, or the run is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.session import Session
from core.cluster.etcd_keys import Meta, join
from core.errors import NotMovedYet, SlotMoves, StorageFull
from core.store import Store
from core.streams.live import Slot, Stream
from tests.core.cluster import test_etcd_cluster
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.test_etcd_cluster import Cluster, serves_all
from tests.core.cluster.test_membership import CONTAINERS, OBJECTS
from tests.core.support import append, append_in_transaction, end_of, owner_of, read_all
from tests.core.tiering.support import storage_in
from tier2.filesystem import FilesystemStorage
from tier2.storage import Data, ObjectStat

MIB: Final = 1 << 20
ROOMY: Final = replace(OBJECTS, log_file_bytes=8 * MIB, cache_bytes=64 * MIB, chunk_bytes=64 * MIB)
"""All is read from memory."""
WRITERS: Final = (7, 8)
TRANSACTIONAL: Final = 9
SLOT: Final = 1
REST_S: Final = 1.0
"""Between two moves, with appends all the time."""
PAUSE_S: Final = 0.005
"""Before what was refused is sent again."""


class SlowStorage:
    """An object store whose puts of logs take a while."""

    def __init__(self, inner: FilesystemStorage, put_s: float) -> None:
        self._inner, self._put_s = inner, put_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def put_new(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        if key.startswith("log/"):
            await asyncio.sleep(self._put_s * random.uniform(0.75, 1.25))
        return await self._inner.put_new(key, data, token=token)


class Load:
    """Writers that try again what is refused."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._is_over = False
        self.sent = dict.fromkeys(WRITERS, 0)
        self.acknowledged_s: list[float] = []

    @property
    def slot(self) -> Slot:
        return self._stream.slot(SLOT)

    async def write(self, writer: int) -> None:
        while not self._is_over:
            payload = b"%d of %d" % (self.sent[writer], writer)
            try:
                await append(self.slot, payload, writer=(writer, 0, self.sent[writer]))
            except (SlotMoves, StorageFull):
                await asyncio.sleep(PAUSE_S)
                continue
            self.acknowledged_s.append(time.monotonic())
            self.sent[writer] += 1

    async def transact(self) -> None:
        sequence = 0
        while not self._is_over or self.slot.has_open_transaction(TRANSACTIONAL):
            with contextlib.suppress(SlotMoves, StorageFull):
                slot = self.slot
                if slot.has_open_transaction(TRANSACTIONAL):
                    await owner_of(slot).end_transactions([end_of(slot, TRANSACTIONAL, committed=True)], [])
                else:
                    await append_in_transaction(slot, b"in a transaction", (TRANSACTIONAL, 0, sequence))
                    sequence += 1
            await asyncio.sleep(PAUSE_S)

    def end(self) -> None:
        self._is_over = True

    def gap_s(self, since_s: float) -> float:
        """The longest time without an acknowledgement."""
        times = [at for at in self.acknowledged_s if at >= since_s]
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)

    async def check(self, store: Store) -> None:
        found = await read_all(store, self.slot)
        for writer, sent in self.sent.items():
            its = [payload for payload in found if payload.endswith(b" of %d" % writer)]
            assert its == [b"%d of %d" % (n, writer) for n in range(sent)], f"writer {writer} lost or doubled something"


async def measure(directory: Path, etcd: EtcdServer, put_s: float, moves: int) -> tuple[list[float], list[float]]:
    """Seconds of each freeze, and of the longest gap around it."""
    frozen_s, gaps_s = list[float](), list[float]()
    async with AsyncExitStack() as stack:
        inner = await storage_in(directory / "bucket")
        stack.push_async_callback(inner.close)
        cluster = Cluster(directory, etcd, SlowStorage(inner, put_s), stack)  # type: ignore[arg-type]
        client = EtcdClient(etcd.settings())
        stack.push_async_callback(client.close)
        await join(Session(client, cluster.prefix), cluster.prefix, Meta("c", CONTAINERS))
        node = await cluster.join(1)
        await serves_all(node)
        stream = await node.store.create_stream("s", slots=CONTAINERS)
        load, source = Load(stream), stream.slot(SLOT).container_id
        writing = [asyncio.create_task(load.write(writer)) for writer in WRITERS]
        writing.append(asyncio.create_task(load.transact()))
        for number in range(moves):
            await asyncio.sleep(REST_S)
            since_s, target = time.monotonic(), (source + 1 - number % 2) % CONTAINERS
            try:
                frozen_s.append((await node.store.move_slot(stream, SLOT, target)).frozen_s)
            except NotMovedYet as error:
                print(f"not moved: {error}")
                break
            await asyncio.sleep(4 * put_s)
            gaps_s.append(load.gap_s(since_s))
        load.end()
        await asyncio.gather(*writing)
        await load.check(node.store)
    return frozen_s, gaps_s


def told(seconds: Sequence[float]) -> str:
    ms = sorted(round(1000 * one) for one in seconds)
    return f"p50 {round(statistics.median(ms))} ms, most {ms[-1]} ms, all {ms}" if ms else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--put-ms", type=float, nargs="+", default=[20.0, 100.0, 200.0])
    parser.add_argument("--moves", type=int, default=8)
    options = parser.parse_args()
    test_etcd_cluster.OBJECTS = ROOMY  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as scratch:
        etcd = EtcdServer(Path(scratch))
        etcd.start()
        try:
            for put_ms in options.put_ms:
                directory = Path(scratch) / f"{put_ms:g}"
                directory.mkdir()
                frozen_s, gaps_s = asyncio.run(measure(directory, etcd, put_ms / 1000, options.moves))
                print(f"a put takes {put_ms:g} ms: refused {told(frozen_s)}", flush=True)
                print(f"    nothing acknowledged: {told(gaps_s)}", flush=True)
        finally:
            etcd.stop()


if __name__ == "__main__":
    main()
