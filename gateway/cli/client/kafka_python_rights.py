"""Rights (ACLs) in the requests and answers of kafka-python, whose own methods leave out the broker's words.

Keeps: an answer names the deleted rights, even if the broker refused to delete others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kafka.admin import ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourceType
from kafka.errors import for_code
from kafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest

from gateway.cli.client.cluster import Acl
from gateway.cli.client.kafka_python_errors import check, words_of

_OPERATIONS: Final = {one.name.lower(): int(one) for one in ACLOperation} | {"two_phase_commit": 15}
_PERMISSIONS: Final = {one.name.lower(): int(one) for one in ACLPermissionType}
_KINDS: Final = {one.name.lower(): int(one) for one in ResourceType}
_PATTERNS: Final = {one.name.lower(): int(one) for one in ACLResourcePatternType}


def question(matching: Acl) -> DescribeAclsRequest:
    """Which rights match?"""
    return DescribeAclsRequest(
        resource_type_filter=_KINDS[matching.resource],
        resource_name_filter=matching.name,
        pattern_type_filter=_PATTERNS[matching.pattern],
        principal_filter=matching.principal,
        host_filter=matching.host,
        operation=_OPERATIONS[matching.operation],
        permission_type=_PERMISSIONS[matching.permission],
        min_version=1,
    )


def found_in(answer: Mapping[str, Any]) -> list[Acl]:
    """The rights in the answer to a question. Raises Refused."""
    check(answer["error_code"], answer["error_message"], "rights")
    return [_acl(one, place) for place in answer["resources"] for one in place["acls"]]


def addition(acl: Acl) -> CreateAclsRequest:
    """Add this right."""
    wanted = CreateAclsRequest.AclCreation(
        resource_type=_KINDS[acl.resource],
        resource_name=acl.name,
        resource_pattern_type=_PATTERNS[acl.pattern],
        principal=acl.principal,
        host=acl.host,
        operation=_OPERATIONS[acl.operation],
        permission_type=_PERMISSIONS[acl.permission],
    )
    return CreateAclsRequest(creations=[wanted], min_version=1)


def deletion(matching: Acl) -> DeleteAclsRequest:
    """Delete the rights that match."""
    wanted = DeleteAclsRequest.DeleteAclsFilter(
        resource_type_filter=_KINDS[matching.resource],
        resource_name_filter=matching.name,
        pattern_type_filter=_PATTERNS[matching.pattern],
        principal_filter=matching.principal,
        host_filter=matching.host,
        operation=_OPERATIONS[matching.operation],
        permission_type=_PERMISSIONS[matching.permission],
    )
    return DeleteAclsRequest(filters=[wanted], min_version=1)


def deleted_in(answer: Mapping[str, Any]) -> tuple[list[Acl], dict[Acl, str]]:
    """The rights that are gone, and why others are not. Raises Refused if the filter was refused."""
    deleted: list[Acl] = []
    refused: dict[Acl, str] = {}
    for told in answer["filter_results"]:
        check(told["error_code"], told["error_message"], "rights")
        for one in told["matching_acls"]:
            if one["error_code"]:
                why = words_of(for_code(one["error_code"]), one["error_message"])
                refused[_acl(one, one)] = f"a right of {one['principal']}: {why}"
            else:
                deleted.append(_acl(one, one))
    return deleted, refused


def _word(names: Mapping[str, int], number: int) -> str:
    """Kafka's word of a number, in small letters; a newer broker may have more of them."""
    return next((name for name, known in names.items() if known == number), f"number {number}")


def _acl(told: Mapping[str, Any], place: Mapping[str, Any]) -> Acl:
    """A right; `place` has the resource."""
    return Acl(
        told["principal"],
        told["host"],
        _word(_OPERATIONS, told["operation"]),
        _word(_PERMISSIONS, told["permission_type"]),
        _word(_KINDS, place["resource_type"]),
        place["resource_name"],
        _word(_PATTERNS, place["pattern_type"]),
    )
