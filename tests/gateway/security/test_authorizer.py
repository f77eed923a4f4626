"""What the authorizer remembers, and how it forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.cluster.registry import Decide, SettingChanges
from core.store import Store
from gateway.config.layers import ConfigError
from gateway.config.loading import load
from gateway.refusals import Refusal
from gateway.security import authorizer as module
from gateway.security.acl_format import TABLE, encode_key
from gateway.security.acls import CLUSTER_NAME, Acl, AclFilter, AclSet, Operation, ResourceType
from gateway.security.audit import Audit
from gateway.security.authorizer import Authorizer, fault_of
from gateway.security.principal import ANONYMOUS, Principal
from gateway.security.rights import Rights
from tests.gateway.security.harness import ALICE, BOB, HOST, SILENT, Rows, acl, authorizer_with

TOPIC = ResourceType.TOPIC


class Peer:
    """A connection, as the authorizer sees it."""

    def __init__(self, principal: Principal, host: str = HOST) -> None:
        self.principal = principal
        self.peer_host = host
        self.rights: Rights | None = None


def may(authorizer: Authorizer, peer: Peer, name: str = "a", operation: Operation = Operation.READ) -> bool:
    return authorizer.rights_of(peer).may(operation, TOPIC, name, "Fetch")


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The decisions that were made by looking at ACLs."""
    made: list[Any] = []
    decide = AclSet.decide

    def counting(self: AclSet, *arguments: Any) -> Any:
        made.append(arguments)
        return decide(self, *arguments)

    monkeypatch.setattr(AclSet, "decide", counting)
    return made


def test_decided_once(decided: list[Any]) -> None:
    """The same question is decided once, for all connections of a principal at an address."""
    authorizer = authorizer_with(acls=[acl("a", Operation.READ)])
    peers = [Peer(ALICE), Peer(ALICE), Peer(BOB)]
    answers = [may(authorizer, peer) for peer in peers * 10]

    assert answers == [True, True, False] * 10
    assert len(decided) == 2


