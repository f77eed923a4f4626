"""ConsumerGroupDescribe (key 69), versions 0-1 (KIP-848): groups of the consumer protocol, of which there are none.

UNSUPPORTED_VERSION for each group: Java's AdminClient asks this first, and DescribeGroups after it.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.new_groups import in_every_group, none_described
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def consumer_group_describe(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return none_described(request.group_ids)


API: Final = Api(
    key=69,
    name="ConsumerGroupDescribe",
    versions=range(2),
    handle=consumer_group_describe,
    error_response=in_every_group,
)
