"""ConsumerGroupHeartbeat (key 68), versions 0-1 (KIP-848): a member of a consumer group with `group.protocol=consumer`.

Not served: UNSUPPORTED_VERSION, on which the Java client and librdkafka stop with an error.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.new_groups import turned_away
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def consumer_group_heartbeat(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return turned_away(ctx, request.group_id, "consumer", "set group.protocol=classic for its consumers")


API: Final = Api(
    key=68,
    name="ConsumerGroupHeartbeat",
    versions=range(2),
    handle=consumer_group_heartbeat,
    error_response=lambda request, version, code: {"error_code": code},
)