def test_another_principal_on_the_same_connection() -> None:
    """What a connection was allowed before it authenticated holds no longer afterwards."""
    authorizer = authorizer_with(acls=[acl("a", Operation.READ, principal=str(ANONYMOUS))])
    peer = Peer(ANONYMOUS)
    assert may(authorizer, peer)
    peer.principal = BOB
    assert not may(authorizer, peer)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks for ever new names takes no more memory, and decisions stay right."""
    monkeypatch.setattr(module, "REMEMBERED_MAX", 50)
    monkeypatch.setattr(module, "KNOWN_MAX", 5)
    authorizer = authorizer_with(acls=[acl("*", Operation.READ)])
    for number in range(400):
        peer = Peer(ALICE, f"10.0.0.{number % 20}")
        assert may(authorizer, peer, f"topic-{number}")
        assert not may(authorizer, peer, f"topic-{number}", Operation.WRITE)
        assert authorizer._remembered <= 50
        assert len(authorizer._rights) <= 5


def test_super_users() -> None:
    """A super user may do everything, against any denial; names may have commas, and blanks around them are nothing."""
    settings = ["super.users=User:root; User:CN=ops,O=example ;"]
    authorizer = authorizer_with(load(environ={}, assignments=settings))
    for name in ("root", "CN=ops,O=example"):
        assert authorizer.decide(Principal("User", name), HOST, Operation.ALTER, ResourceType.CLUSTER, CLUSTER_NAME)
    assert not authorizer.decide(Principal("User", "CN=ops"), HOST, Operation.READ, TOPIC, "a")
    assert not authorizer.decide(Principal("Group", "root"), HOST, Operation.READ, TOPIC, "a")


def test_open_without_acls() -> None:
    """With allow.everyone.if.no.acl.found a topic is open until there is an ACL about it."""
    settings = ["allow.everyone.if.no.acl.found=true"]
    authorizer = authorizer_with(load(environ={}, assignments=settings), [acl("a", Operation.READ)])
    assert may(authorizer, Peer(BOB), "b")
    assert not may(authorizer, Peer(BOB), "a")


def test_no_stranger_in_an_acl() -> None:
    """An ACL that no request could ever match, or that is too long, is refused."""
    assert fault_of(acl("a", Operation.READ)) is None
    assert fault_of(acl("", Operation.READ)) is not None
    assert fault_of(acl("a", Operation.READ, principal="alice")) is not None
    assert fault_of(acl("a" * 9_000, Operation.READ)) is not None
    assert fault_of(acl("other", Operation.READ, type=ResourceType.CLUSTER)) is not None


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("authorizer.class.name=com.example.Mine", "no other authorizer is known"),
        ("super.users=User:a;b", "has no type"),
        ("acls.max=0", "allowed"),
        ("audit.log.level=loud", "allowed: info, debug"),
    ],
)
def test_keys(setting: str, told: str) -> None:
    """A key that would not do what it says is refused at the start."""
    with pytest.raises(ConfigError, match=told):
        load(environ={}, assignments=[setting])


def test_no_line_for_what_is_only_asked() -> None:
    """A filter of a list, or a question about authorized operations, is no event."""
    lines: list[Any] = []
    audit = Audit(None, tells_allowed=False)
    audit.tell = lambda *facts, **more: lines.append(facts)  # type: ignore[method-assign,assignment]
    rights = authorizer_with(acls=[acl("a", Operation.READ)], audit=audit).rights(ALICE, HOST)

    assert rights.operations(TOPIC, "a") == 1 << Operation.READ | 1 << Operation.DESCRIBE
    assert not rights.has(Operation.WRITE, TOPIC, "a")
    assert lines == []
    assert not rights.may(Operation.WRITE, TOPIC, "a", "Produce")
    assert not rights.may(Operation.WRITE, TOPIC, "a", "Produce")
    assert len(lines) == 2


class Shared(Rows):
    """A registry that others change, too: after each change it is looked at by all, before the change has returned."""

    def __init__(self, acls: Iterable[Acl] = ()) -> None:
        super().__init__(acls)
        self.looks: list[Callable[[], None]] = []

    async def change_settings(self, kind: str, decide: Decide) -> SettingChanges:
        changes = decide(self.settings(kind))
        self.changed(changes)
        await self.catch_up()
        return changes

    def changed(self, changes: SettingChanges) -> None:
        """Another process has changed it, and nobody here has looked yet."""
        for key, value in changes.items():
            self._table.apply(Delete(TABLE, key) if value is None else Put(TABLE, key, value))

    async def catch_up(self) -> None:
        for look in self.looks:
            look()


def test_the_room_for_texts_is_counted_once() -> None:
    """Beside others that share the registry, too: a change counts once, whoever hears of it first."""
    registry = Shared([acl("there", Operation.READ)])
    authorizer = Authorizer(load(environ={}), cast(Store, registry), SILENT)
    registry.looks.append(authorizer.take_over)
    before = authorizer._chars
    made = [acl(f"t{number}", Operation.READ) for number in range(20)]

    async def scenario() -> None:
        assert await authorizer.create(made) == [None] * 20
        assert authorizer._chars == before + sum(map(module._chars, made))
        assert await authorizer.delete([AclFilter(*one) for one in made]) == [[one] for one in made]

    asyncio.run(scenario())
    assert (len(authorizer), authorizer._chars) == (1, before)


def test_a_change_starts_from_what_other_processes_have_answered() -> None:
    """An ACL that one has just removed is made again, and one that it has just made is removed."""
    gone, new = acl("gone", Operation.READ), acl("new", Operation.READ)
    registry = Shared([gone])
    authorizer = Authorizer(load(environ={}), cast(Store, registry), SILENT)
    registry.looks.append(authorizer.take_over)

    async def scenario() -> None:
        registry.changed({encode_key(gone): None})
        assert await authorizer.create([gone]) == [None]
        assert list(registry.settings(TABLE)) == [encode_key(gone)]
        registry.changed({encode_key(new): b""})
        assert await authorizer.delete([AclFilter(*new)]) == [[new]]
        assert list(registry.settings(TABLE)) == [encode_key(gone)]

    asyncio.run(scenario())


def test_what_filters_choose_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One may choose all ACLs, and more may choose some of them again. Beyond the bound nothing is removed."""
    monkeypatch.setattr(module, "REPEATED_MAX", 30)
    acls = [acl(f"t{number}", Operation.READ) for number in range(20)]
    authorizer = Authorizer(load(environ={}), cast(Store, Shared(acls)), SILENT)
    every, first = AclFilter(1, None, 1, None, None, 1, 1), AclFilter(*acls[0])

    async def scenario() -> None:
        with pytest.raises(Refusal, match="send fewer") as refused:
            await authorizer.delete([every] * 1_000)
        assert refused.value.code is ErrorCode.invalid_request
        assert len(authorizer) == 20
        assert [len(some) for some in await authorizer.delete([every, first, every])] == [20, 1, 20]
        assert len(authorizer) == 0

    asyncio.run(scenario())


def test_rules_of_one_name_are_gone_through_once() -> None:
    """In one step as many ACLs go as it has, in whatever order they were named."""

    class Counted(list[Any]):
        passes = 0

        def __iter__(self) -> Any:
            Counted.passes += 1
            return super().__iter__()

    acls = [acl("t", Operation.READ, principal=f"User:u{number}") for number in range(100)]
    known = AclSet(acls)
    of_type = known._by_type[TOPIC]
    of_type.literal["t"] = Counted(of_type.literal["t"])

    assert known.remove(reversed(acls[:60])) == acls[59::-1]
    assert list(known) == acls[60:]
    assert len(of_type.literal["t"]) == 40
    assert Counted.passes == 1
