"""The registry in etcd: its keys, and what it keeps while ways to etcd are cut. See `test_shared_registries`, too."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from core.cluster.etcd.session import CALLS, Outcome, Session
from core.cluster.etcd.wire import Put, Range, Watched, end_of
from core.cluster.etcd_keys import META, Meta, join, prefix_of
from core.cluster.etcd_registry import EtcdRegistry
from core.cluster.levels import FIRST
from core.cluster.registry import NewStream
from core.errors import CoordinatorRefuses, CorruptState, NotHosted, Stale, StreamExists, UnknownStream
from tests.core.cluster.etcd.proxy import CuttingProxy
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.support import connected, new_prefix, run, until
from tests.core.cluster.test_shared_registries import etcd_registry, wanted

GOLDEN = {
    b"meta": b'{"v":1,"cluster":"c-1","containers":16}',
    b"epoch": b"1",
    b"ids/stream": b"2",
    b"ids/writer": b"1000",
    b"streams/n/or.ders": b"1",
    b"streams/a/or_ders": b"or.ders",
    b"streams/i/00000001": b'{"v":2,"id":1,"name":"or.ders","uuid":"12345678123456781234567812345678","slots":2,'
    b'"created_ms":1700000000000,"container":-1,"config":{"retention.ms":"1"},"rev":0,"epochs":[{"epoch":0,'
    b'"started_ms":1700000000000,"reason":"created","slots":2,"segments":[[0,0,2,3]]}]}',
    b"settings/acls/a/\xff": b"\x00\x01",
}
"""Format 1, as it was first released: a later release reads it."""
DECIDED = {b"decided/acls": b""}
"""What came to it: whoever does not know it does without."""


def test_the_keys(etcd: EtcdServer) -> None:
    """What each call writes, byte by byte."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client, etcd_registry(etcd.settings(), prefix) as registry:
            wanted = Meta("c-1", 16, FIRST)
            assert await join(Session(client, prefix), prefix, wanted) == wanted
            await registry.create(
                NewStream(
                    name="or.ders",
                    uuid=UUID("12345678-1234-5678-1234-567812345678"),
                    slots=2,
                    created_ms=1_700_000_000_000,
                    config={"retention.ms": "1"},
                    segments=1,
                    placement=(3,),
                )
            )
            await registry.next_epoch()
            await registry.take_writer_ids(1000)
            await registry.change_settings("acls", lambda _: {b"a/\xff": b"\0\1"})
            found = (await client.read(Range(prefix, end_of(prefix)))).keys
            written = {one.key[len(prefix) :]: one.value for one in found}
            sessions = [key for key in written if key.startswith(CALLS)]
            assert len(sessions) == 2
            assert {key: value for key, value in written.items() if key not in sessions} == GOLDEN | DECIDED

    run(test())


def test_a_clusters_key_has_its_level() -> None:
    value = b'{"v":1,"cluster":"c-1","containers":16,"level":2}'
    assert Meta("c-1", 16, 2).encode() == value
    assert Meta.decode(value) == Meta("c-1", 16, 2)


