"""ShareAcknowledge (key 79), versions 1-2 (KIP-932, KIP-1222): a share group's member settles records.

Share groups are not served (UNSUPPORTED_VERSION); a member never gets as far as this.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.new_groups import NOT_SERVED
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def share_acknowledge(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return {"error_code": NOT_SERVED}


API: Final = Api(
    key=79,
    name="ShareAcknowledge",
    versions=range(1, 3),
    handle=share_acknowledge,
    error_response=lambda request, version, code: {"error_code": code},
)
