"""ACLs and filters as requests name them, by Kafka's numbers.

Keeps: a number that no ACL has is refused as Kafka refuses it. ANY and MATCH, which are for filters only, fail a whole
request that would make ACLs, as in Kafka; an unknown number is one ACL's own fault.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, TypeVar

from gateway.apis.shared.without_security import NOTHING_TO_CHANGE
from gateway.dispatch.context import RequestContext
from gateway.refusals import Refusal, invalid_request
from gateway.security.acls import Acl, AclFilter, Operation, PatternType, Permission, ResourceType
from gateway.security.authorizer import Authorizer
from gateway.wire.message import Message

_E = TypeVar("_E", bound=enum.IntEnum)


def authorizer_of(ctx: RequestContext, refusal: Refusal = NOTHING_TO_CHANGE) -> Authorizer:
    """The authorizer. Raises Refusal when there is none."""
    if ctx.services.authorizer is None:
        raise refusal
    return ctx.services.authorizer


def is_for_filters(creation: Message) -> bool:
    """Does it say ANY or MATCH somewhere, which no ACL has?"""
    numbers = creation.resource_type, creation.resource_pattern_type, creation.operation, creation.permission_type
    return 1 in numbers or creation.resource_pattern_type == PatternType.MATCH


def acl_of(creation: Message) -> Acl:
    """The ACL that a request would make. Raises Refusal."""
    return Acl(
        _known(ResourceType, creation.resource_type, "resourceType"),
        creation.resource_name,
        _known(PatternType, creation.resource_pattern_type, "patternType"),
        creation.principal,
        creation.host,
        _known(Operation, creation.operation, "operation"),
        _known(Permission, creation.permission_type, "permissionType"),
    )


def filter_of(message: Message) -> AclFilter:
    """The filter of a request. Raises Refusal for a number that no ACL has."""
    return AclFilter(
        _known(ResourceType, message.resource_type_filter, "resourceType"),
        message.resource_name_filter,
        _known(PatternType, message.pattern_type_filter, "patternType"),
        message.principal_filter,
        message.host_filter,
        _known(Operation, message.operation, "operation"),
        _known(Permission, message.permission_type, "permissionType"),
    )


def _known(kind: type[_E], number: int, what: str) -> _E:
    try:
        return kind(number)
    except ValueError:
        raise invalid_request(f"Invalid {what} UNKNOWN") from None


def told_acl(acl: Acl) -> dict[str, Any]:
    """An ACL without its resource."""
    return {
        "principal": acl.principal,
        "host": acl.host,
        "operation": acl.operation,
        "permission_type": acl.permission,
    }


def told_resource(acl: Acl) -> dict[str, Any]:
    """The resource pattern of an ACL."""
    return {"resource_type": acl.type, "resource_name": acl.name, "pattern_type": acl.pattern}


def audited(acl: Acl) -> Mapping[str, Any]:
    """An ACL as facts for the audit log."""
    return {
        "resource": acl.type.name,
        "name": acl.name,
        "pattern": acl.pattern.name,
        "for_principal": acl.principal,
        "from_host": acl.host,
        "operation": acl.operation.name,
        "permission": acl.permission.name,
    }
