"""A cluster's keys from what its containers tell: one state of each stream, counters beyond all, and no half of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from uuid import UUID

import pytest

from core import rebuilding
from core.cluster import etcd_keys
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.session import CALLS, Outcome, Session
from core.cluster.etcd.wire import Compare, Delete, Put, Range, end_of
from core.cluster.etcd_keys import Meta
from core.errors import CoordinatorAway, CoordinatorRefuses
from core.log.objects.protocol import Link
from core.rebuilding import ContainerFacts, agreed
from core.streams.state import REGISTRY_DECIDES, StreamState, new_stream
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.support import connected, new_prefix, run

META = Meta("an-id", 3)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


def stream(stream_id: int, name: str, slots: int = 4) -> StreamState:
    return new_stream(
        stream_id=stream_id,
        name=name,
        uuid=UUID(int=stream_id),
        slots=slots,
        created_ms=1,
        container=REGISTRY_DECIDES,
        config={},
        placement=(0, 1),
    )


def test_of_two_copies_the_newer_one_is_right() -> None:
    old = stream(1, "t")
    new = old.grown(8, 2, (0, 1))
    for states in ((old, new), (new, old)):
        facts = [ContainerFacts(n, 1, streams=[state]) for n, state in enumerate(states)]
        assert agreed(facts).streams == [new]


@pytest.mark.parametrize("name", ["a.b", "a_b"])
def test_a_name_belongs_to_the_newest_stream(name: str) -> None:
    """One container has not heard that it was deleted. Names that are alike are one name."""
    facts = [
        ContainerFacts(0, 1, streams=[stream(3, "a.b"), stream(4, "c")]),
        ContainerFacts(1, 1, streams=[stream(7, name)]),
    ]
    rebuilt = agreed(facts)
    assert [one.id for one in rebuilt.streams] == [4, 7]
    assert [one.id for one in rebuilt.dropped] == [3]


def test_counters_begin_beyond_all_that_any_container_has_heard_of() -> None:
    facts = [
        ContainerFacts(0, 17, streams=[stream(9, "t")], stream=3, writer=2_500),
        ContainerFacts(1, 4, stream=40, writer=7),
        ContainerFacts(2, 0),
    ]
    rebuilt = agreed(facts)
    assert rebuilt.epoch == 17 + rebuilding.EPOCHS_APART
    assert rebuilt.next_stream == 41 + rebuilding.STREAMS_APART
    assert rebuilt.next_writer == 2_501 + rebuilding.WRITERS_APART
    assert agreed([]).epoch == rebuilding.EPOCHS_APART


class Ending(Session):
    """The process ends at one of its changes: before it, or after it and before its answer."""

    def __init__(self, client: EtcdClient, prefix: bytes, changes: int, *, is_made: bool) -> None:
        super().__init__(client, prefix)
        self._left = changes
        self._is_made = is_made

    async def change(
        self,
        compares: Sequence[Compare],
        changes: Sequence[Put | Delete],
        otherwise: Sequence[Range] = (),
        within_s: float = 10,
    ) -> Outcome:
        self._left -= 1
        if self._left < 0 and not self._is_made:
            raise CoordinatorAway("the process has ended")
        outcome = await super().change(compares, changes, otherwise, within_s)
        if self._left < 0:
            raise CoordinatorAway("the process has ended")
        return outcome


async def keys(client: EtcdClient, prefix: bytes) -> dict[bytes, bytes]:
    found = (await client.read(Range(prefix, end_of(prefix)))).keys
    return {one.key[len(prefix) :]: one.value for one in found if CALLS not in one.key}


def test_it_may_end_anywhere_and_is_begun_anew(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until all is written no node begins the cluster, and then nothing is written any more."""
    monkeypatch.setattr(rebuilding, "KEYS_AT_ONCE", 4)
    facts = [ContainerFacts(0, 5, [Link(0, 1, 5)], [stream(n, f"t{n}") for n in range(1, 4)])]
    rebuilt = agreed(facts)
    others = agreed([ContainerFacts(0, 5, [Link(0, 1, 5)], [stream(9, "of-before")])])

    async def once(client: EtcdClient, changes: int, *, is_made: bool) -> dict[bytes, bytes]:
        prefix = new_prefix()
        ending = Ending(client, prefix, changes, is_made=is_made)
        with pytest.raises(CoordinatorAway):
            await rebuilding.write(client, ending, prefix, META, others)
        session = Session(client, prefix)
        if changes or is_made:
            with pytest.raises(CoordinatorRefuses, match="has begun and not ended: run `penstock cluster rebuild`"):
                await etcd_keys.join(session, prefix, Meta("another", 9))
        await rebuilding.write(client, session, prefix, META, rebuilt)
        found = await keys(client, prefix)
        assert await etcd_keys.join(session, prefix, Meta("another", 9)) == META
        with pytest.raises(CoordinatorRefuses, match="a cluster is there"):
            await rebuilding.write(client, session, prefix, META, rebuilt)
        assert await keys(client, prefix) == found
        return found

    async def test() -> None:
        async with connected(etcd.settings()) as client:
            cases = [(changes, is_made) for changes in range(3) for is_made in (False, True)]
            found = await asyncio.gather(*(once(client, changes, is_made=made) for changes, made in cases))
            assert all(one == found[0] for one in found)
            assert found[0].keys() >= {b"meta", b"epoch", b"ids/stream", b"ids/writer", b"links/0", b"streams/n/t1"}
            assert found[0][b"streams/i/00000002"] == stream(2, "t2").encode()
            assert b"rebuild" not in found[0]
            assert b"streams/n/of-before" not in found[0]

    run(test())


def test_nothing_is_written_where_a_node_has_begun(etcd: EtcdServer) -> None:
    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client:
            session = Session(client, prefix)
            await etcd_keys.join(session, prefix, Meta("of a node", 16))
            before = await keys(client, prefix)
            with pytest.raises(CoordinatorRefuses, match="etcdctl del --prefix penstock/"):
                await rebuilding.write(client, session, prefix, META, agreed([]))
            assert await keys(client, prefix) == before

    run(test())
