"""ShareGroupHeartbeat (key 76), version 1 (KIP-932): a member of a share group. Not served: UNSUPPORTED_VERSION.

v0 was Kafka 4.0's early access, and is served nowhere.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.new_groups import turned_away
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def share_group_heartbeat(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return turned_away(ctx, request.group_id, "share", "read the topic with a consumer group")


API: Final = Api(
    key=76,
    name="ShareGroupHeartbeat",
    versions=range(1, 2),
    handle=share_group_heartbeat,
    error_response=lambda request, version, code: {"error_code": code},
)
