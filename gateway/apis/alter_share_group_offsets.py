"""AlterShareGroupOffsets (key 91), version 0 (KIP-932): sets the start offsets of a share group.

Share groups are not served (UNSUPPORTED_VERSION).
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.new_groups import NOT_SERVED, NOT_SERVED_TEXT
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def alter_share_group_offsets(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return {"error_code": NOT_SERVED, "error_message": NOT_SERVED_TEXT}


API: Final = Api(
    key=91,
    name="AlterShareGroupOffsets",
    versions=range(1),
    handle=alter_share_group_offsets,
    error_response=lambda request, version, code: {"error_code": code},
)
