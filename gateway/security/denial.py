"""The refusal of a request whose principal has no right to it: Kafka's code and words for each type of resource."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kio.schema.errors import ErrorCode

from gateway.refusals import Refusal
from gateway.security.acls import ResourceType


class Denied(Refusal):
    """The principal may not do this. It ends the whole request when a handler lets it pass."""


_CODES: Final[Mapping[ResourceType, tuple[ErrorCode, str]]] = {
    ResourceType.TOPIC: (ErrorCode.topic_authorization_failed, "Topic authorization failed."),
    ResourceType.GROUP: (ErrorCode.group_authorization_failed, "Group authorization failed."),
    ResourceType.CLUSTER: (ErrorCode.cluster_authorization_failed, "Cluster authorization failed."),
    ResourceType.TRANSACTIONAL_ID: (
        ErrorCode.transactional_id_authorization_failed,
        "Transactional Id authorization failed.",
    ),
    ResourceType.DELEGATION_TOKEN: (
        ErrorCode.delegation_token_authorization_failed,
        "Delegation Token authorization failed.",
    ),
    ResourceType.USER: (ErrorCode.delegation_token_authorization_failed, "Delegation Token authorization failed."),
}


def denial_of(kind: ResourceType) -> Denied:
    """The refusal for a resource of that type."""
    return Denied(*_CODES[kind])
