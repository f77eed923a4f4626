"""Calls to etcd: answered whatever is cut on the way, by whichever member is there, and refused with a reason."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from core.cluster.etcd.client import EtcdClient, EtcdSettings
from core.cluster.etcd.http import Endpoint
from core.cluster.etcd.wire import COMPACTED, EtcdError, Put, Range, absent, end_of
from core.errors import CoordinatorAway, CoordinatorRefuses
from tests.core.cluster.etcd.proxy import CuttingProxy
from tests.core.cluster.etcd.servers import EtcdServer, free_ports, stop_all, three_members
from tests.core.cluster.etcd.support import connected, new_prefix, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("way", ["cut_requests", "cut_answers", "cut_within_answers"])
def test_a_cut_call_is_answered(etcd: EtcdServer, way: str) -> None:
    """A call whose request, or whose answer, is cut several times in a row is repeated until it is answered."""

    async def test() -> None:
        prefix = new_prefix()
        async with CuttingProxy(etcd.endpoint) as proxy, connected(etcd.settings(proxy.endpoint)) as client:
            for _ in range(3):
                setattr(proxy, way, 3)
                await client.decide((absent(prefix),), (Put(prefix, b"value"),))
                setattr(proxy, way, 3)
                (found,) = (await client.read(Range(prefix))).keys
                assert (found.key, found.value, found.created) == (prefix, b"value", found.revision)

    run(test())


@pytest.mark.parametrize("file", ["/dev/null", __file__])
def test_authorities_that_are_none(file: str) -> None:
    """A file that vouches for nobody is refused by its name, before etcd is asked anything."""
    settings = EtcdSettings(endpoints=(Endpoint("127.0.0.1", 1),), tls=True, ca_file=file)
    with pytest.raises(CoordinatorRefuses, match="for etcd, cannot be used: it has no certificate") as refused:
        EtcdClient(settings)
    assert file in str(refused.value)


def test_a_silent_member_is_left(etcd: EtcdServer) -> None:
    """A member that takes requests and never answers, and one that refuses connections, cost time once: later calls go
    to the member that answers."""

    async def test() -> None:
        (closed,) = free_ports(1)
        async with CuttingProxy(etcd.endpoint) as silent:
            silent.hold()
            settings = etcd.settings(silent.endpoint, Endpoint("127.0.0.1", closed), etcd.endpoint)
            async with connected(settings) as client:
                await client.read(Range(new_prefix()))
                held = silent.requests
                for _ in range(10):
                    await client.read(Range(new_prefix()))
                assert silent.requests == held == 1

    run(test())


def test_etcd_away() -> None:
    """Without any member a call ends within its bound, and says what it has met."""

    async def test() -> None:
        (closed,) = free_ports(1)
        async with connected(EtcdSettings(endpoints=(Endpoint("127.0.0.1", closed),))) as client:
            begin = time.monotonic()
            with pytest.raises(CoordinatorAway, match=rf"within 1 s.*127\.0\.0\.1:{closed} cannot be reached"):
                await client.read(Range(b"a"), within_s=1)
            assert time.monotonic() - begin < 20

    run(test())


def test_calls_at_a_time(etcd: EtcdServer) -> None:
    """A hundred calls at once share few connections, and each gets its own answer, while some are cut or cancelled."""

    async def test() -> None:
        prefix = new_prefix()
        async with CuttingProxy(etcd.endpoint, seed=4) as proxy, connected(etcd.settings(proxy.endpoint)) as client:
            keys = [prefix + b"%d" % n for n in range(100)]
            await asyncio.gather(*(client.decide((absent(key),), (Put(key, key),)) for key in keys))
            proxy.share = 0.1
            reads = [asyncio.create_task(client.read(Range(key), within_s=60)) for key in keys]
            await asyncio.sleep(0.01)
            for read in reads[::7]:
                read.cancel()
            answers = await asyncio.gather(*reads, return_exceptions=True)
            for key, answer in zip(keys, answers, strict=True):
                if not isinstance(answer, BaseException):
                    assert [one.value for one in answer.keys] == [key]
                else:
                    assert isinstance(answer, asyncio.CancelledError)
            proxy.share = 0
            assert len((await client.read(Range(prefix, end_of(prefix)))).keys) == 100

    run(test())


def test_leases(etcd: EtcdServer) -> None:
    """A lease whose grant went through unseen is there once; ending one that has ended is no error; keys go with it."""

    async def test() -> None:
        prefix = new_prefix()
        async with CuttingProxy(etcd.endpoint) as proxy, connected(etcd.settings(proxy.endpoint)) as client:
            proxy.cut_answers = 2
            assert await client.grant(4711, 60) == 60
            await client.decide((), (Put(prefix, b"", 4711),))
            assert (await client.read(Range(prefix))).keys[0].lease == 4711
            assert await client.renew(4711) == 60
            proxy.cut_answers = 1
            await client.revoke(4711)
            await client.revoke(4711)
            assert await client.renew(4711) == 0
            assert not (await client.read(Range(prefix))).keys
            with pytest.raises(EtcdError, match="lease not found"):
                await client.decide((), (Put(prefix, b"", 4711),))

    run(test())


def test_a_transaction_of_many_changes(etcd: EtcdServer) -> None:
    """More changes than etcd takes on one level are still one transaction."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client:
            decided = await client.decide((absent(prefix),), [Put(prefix + b"%d" % n, b"v") for n in range(1000)])
            assert decided.succeeded
            found = (await client.read(Range(prefix, end_of(prefix)))).keys
            assert {one.revision for one in found} == {decided.revision}
            assert len(found) == 1000

    run(test())


