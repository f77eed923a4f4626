"""The decision by ACLs: in words, and beside a model that goes through all ACLs one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.security.acls import (
    IMPLIED_BY,
    WILDCARD,
    Acl,
    AclFilter,
    AclSet,
    Operation,
    PatternType,
    Permission,
    ResourceType,
    Verdict,
    address_of,
)
from gateway.security.principal import Principal
from tests.gateway.security.harness import ALICE, BOB, HOST, acl

pytestmark = pytest.mark.slow

TOPIC = ResourceType.TOPIC
NAMES = st.text("ab.", min_size=1, max_size=5)
ACLS = st.builds(
    Acl,
    st.sampled_from((ResourceType.TOPIC, ResourceType.GROUP)),
    st.one_of(NAMES, st.just(WILDCARD)),
    st.sampled_from((PatternType.LITERAL, PatternType.PREFIXED)),
    st.sampled_from(("User:alice", "User:bob", "User:*")),
    st.sampled_from((HOST, "10.0.0.8", WILDCARD)),
    st.sampled_from((Operation.ALL, Operation.READ, Operation.DESCRIBE, Operation.ALTER_CONFIGS)),
    st.sampled_from((Permission.ALLOW, Permission.DENY)),
)


def by_the_rules(acls: list[Acl], who: str, operation: Operation, name: str) -> Verdict:
    """The decision as SECURITY documents word it."""
    about = [
        one
        for one in acls
        if one.type is TOPIC
        and (one.name in (name, WILDCARD) if one.pattern is PatternType.LITERAL else name.startswith(one.name))
    ]
    mine = [one for one in about if one.principal in (who, "User:*") and one.host in (HOST, WILDCARD)]
    if any(one.permission is Permission.DENY and one.operation in (operation, Operation.ALL) for one in mine):
        return Verdict.DENIED
    wanted = {operation, Operation.ALL, *IMPLIED_BY.get(operation, ())}
    if any(one.permission is Permission.ALLOW and one.operation in wanted for one in mine):
        return Verdict.ALLOWED
    return Verdict.NOT_ALLOWED if about else Verdict.NO_ACL


@settings(max_examples=400, deadline=None)
@given(
    st.lists(ACLS, max_size=25),
    st.lists(st.integers(0, 24), max_size=15),
    NAMES,
    st.sampled_from((Operation.READ, Operation.DESCRIBE, Operation.WRITE, Operation.DESCRIBE_CONFIGS)),
)
def test_as_the_rules_say(acls: list[Acl], gone: list[int], name: str, operation: Operation) -> None:
    """Whatever was added and removed, in whatever order, the decision is that of the ACLs that are left."""
    known = AclSet()
    for one in acls:
        known.add(one)
        known.decide(ALICE, HOST, operation, TOPIC, name)  # what it remembers of prefixes must not survive a change
    going = [acls[place] for place in gone if place < len(acls)]
    for some in (going[:1], going[1:2], going[2:]):
        removed = known.remove(some)
        assert set(removed) <= set(some)
        assert len(removed) == len(set(removed))
    left = [one for n, one in enumerate(acls) if one in known]
    assert set(left) == set(acls) - {acls[place] for place in gone if place < len(acls)}

    assert known.decide(ALICE, HOST, operation, TOPIC, name) is by_the_rules(left, "User:alice", operation, name)


def test_a_denial_is_stronger() -> None:
    """A denial beats every permission, however exact that one is."""
    known = AclSet(
        [
            acl("a", Operation.ALL),
            acl("*", Operation.READ, permission=Permission.DENY, principal="User:*"),
        ]
    )
    assert known.decide(ALICE, HOST, Operation.READ, TOPIC, "a") is Verdict.DENIED
    assert known.decide(ALICE, HOST, Operation.WRITE, TOPIC, "a") is Verdict.ALLOWED


def test_a_denial_implies_nothing() -> None:
    """Who may not read a topic may still describe it; who may not describe it may still read."""
    known = AclSet(
        [
            acl("a", Operation.READ),
            acl("a", Operation.WRITE, permission=Permission.DENY),
            acl("b", Operation.READ),
            acl("b", Operation.DESCRIBE, permission=Permission.DENY),
        ]
    )
    assert known.decide(ALICE, HOST, Operation.DESCRIBE, TOPIC, "a") is Verdict.ALLOWED
    assert known.decide(ALICE, HOST, Operation.READ, TOPIC, "b") is Verdict.ALLOWED


def test_case_and_type_of_a_principal_count() -> None:
    """Only the very principal has the right: Alice is not alice, and a group of her name is not she."""
    known = AclSet([acl("a", Operation.READ)])
    for other in (BOB, Principal("User", "Alice"), Principal("Group", "alice"), Principal("User", "alice ")):
        assert known.decide(other, HOST, Operation.READ, TOPIC, "a") is Verdict.NOT_ALLOWED


def test_addresses_are_compared_as_addresses() -> None:
    """An address is the same in each of its spellings: as Java writes it, and as IPv4 within IPv6."""
    assert address_of("0:0:0:0:0:0:0:1") == address_of("::1")
    assert address_of("::ffff:10.0.0.7") == "10.0.0.7"
    known = AclSet([acl("a", Operation.READ, host="0:0:0:0:0:0:0:1")])
    assert known.decide(ALICE, "::1", Operation.READ, TOPIC, "a") is Verdict.ALLOWED
    assert known.decide(ALICE, "::2", Operation.READ, TOPIC, "a") is Verdict.NOT_ALLOWED


@given(ACLS, ACLS)
def test_an_exact_filter(one: Acl, other: Acl) -> None:
    """A filter that names each part of an ACL chooses it and no other."""
    exact = AclFilter(*one)
    assert exact.exact() == one
    assert exact.matches(one)
    assert exact.matches(other) is (one == other)
    assert exact._replace(host=None).exact() is None


def test_many_prefixes_of_one_name() -> None:
    """All prefixes of a name are found, however many others lie between them in order."""
    known = AclSet(acl(name, Operation.READ, pattern=PatternType.PREFIXED) for name in ("a", "ab", "aa", "abb", "aba"))
    known.add(acl("a", Operation.READ, pattern=PatternType.PREFIXED, permission=Permission.DENY))
    assert known.decide(ALICE, HOST, Operation.READ, TOPIC, "abba") is Verdict.DENIED
    assert known.decide(ALICE, HOST, Operation.READ, TOPIC, "b") is Verdict.NO_ACL
