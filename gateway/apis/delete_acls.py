"""DeleteAcls (key 31), versions 1-3: one result for each filter. Without an authorizer it is SECURITY_DISABLED."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.administration import told
from gateway.apis.shared.without_security import NOTHING_TO_CHANGE
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def delete_acls(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return {"filter_results": [told(NOTHING_TO_CHANGE) for _ in request.filters]}


API: Final = Api(
    key=31,
    name="DeleteAcls",
    versions=range(1, 4),
    handle=delete_acls,
    error_response=lambda request, version, code: {"filter_results": [{"error_code": code} for _ in request.filters]},
)
