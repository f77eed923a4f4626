"""DescribeGroups (key 15), versions 0-6: state, members and assignments of groups.

v3 adds authorized operations on request, v4 (KIP-345) instance ids. A group that does not exist, or is a consumer group
(KIP-848), is described as Dead; from v6 (KIP-1043) with GROUP_ID_NOT_FOUND.

Keeps: an answer about a group is of one generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import NOT_ASKED
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.classic import rules
from gateway.groups.classic.group import Group
from gateway.groups.classic.roster import Member
from gateway.groups.classic.states import GroupState
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

NOT_FOUND_FROM: Final = 6


async def describe_groups(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    is_asked = request.include_authorized_operations
    described = []
    async for group_id in ctx.paced(dict.fromkeys(request.groups)):  # a group named twice is described once
        if not ctx.may(Operation.DESCRIBE, ResourceType.GROUP, group_id):
            described.append(_refused(group_id, ErrorCode.group_authorization_failed))
            continue
        operations = ctx.operations(ResourceType.GROUP, group_id) if is_asked else NOT_ASKED
        try:
            group = ctx.services.groups.of(group_id).get(group_id)
        except Refusal as refused:
            described.append(_unknown(group_id, refused.code, str(refused)))
            continue
        if isinstance(group, Group):
            is_large = group.member_count > rules.MEMBERS_MAX
            shown = await _described_in_turns(ctx, group) if is_large else _described(group)
            if shown is None:
                described.append(_refused(group_id, ErrorCode.coordinator_load_in_progress))  # a client asks again
            else:
                described.append(shown | {"authorized_operations": operations})
        elif ctx.version >= NOT_FOUND_FROM:
            why = f"Group {group_id} {'not found' if group is None else 'is not a classic group'}."
            described.append(_unknown(group_id, ErrorCode.group_id_not_found, why))
        else:
            dead = _unknown(group_id, ErrorCode.none, None)
            described.append(dead | {"authorized_operations": operations})
    return {"groups": described}


def _described(group: Group) -> dict[str, Any]:
    protocol = _protocol(group)
    return _facts(group) | {"members": [_member(member, protocol) for member in group.roster]}


async def _described_in_turns(ctx: RequestContext, group: Group) -> dict[str, Any] | None:
    """The same for a group that is larger than any may be: an earlier release stored it, and it has not rebalanced yet.
    None: its generation ended meanwhile."""
    moment, facts, protocol = _moment(group), _facts(group), _protocol(group)
    members = [_member(member, protocol) async for member in ctx.paced(list(group.roster))]
    return facts | {"members": members} if _moment(group) == moment else None


def _moment(group: Group) -> object:
    return group.state, group.generation


def _protocol(group: Group) -> str | None:
    # During a rebalance the members' metadata belongs to no generation: like Kafka, do not show it.
    return group.protocol_name if group.state is GroupState.STABLE else None


def _facts(group: Group) -> dict[str, Any]:
    return {
        "error_code": ErrorCode.none,
        "group_id": group.group_id,
        "group_state": group.state.value,
        "protocol_type": group.protocol_type or "",
        "protocol_data": _protocol(group) or "",
    }


def _member(member: Member, protocol: str | None) -> dict[str, Any]:
    return {
        "member_id": member.member_id,
        "group_instance_id": member.instance_id,
        "client_id": member.client_id,
        "client_host": member.client_host,
        "member_metadata": member.metadata(protocol),
        "member_assignment": member.assignment,
    }


def _unknown(group_id: str, error: int, why: str | None) -> dict[str, Any]:
    return {
        "error_code": error,
        "error_message": why,
        "group_id": group_id,
        "group_state": GroupState.DEAD.value,
        "authorized_operations": NOT_ASKED,
    }


def _refused(group_id: str, error: int) -> dict[str, Any]:
    return {"group_id": group_id, "error_code": error, "group_state": "", "authorized_operations": NOT_ASKED}


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    return {"groups": [_refused(group_id, error) for group_id in request.groups]}


API: Final = Api(
    key=15,
    name="DescribeGroups",
    versions=range(7),
    handle=describe_groups,
    error_response=error_response,
    large_answer=True,
)
