"""CreateAcls (key 30), versions 1-3: one result for each ACL. Without an authorizer it is SECURITY_DISABLED."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.administration import told
from gateway.apis.shared.without_security import NOTHING_TO_CHANGE
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def create_acls(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return {"results": [told(NOTHING_TO_CHANGE) for _ in request.creations]}


API: Final = Api(
    key=30,
    name="CreateAcls",
    versions=range(1, 4),
    handle=create_acls,
    error_response=lambda request, version, code: {"results": [{"error_code": code} for _ in request.creations]},
)
