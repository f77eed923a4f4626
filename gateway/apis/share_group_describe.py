"""ShareGroupDescribe (key 77), version 1 (KIP-932): share groups, which are not served (UNSUPPORTED_VERSION)."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.new_groups import in_every_group, none_described
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def share_group_describe(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return none_described(request.group_ids)


API: Final = Api(
    key=77,
    name="ShareGroupDescribe",
    versions=range(1, 2),
    handle=share_group_describe,
    error_response=in_every_group,
)