def test_refusals(etcd: EtcdServer) -> None:
    """What no member will do is not tried again: too large a value, revisions that are compacted."""

    async def test() -> None:
        async with connected(etcd.settings()) as client:
            with pytest.raises(CoordinatorRefuses, match="too large"):
                await client.decide((), (Put(b"large", bytes(2_000_000)),))
            revision = (await client.decide((), (Put(b"small", b""),))).revision
            await client.decide((), (Put(b"small", b"1"),))
            post(etcd, "kv/compaction", {"revision": str(revision + 1)})
            with pytest.raises(EtcdError) as refused:
                await client.read(Range(b"small", revision=revision))
            assert refused.value.code == COMPACTED
            async with aclosing(client.watch(b"small", b"t", 1)) as watch:
                assert (await anext(watch)).created
                with pytest.raises(EtcdError) as refused:
                    await anext(watch)
            assert refused.value.code == COMPACTED

    run(test())


def test_another_cluster(etcd: EtcdServer, tmp_path: Path) -> None:
    """A member of another etcd cluster among the endpoints is refused: its answers would be about other keys."""
    stranger = EtcdServer(tmp_path / "etcd", name="stranger")
    stranger.start()

    async def test() -> None:
        async with (
            CuttingProxy(etcd.endpoint) as proxy,
            connected(etcd.settings(proxy.endpoint, stranger.endpoint)) as client,
        ):
            await client.read(Range(b"a"))
            proxy.refuses = True
            proxy.cut()
            with pytest.raises(CoordinatorRefuses, match="name the members of one cluster"):
                await client.read(Range(b"a"))

    try:
        run(test())
    finally:
        stranger.stop()


