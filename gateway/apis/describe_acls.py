"""DescribeAcls (key 29), versions 1-3: the ACLs that match a filter; v2 adds user resources, v3 is flexible.

Without an authorizer there are no ACLs: as in Kafka, the answer is SECURITY_DISABLED, not an empty list.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.administration import told
from gateway.apis.shared.without_security import NOTHING_TO_DESCRIBE
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def describe_acls(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return told(NOTHING_TO_DESCRIBE)


API: Final = Api(
    key=29,
    name="DescribeAcls",
    versions=range(1, 4),
    handle=describe_acls,
    error_response=lambda request, version, code: {"error_code": code},
)