def test_golden_keys_are_read(etcd: EtcdServer) -> None:
    """What a release has written is read, from its bytes."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client:
            await client.decide((), [Put(prefix + key, value) for key, value in GOLDEN.items()])
            assert await join(Session(client, prefix), prefix, Meta("other", 4)) == Meta("c-1", 16, FIRST)
            async with etcd_registry(etcd.settings(), prefix) as registry:
                (state,) = registry.streams()
                assert (state.id, state.name, state.slots, state.config) == (1, "or.ders", 2, {"retention.ms": "1"})
                assert registry.was_given(1)
                assert not registry.was_given(2)
                assert registry.settings("acls") == {b"a/\xff": b"\0\1"}
                assert (await registry.take_writer_ids(1)).start == 1000
                assert await registry.next_epoch() == 2

    run(test())


def test_what_is_no_cluster(etcd: EtcdServer) -> None:
    """A cluster of a later format, or bytes that are none, are refused by what they are; so are names with a slash."""

    async def test() -> None:
        async with connected(etcd.settings()) as client:
            for value, error in ((b'{"v":2,"cluster":"","containers":1}', CoordinatorRefuses), (b"[]", CorruptState)):
                prefix = new_prefix()
                await client.decide((), (Put(prefix + META, value),))
                with pytest.raises(error):
                    await join(Session(client, prefix), prefix, Meta("c", 1))

    run(test())
    assert prefix_of("prod") == b"penstock/prod/"
    for name in ("", "a/b", "x" * 201):
        with pytest.raises(CoordinatorRefuses):
            prefix_of(name)


def test_a_stream_that_cannot_be_read(etcd: EtcdServer, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that are no stream are logged, and hide nothing else."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client, etcd_registry(etcd.settings(), prefix) as registry:
            made = await registry.create(wanted("orders"))
            await client.decide((), (Put(prefix + b"streams/i/zz", b""), Put(prefix + b"streams/i/00000001", b"{}")))
            other = await registry.create(wanted("others"))
            assert list(registry.streams()) == [made, other]
        assert "cannot be read" in caplog.text

    run(test())


def test_a_look_that_is_cut_off(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had taken over by then is told by the next one: a request that is given up hides nothing."""
    monkeypatch.setattr("core.cluster.etcd_registry.TAKEN_MAX", 1)

    async def test() -> None:
        prefix = new_prefix()
        async with (
            etcd_registry(etcd.settings(), prefix) as one,
            etcd_registry(etcd.settings(), prefix) as other,
        ):
            made = [await one.create(wanted(f"s-{number}")) for number in range(5)]
            await other._mirror.reached(one._mirror.revision)
            looking = asyncio.create_task(other._take_over())
            for _ in range(4):  # it takes over one key in each turn
                await asyncio.sleep(0)
            assert 0 < len(list(other.streams())) < 5
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            assert (await other.look()).streams == made

    run(test())


def test_a_callers_copy_is_as_new_as_the_registry(etcd: EtcdServer) -> None:
    """Whoever has a copy of settings, as of users and ACLs, changes it behind its own change, and takes all over when a
    look reports the kind. Another node may be faster than the former: the copy must not stay without its change."""

    async def test() -> None:
        prefix, name = new_prefix(), b"a"
        async with (
            etcd_registry(etcd.settings(), prefix) as own,
            etcd_registry(etcd.settings(), prefix) as other,
        ):
            copy: dict[bytes, bytes] = {}

            async def change() -> None:
                await own.change_settings("acls", lambda _: {name: b"own"})
                copy[name] = b"own"

            async def look() -> None:
                if "acls" in (await own.look()).kinds:
                    copy.clear()
                    copy.update(own.settings("acls"))

            for _ in range(20):
                changing = asyncio.create_task(change())
                await asyncio.sleep(0)
                await asyncio.gather(other.change_settings("acls", lambda _: {name: None}), look())
                await changing
                while own.changed.is_set():
                    await look()
                await look()
                assert copy == own.settings("acls")

    run(test())


def test_a_change_that_depends_on_claims(etcd: EtcdServer) -> None:
    """It is made if just these claims are there, and only then; also when the own copy does not know better yet."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client, etcd_registry(etcd.settings(), prefix) as registry:
            state = await registry.create(wanted("s"))
            rows = {0: 7, 1: 9}
            owners = [
                Put(
                    prefix + b"containers/%d" % one, b'{"v":1,"node":1,"life":"l","epoch":%d,"stage":"serving"}' % epoch
                )
                for one, epoch in rows.items()
            ]
            decided = await client.decide((), owners)  # of no session: a look does not wait for it
            await registry._mirror.reached(decided.revision)
            await registry.change(state.after(state), {0: 7, 1: 9})
            now = registry.stream(state.id)
            assert now is not None
            for held, gone in (({0: 7, 1: 8}, 1), ({0: 7, 2: 1}, 2)):
                with pytest.raises(NotHosted) as refused:
                    await registry.change(now.after(now), held)
                assert refused.value.container_id == gone

            values = dict(registry._mirror.values)
            await client.decide((), [Put(prefix + b"containers/1", owners[1].value.replace(b"9", b"11"))])
            await until(lambda: registry._mirror.values[b"containers/1"].value != values[b"containers/1"].value)
            registry._mirror._values[b"containers/1"] = values[b"containers/1"]  # as if it had not heard of it yet
            with pytest.raises((NotHosted, Stale)):
                await registry.change(now.after(now), {0: 7, 1: 9})
            found = (await client.read(Range(prefix + b"streams/i/00000001"))).keys
            assert found[0].value == now.encode()

    run(test())


def test_a_change_of_a_stream_waits_for_no_watch(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the copy at etcd's answer. Looks report it once, before the changes of others; the watch, which comes
    later, neither reports it again nor brings back what was before."""

    async def test() -> None:
        prefix = new_prefix()
        async with (
            etcd_registry(etcd.settings(), prefix) as own,
            etcd_registry(etcd.settings(), prefix) as other,
        ):
            created = await own.create(wanted("s"))
            await own.look()
            first, second = created.after(created), created.after(created.after(created))
            is_late, take = asyncio.Event(), own._mirror._take

            async def take_late(message: Watched) -> None:
                await is_late.wait()
                await take(message)

            monkeypatch.setattr(own._mirror, "_take", take_late)
            await own.change(first)
            assert own.stream(created.id) is first
            await own.change(second)
            assert own.stream(created.id) is second
            assert own.changed.is_set()
            is_late.set()
            assert (await reported(own)) == [second.revision]
            await other.look()
            third = second.after(second)
            await other.change(third)
            assert (await reported(own)) == [third.revision]
            await other.delete(third)
            assert [one.id for one in (await own.look()).deleted] == [created.id]
            assert own.stream(created.id) is None

    async def reported(registry: EtcdRegistry) -> list[int]:
        found = list((await registry.look()).streams)
        while registry.changed.is_set():
            found += (await registry.look()).streams
        return [one.revision for one in found]

    run(test())


