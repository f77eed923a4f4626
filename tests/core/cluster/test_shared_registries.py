"""What registries of several processes keep, in a file and in etcd: each thing is decided once, and everybody hears."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.cluster.etcd.client import EtcdClient, EtcdSettings
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.session import Session
from core.cluster.etcd_registry import EtcdRegistry
from core.cluster.registry import Decide, NewStream, SettingChanges, Settings
from core.cluster.sqlite_registry import SqliteRegistry
from core.errors import NameCollides, Stale, StreamExists, UnknownStream
from core.streams.state import StreamState
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.support import new_prefix, run

pytestmark = pytest.mark.slow

SharedRegistry = SqliteRegistry | EtcdRegistry
Opened = Callable[[], Awaitable[SharedRegistry]]


@asynccontextmanager
async def etcd_registry(settings: EtcdSettings, prefix: bytes) -> AsyncIterator[EtcdRegistry]:
    """A registry with a client, a copy and a session of its own, as a node has it."""
    client = EtcdClient(settings)
    mirror = await Mirror.open(client, prefix)
    session = Session(client, prefix)
    try:
        yield await EtcdRegistry.open(client, mirror, session)
    finally:
        await mirror.close()
        await client.close()


@pytest.fixture(params=["sqlite", "etcd"])
def scenario(
    request: pytest.FixtureRequest, tmp_path: Path, etcd: EtcdServer
) -> Callable[[Callable[[Opened], Awaitable[None]]], None]:
    """Run a test that opens registries, each as another process would."""
    prefix = new_prefix()

    async def with_registries(test: Callable[[Opened], Awaitable[None]]) -> None:
        async with AsyncExitStack() as stack:

            async def opened() -> SharedRegistry:
                if request.param == "etcd":
                    return await stack.enter_async_context(etcd_registry(etcd.settings(), prefix))
                registry = await SqliteRegistry.open(tmp_path / "r.db")
                stack.push_async_callback(registry.close)
                return registry

            await test(opened)

    return lambda test: run(with_registries(test))


Scenario = Callable[[Callable[[Opened], Awaitable[None]]], None]


def wanted(name: str, slots: int = 4) -> NewStream:
    return NewStream(
        name=name,
        uuid=uuid.uuid4(),
        slots=slots,
        created_ms=1_700_000_000_000,
        config={"retention.ms": "1"},
        segments=1,
        placement=(0, 1),
    )


def test_of_two_names_that_are_alike_the_first_wins(scenario: Scenario) -> None:
    """They differ by `.` and `_` alone, and are created in two processes at the same time."""

    async def test(opened: Opened) -> None:
        one, other = await opened(), await opened()
        names = "a.b_c", "a_b.c"
        racing = (one.create(wanted(names[0])), other.create(wanted(names[1])))
        outcomes = await asyncio.gather(*racing, return_exceptions=True)
        (made,) = [outcome for outcome in outcomes if isinstance(outcome, StreamState)]
        (refused,) = [outcome for outcome in outcomes if isinstance(outcome, NameCollides)]
        assert {made.name, refused.name} == set(names)
        assert refused.other == made.name
        for registry in (one, other):
            await registry.look()
            assert list(registry.streams()) == [made]
        with pytest.raises(StreamExists):
            await other.create(wanted(made.name))
        await other.delete(made)
        assert (await one.create(wanted(refused.name))).name == refused.name

    scenario(test)


def test_a_change_reaches_the_others(scenario: Scenario) -> None:
    """What one process decides, another one sees at its next look: as a change, once, and in its mirror."""

    async def test(opened: Opened) -> None:
        one, other = await opened(), await opened()
        made = await one.create(wanted("orders"))
        changes = await other.look()
        assert changes.streams == [made] == list(other.streams())
        assert other.stream(made.id) == made
        assert not await other.look()
        assert not other.changed.is_set()
        changed = made.configured({"a": "1"})
        await other.change(changed)
        assert (await one.look()).streams == [changed]
        await other.delete(changed)
        assert (await one.look()).deleted == [changed]
        assert not list(one.streams())
        assert one.was_given(made.id)
        assert not one.was_given(made.id + 1)
        assert one.stream(made.id) is None

    scenario(test)


def test_ones_own_changes(scenario: Scenario) -> None:
    """Whoever makes a change has it at once, and it is among the changes of the next look, as those of others are."""

    async def test(opened: Opened) -> None:
        one = await opened()
        made = await one.create(wanted("orders"))
        assert list(one.streams()) == [made]
        assert one.changed.is_set()
        await one.change_settings("acls", lambda _: {b"a": b"1"})
        assert one.settings("acls") == {b"a": b"1"}
        changes = await one.look()
        assert (changes.streams, changes.deleted, changes.kinds) == ([made], [], {"acls"})

    scenario(test)


def test_whoever_comes_later(scenario: Scenario) -> None:
    """A process that starts has all that was decided before."""

    async def test(opened: Opened) -> None:
        one = await opened()
        made = [await one.create(wanted(f"orders-{n}")) for n in range(5)]
        await one.delete(made[1])
        await one.change_settings("acls", lambda _: {b"a": b"1", bytes(range(256)): b"2"})
        other = await opened()
        assert sorted(other.streams(), key=lambda state: state.id) == [made[0], *made[2:]]
        assert other.settings("acls") == {b"a": b"1", bytes(range(256)): b"2"}
        assert other.was_given(made[4].id)
        assert not other.was_given(made[4].id + 1)

    scenario(test)


def test_a_name_is_given_once(scenario: Scenario) -> None:
    """Of four processes that create one name at a time, one succeeds, and the others have it after that. A deleted name
    is free, its id is not."""

    async def test(opened: Opened) -> None:
        registries = [await opened() for _ in range(4)]
        outcomes = await asyncio.gather(*(each.create(wanted("orders")) for each in registries), return_exceptions=True)
        (made,) = [outcome for outcome in outcomes if isinstance(outcome, StreamState)]
        assert sum(isinstance(outcome, StreamExists) for outcome in outcomes) == 3
        assert all(list(each.streams()) == [made] for each in registries)
        await registries[3].delete(made)
        assert (await registries[0].create(wanted("orders"))).id > made.id

    scenario(test)


def test_many_at_a_time(scenario: Scenario) -> None:
    """Processes that create different names at the same time all succeed, each stream with an id of its own."""

    async def test(opened: Opened) -> None:
        registries = [await opened() for _ in range(3)]
        made = await asyncio.gather(
            *(each.create(wanted(f"t-{n}-{k}")) for n, each in enumerate(registries) for k in range(8))
        )
        assert len({state.id for state in made}) == 24
        for each in registries:
            await each.look()
            assert {state.name: state for state in each.streams()} == {state.name: state for state in made}

    scenario(test)


def test_nobody_overwrites_what_he_has_not_seen(scenario: Scenario) -> None:
    """Of two changes that begin with the same state, the second is refused; after that its process knows the first."""

    async def test(opened: Opened) -> None:
        one, other = await opened(), await opened()
        made = await one.create(wanted("orders"))
        await other.look()
        both = await asyncio.gather(
            one.change(made.configured({"a": "1"})), other.change(made.configured({"b": "2"})), return_exceptions=True
        )
        assert sorted(type(outcome) for outcome in both if outcome is not None) == [Stale]
        await one.look()
        await other.look()
        (seen,) = other.streams()
        assert [seen] == list(one.streams())
        assert seen.config == ({"a": "1"} if both[0] is None else {"b": "2"})
        await other.change(seen.configured({"a": "1", "b": "2"}))
        with pytest.raises(Stale):
            await one.change(made.configured({}))

    scenario(test)


def test_a_stream_that_was_deleted_meanwhile(scenario: Scenario) -> None:
    """Changing and deleting a stream that another process has deleted says so, and makes nothing."""

    async def test(opened: Opened) -> None:
        one, other = await opened(), await opened()
        made = await one.create(wanted("orders"))
        await other.look()
        await one.delete(made)
        with pytest.raises(UnknownStream):
            await other.delete(made)
        with pytest.raises(UnknownStream):
            await other.change(made.configured({}))
        assert not list(other.streams())

    scenario(test)


def test_settings_of_a_kind(scenario: Scenario) -> None:
    """Some settings change as one, however many; a deleted one is gone for everybody; kinds are apart."""

    async def test(opened: Opened) -> None:
        one, other = await opened(), await opened()
        await one.change_settings("acls", lambda _: {b"a": b"1", b"b": b"2"})
        await one.change_settings("quotas", lambda _: {b"a": b"9"})
        assert (await other.look()).kinds == {"acls", "quotas"}
        await other.change_settings("acls", lambda _: {b"a": None, b"c": b"3"})
        await one.look()
        assert one.settings("acls") == other.settings("acls") == {b"b": b"2", b"c": b"3"}
        assert one.settings("quotas") == {b"a": b"9"}
        assert one.settings("nothing") == {}
        many = {b"%d" % n: b"value" for n in range(2000)}
        await one.change_settings("many", lambda _: many)
        await other.look()
        assert other.settings("many") == many

    scenario(test)


def more(name: bytes, letter: bytes, most: int = 1_000) -> Decide:
    """Adds a letter to a setting, if there are fewer than `most` in all settings of its kind."""

    def decide(now: Settings) -> SettingChanges:
        return {name: now.get(name, b"") + letter} if sum(map(len, now.values())) < most else {}

    return decide


def test_settings_that_are_decided_at_one_time(scenario: Scenario) -> None:
    """Of additions to one setting by three processes at a time none is lost, and each is told what it has changed."""

    async def test(opened: Opened) -> None:
        registries = [await opened() for _ in range(3)]
        made = await asyncio.gather(
            *(
                each.change_settings("acls", more(b"a", b"%d" % n))
                for n, each in enumerate(registries)
                for _ in range(5)
            )
        )
        for each in registries:
            await each.look()
            assert sorted(each.settings("acls")[b"a"]) == sorted(b"012" * 5)
        assert len({change[b"a"] for change in made}) == 15

    scenario(test)


def test_many_changes_by_one_process_at_one_time(scenario: Scenario) -> None:
    """They wait for one another, however many they are: each is made, and decided once."""

    async def test(opened: Opened) -> None:
        one = await opened()
        names = [b"%d" % n for n in range(80)]
        decided: list[bytes] = []

        def adding(name: bytes) -> Decide:
            def decide(now: Settings) -> SettingChanges:
                decided.append(name)
                return {name: b"%d" % len(now)}

            return decide

        await asyncio.gather(*(one.change_settings("quotas", adding(name)) for name in names))
        assert sorted(one.settings("quotas").values(), key=int) == names
        assert sorted(decided) == sorted(names)

    scenario(test)


def test_a_decision_by_other_settings_of_the_kind(scenario: Scenario) -> None:
    """Processes that each add to a setting of their own keep a bound of all of them; one that was deleted counts."""

    async def test(opened: Opened) -> None:
        registries = [await opened() for _ in range(3)]
        for _ in range(3):
            await asyncio.gather(
                *(each.change_settings("acls", more(b"%d" % n, b"x", 2)) for n, each in enumerate(registries))
            )
        for each in registries:
            await each.look()
            assert sum(map(len, each.settings("acls").values())) == 2
        await registries[0].change_settings("acls", dict.fromkeys)
        assert await registries[1].change_settings("acls", more(b"1", b"y", 1)) == {b"1": b"y"}

    scenario(test)


def test_a_deletion_that_comes_between(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision that saw a setting is made again when another process has deleted it before the change."""

    async def test(opened: Opened) -> None:
        one, other = await opened(), await opened()
        await one.change_settings("acls", lambda _: {b"there": b"1"})
        seen: list[bool] = []
        make = one._changed

        async def delete_first(*change: Any) -> Any:
            await other.change_settings("acls", lambda now: dict.fromkeys({b"there"} & now.keys()))
            return await make(*change)

        def decide(now: Settings) -> SettingChanges:
            seen.append(b"there" in now)
            return {b"another": b"%d" % seen[-1]}

        monkeypatch.setattr(one, "_changed", delete_first)
        assert await one.change_settings("acls", decide) == {b"another": b"0"}
        assert seen == [True, False]
        await other.look()
        assert other.settings("acls") == {b"another": b"0"}

    scenario(test)