def test_no_etcd(etcd: EtcdServer) -> None:
    """Something else on the port, which answers nonsense, is no etcd: the error quotes a bounded part of it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnonsense!")

    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"SSH-2.0-x\r\n" * 10_000)

    async def test() -> None:
        for serve, reason in ((answer, "no JSON"), (chatter, "has cut the connection")):
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            async with connected(EtcdSettings(endpoints=(Endpoint("127.0.0.1", port),))) as client:
                with pytest.raises(CoordinatorAway, match=reason) as away:
                    await client.read(Range(b"a"), within_s=1)
                assert len(str(away.value)) < 500
            server.close()

    run(test())


def test_tls(tmp_path: Path) -> None:
    """By TLS with a certificate of its own; without it, or with an authority that does not vouch, nothing is served."""
    server = EtcdServer(tmp_path / "etcd", tls=True)
    server.start()

    async def test() -> None:
        settings = server.settings()
        async with connected(settings) as client:
            await client.decide((), (Put(b"a", b"1"),))
            assert (await client.read(Range(b"a"))).keys[0].value == b"1"
            async with aclosing(client.watch(b"a", b"b", 1)) as watch:
                assert (await anext(watch)).created
        async with connected(EtcdSettings(endpoints=settings.endpoints, tls=True)) as client:
            with pytest.raises(CoordinatorAway, match="CERTIFICATE_VERIFY_FAILED"):
                await client.read(Range(b"a"), within_s=1)
        nameless = EtcdSettings(endpoints=settings.endpoints, tls=True, ca_file=settings.ca_file)
        async with connected(nameless) as client:
            with pytest.raises(CoordinatorAway):
                await client.read(Range(b"a"), within_s=1)
        with pytest.raises(CoordinatorRefuses, match=r"nowhere\.crt"):
            EtcdClient(EtcdSettings(endpoints=settings.endpoints, tls=True, ca_file="nowhere.crt"))

    try:
        run(test())
    finally:
        server.stop()


def post(server: EtcdServer, path: str, body: dict[str, Any], token: str = "") -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/v3/{path}", data=json.dumps(body).encode())
    if token:
        request.add_header("Authorization", token)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd with users: root, and one who may do all below `mine/`."""
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    for name in ("root", "penstock"):
        post(server, "auth/role/add", {"name": name})
        post(server, "auth/user/add", {"name": name, "password": f"{name}-secret"})
        post(server, "auth/user/grant", {"user": name, "role": name})
    rights = {"permType": "READWRITE", "key": "bWluZS8=", "range_end": "bWluZTA="}
    post(server, "auth/role/grant", {"name": "penstock", "perm": rights})
    post(server, "auth/enable", {})
    yield server
    server.stop()


def test_a_password(guarded: EtcdServer) -> None:
    """With user and password; a token that is not good any more, as etcd was started anew or rights were changed, is
    replaced during a call. What the user may not do, and a wrong password, are said without the password."""

    async def test() -> None:
        async with connected(guarded.settings(user="penstock", password="penstock-secret")) as client:
            await client.decide((), (Put(b"mine/a", b"1"),))
            guarded.stop()
            guarded.start()
            assert (await client.read(Range(b"mine/a"))).keys[0].value == b"1"
            token = post(guarded, "auth/authenticate", {"name": "root", "password": "root-secret"})["token"]
            post(guarded, "auth/user/add", {"name": "other", "password": "x"}, token)
            assert (await client.read(Range(b"mine/a"))).keys[0].value == b"1"
            async with aclosing(client.watch(b"mine/", b"mine0", 1)) as watch:
                assert (await anext(watch)).created
            with pytest.raises(CoordinatorRefuses, match=r"user 'penstock'.*permission denied"):
                await client.read(Range(b"yours"))
        async with connected(guarded.settings(user="penstock", password="wr0ng")) as client:
            with pytest.raises(CoordinatorRefuses, match="authentication failed") as refused:
                await client.read(Range(b"mine/a"))
            assert "wr0ng" not in str(refused.value) + repr(client) + repr(guarded.settings(password="wr0ng"))
        async with connected(guarded.settings()) as client:
            with pytest.raises(CoordinatorRefuses, match="user name is empty"):
                await client.read(Range(b"mine/a"))

    run(test())


def test_members_that_go(tmp_path: Path) -> None:
    """Three members: calls go on while each is killed in its turn, the leader among them, and started again. With one
    alone nothing is answered, and it comes back by itself."""
    servers = three_members(tmp_path)

    async def test() -> None:
        async with connected(servers[0].settings(*(server.endpoint for server in servers))) as client:
            for n, server in enumerate(servers):
                server.stop()
                await client.decide((), (Put(b"n", b"%d" % n),), within_s=30)
                assert (await client.read(Range(b"n"), within_s=30)).keys[0].value == b"%d" % n
                server.begin()
                await asyncio.to_thread(server.wait_ready)
            servers[0].stop()
            servers[1].stop()
            with pytest.raises(CoordinatorAway):
                await client.read(Range(b"n"), within_s=3)
            servers[1].begin()
            assert (await client.read(Range(b"n"), within_s=30)).keys[0].value == b"2"

    try:
        run(test())
    finally:
        stop_all(servers)
