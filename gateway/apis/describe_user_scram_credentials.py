"""DescribeUserScramCredentials (key 50), version 0 (KIP-554): mechanisms and iterations of users, never their secrets.

No user has any: all of them are an empty list, a named one is RESOURCE_NOT_FOUND, one named twice DUPLICATE_RESOURCE.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def describe_user_scram_credentials(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.DESCRIBE, ResourceType.CLUSTER)
    asked: dict[str, int] = {}
    async for user in ctx.paced(request.users or []):
        asked[user.name] = asked.get(user.name, 0) + 1
    return {
        "error_message": "",
        "results": [{"user": name, **told(_missing(name, n))} async for name, n in ctx.paced(asked.items())],
    }


def _missing(name: str, times: int) -> Refusal:
    if times > 1:
        why = f"Cannot describe SCRAM credentials for the same user twice in a single request: {name}"
        return Refusal(ErrorCode.duplicate_resource, why)
    return Refusal(ErrorCode.resource_not_found, f"Attempt to describe a user credential that does not exist: {name}")


API: Final = Api(
    key=50,
    name="DescribeUserScramCredentials",
    versions=range(1),
    handle=describe_user_scram_credentials,
    error_response=lambda request, version, code: {"error_code": code},
)