def test_a_decision_against_a_change(scenario: Scenario) -> None:
    """It is made by all that was answered before, nothing is changed, and its reason comes back as it is."""

    async def test(opened: Opened) -> None:
        one, other = await opened(), await opened()
        await one.change_settings("acls", lambda _: {b"a": b"1"})

        def refuse(now: Settings) -> SettingChanges:
            raise LookupError(dict(now))

        with pytest.raises(LookupError) as refused:
            await other.change_settings("acls", refuse)
        assert refused.value.args == ({b"a": b"1"},)
        assert await other.change_settings("acls", lambda now: {}) == {}
        await one.look()
        assert one.settings("acls") == {b"a": b"1"}

    scenario(test)


def test_numbers_are_given_once(scenario: Scenario) -> None:
    """Ids of writers and epochs: no two processes ever get the same, and a new start goes on behind them."""

    async def test(opened: Opened) -> None:
        registries = [await opened() for _ in range(3)]
        taken = await asyncio.gather(*(each.take_writer_ids(1000) for each in registries for _ in range(5)))
        assert len({number for block in taken for number in block}) == 15_000
        epochs = await asyncio.gather(*(each.next_epoch() for each in registries for _ in range(5)))
        assert sorted(epochs) == list(range(1, 16))
        again = await opened()
        assert (await again.take_writer_ids(1)).start == 15_000
        assert await again.next_epoch() == 16

    scenario(test)
