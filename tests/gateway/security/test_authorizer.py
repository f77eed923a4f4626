"""What the authorizer remembers, and how it forgets."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.layers import ConfigError
from gateway.config.loading import load
from gateway.security import authorizer as module
from gateway.security.acls import CLUSTER_NAME, AclSet, Operation, ResourceType
from gateway.security.audit import Audit
from gateway.security.authorizer import Authorizer, fault_of
from gateway.security.principal import ANONYMOUS, Principal
from gateway.security.rights import Rights
from tests.gateway.security.harness import ALICE, BOB, HOST, acl, authorizer_with

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