def test_a_stream_that_goes_before_its_change_is_known(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node deletes it, and the copy knows that before the change is answered: it does not come back."""

    async def test() -> None:
        prefix = new_prefix()
        async with (
            etcd_registry(etcd.settings(), prefix) as own,
            etcd_registry(etcd.settings(), prefix) as other,
        ):
            created = await own.create(wanted("s"))
            changed = created.after(created)
            change = own._session.change

            async def answer_late(*arguments: Any) -> Outcome:
                outcome = await change(*arguments)
                await other.look()
                await other.delete(changed)
                await own.look()
                return outcome

            monkeypatch.setattr(own._session, "change", answer_late)
            await own.change(changed)
            assert own.stream(created.id) is None
            assert not list(own.streams())

    run(test())


@pytest.mark.slow
def test_two_that_race_over_cut_ways(etcd: EtcdServer) -> None:
    """Two registries change the same few streams, numbers and settings at random while their ways to etcd are cut: both
    end with the same, no name is there twice, and no number was given twice or left out."""

    def one_setting(name: bytes, value: bytes, _: object) -> dict[bytes, bytes | None]:
        return {name: value}

    async def act(registry: EtcdRegistry, numbers: random.Random, taken: list[int]) -> None:
        for _ in range(40):
            name = f"s-{numbers.randrange(3)}"
            known = {state.name: state for state in registry.streams()}.get(name)
            try:
                match numbers.randrange(5):
                    case 0:
                        taken.append(await registry.next_epoch())
                    case 1:
                        value = b"%d" % numbers.randrange(100)
                        await registry.change_settings("acls", partial(one_setting, name.encode(), value))
                    case 2 if known is not None:
                        await registry.delete(known)
                    case _ if known is None:
                        await registry.create(wanted(name))
                    case _:
                        await registry.change(known.configured({"n": str(numbers.random())}))
            except (StreamExists, UnknownStream, Stale):
                await registry.look()

    async def test() -> None:
        prefix, taken = new_prefix(), list[int]()
        async with AsyncExitStack() as stack:
            proxies = [await stack.enter_async_context(CuttingProxy(etcd.endpoint, seed=n)) for n in range(2)]
            registries = [
                await stack.enter_async_context(etcd_registry(etcd.settings(proxy.endpoint), prefix))
                for proxy in proxies
            ]
            for proxy in proxies:
                proxy.share = 0.1
            await asyncio.gather(*(act(registry, random.Random(n), taken) for n, registry in enumerate(registries)))
            for proxy in proxies:
                proxy.share = 0
            one, other = registries
            await one.look()
            await other.look()
            assert sorted(taken) == list(range(1, len(taken) + 1))
            assert {state.id: state for state in one.streams()} == {state.id: state for state in other.streams()}
            assert one.settings("acls") == other.settings("acls")
            names = [state.name for state in one.streams()]
            assert len(names) == len(set(names))

    run(test())
