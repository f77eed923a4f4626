"""StreamsGroupHeartbeat (key 88), version 0 (KIP-1071): an instance of Kafka Streams with `group.protocol=streams`.

Not served: UNSUPPORTED_VERSION. With group.protocol=classic, its default, Kafka Streams works.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.new_groups import turned_away
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def streams_group_heartbeat(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    refused = turned_away(ctx, request.group_id, "streams", "set group.protocol=classic for Kafka Streams")
    return {**refused, "status": []}


API: Final = Api(
    key=88,
    name="StreamsGroupHeartbeat",
    versions=range(1),
    handle=streams_group_heartbeat,
    error_response=lambda request, version, code: {"error_code": code},
)
