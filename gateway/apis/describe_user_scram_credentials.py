"""DescribeUserScramCredentials (key 50), version 0 (KIP-554): mechanisms and iterations of users, never their secrets.

Without names all users are told; one that has none is RESOURCE_NOT_FOUND, one named twice DUPLICATE_RESOURCE.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.security.scram_users import NUMBERS, ScramUsers
from gateway.wire.message import Message


async def describe_user_scram_credentials(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.DESCRIBE, ResourceType.CLUSTER)
    users = ctx.services.scram_users
    asked: dict[str, int] = {}
    if not request.users:
        asked = dict.fromkeys(users.names(), 1)
    async for user in ctx.paced(request.users or []):
        asked[user.name] = asked.get(user.name, 0) + 1
    return {
        "error_message": "",
        "results": [_described(users, name, times) async for name, times in ctx.paced(asked.items())],
    }


def _described(users: ScramUsers, name: str, times: int) -> Mapping[str, Any]:
    if times > 1:
        why = f"Cannot describe SCRAM credentials for the same user twice in a single request: {name}"
        return {"user": name, **told(Refusal(ErrorCode.duplicate_resource, why))}
    found = users.of(name)
    if not found:
        why = f"Attempt to describe a user credential that does not exist: {name}"
        return {"user": name, **told(Refusal(ErrorCode.resource_not_found, why))}
    infos = [{"mechanism": NUMBERS[one.mechanism], "iterations": one.iterations} for one in found]
    return {"user": name, "error_code": 0, "error_message": None, "credential_infos": infos}


API: Final = Api(
    key=50,
    name="DescribeUserScramCredentials",
    versions=range(1),
    handle=describe_user_scram_credentials,
    error_response=lambda request, version, code: {"error_code": code},
)
