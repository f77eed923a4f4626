"""DeleteShareGroupOffsets (key 92), version 0 (KIP-932): forgets a share group's topics.

Share groups are not served (UNSUPPORTED_VERSION).
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.new_groups import NOT_SERVED, NOT_SERVED_TEXT
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def delete_share_group_offsets(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return {"error_code": NOT_SERVED, "error_message": NOT_SERVED_TEXT}


API: Final = Api(
    key=92,
    name="DeleteShareGroupOffsets",
    versions=range(1),
    handle=delete_share_group_offsets,
    error_response=lambda request, version, code: {"error_code": code},
)
