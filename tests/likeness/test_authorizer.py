"""Penstock decides by ACLs as Kafka's StandardAuthorizer does."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from gateway.config.loading import load
from gateway.security.acls import Acl, AclFilter, Operation, PatternType, Permission, ResourceType
from gateway.security.authorizer import Authorizer
from gateway.security.principal import Principal
from tests.gateway.security.harness import authorizer_with
from tests.likeness.authorizer import ANSWERS, CASES, JARS, SEED, Case, asked, cases, short

pytestmark = pytest.mark.slow

LIVE_SEED: Final = 7
LIVE_CASES: Final = 300


def acl_of(row: list[Any]) -> Acl:
    kind, name, pattern, principal, host, operation, permission = row
    return Acl(
        ResourceType(kind), name, PatternType(pattern), principal, host, Operation(operation), Permission(permission)
    )


def decided(authorizer: Authorizer, question: list[Any]) -> bool:
    kind, name, host, operation, resource_type, resource = question
    rights = authorizer.rights(Principal(kind, name), host)
    if resource is None:
        return rights.has_some(Operation(operation), ResourceType(resource_type))
    return rights.has(Operation(operation), ResourceType(resource_type), resource)


def ours(case: Case) -> list[Any]:
    """Penstock's answer to a case, as the file has Kafka's."""
    settings = [f"super.users={case['super_users']}", f"allow.everyone.if.no.acl.found={case['open']}"]
    acls = [acl_of(row) for row in case["acls"]]
    authorizer = authorizer_with(load(environ={}, assignments=settings), acls)
    decisions = "".join("1" if decided(authorizer, question) else "0" for question in case["asked"])
    filters = [AclFilter(*row) for row in case["filters"]]
    return [decisions, [sum(one.matches(acl) for acl in acls) for one in filters]]


def test_recorded() -> None:
    """Each decision on random sets of ACLs is Kafka's, and each filter chooses as many."""
    recorded = json.loads(ANSWERS.read_text())
    assert recorded["seed"] == SEED
    some = list(cases(SEED, CASES))

    assert len(recorded["answers"]) == len(some)
    for case, answer in zip(some, recorded["answers"], strict=True):
        assert ours(case) == answer, case
    allowed = "".join(answer[0] for answer in recorded["answers"]).count("1")
    assert 1_000 < allowed < len(some) * 24 - 1_000  # both happen often


@pytest.mark.slow
@pytest.mark.skipif(not JARS.exists(), reason="Kafka's jars are not there")
def test_live() -> None:
    """The same beside Kafka's class itself, on sets that are not recorded."""
    some = list(cases(LIVE_SEED, LIVE_CASES))
    for case, answer in zip(some, asked(some), strict=True):
        assert ours(case) == short(answer), case
