"""DescribeShareGroupOffsets (key 90), versions 0-1 (KIP-932, lag in v1 by KIP-1226): positions of share groups.

Share groups are not served (UNSUPPORTED_VERSION for each).
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.new_groups import none_described
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def describe_share_group_offsets(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return none_described(group.group_id for group in request.groups)


API: Final = Api(
    key=90,
    name="DescribeShareGroupOffsets",
    versions=range(2),
    handle=describe_share_group_offsets,
    error_response=lambda request, version, code: none_described((group.group_id for group in request.groups), code),
)
