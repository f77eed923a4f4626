"""DescribeAcls (key 29), versions 1-3: the ACLs that match a filter; v2 adds user resources, v3 is flexible.

Without an authorizer there are no ACLs: as in Kafka, the answer is SECURITY_DISABLED, not an empty list.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.acls import authorizer_of, filter_of, told_acl, told_resource
from gateway.apis.shared.administration import told
from gateway.apis.shared.without_security import NOTHING_TO_DESCRIBE
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, PatternType, ResourceType
from gateway.wire.message import Message


async def describe_acls(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    try:
        authorizer = authorizer_of(ctx, NOTHING_TO_DESCRIBE)
    except Refusal as refused:
        return told(refused)
    ctx.require(Operation.DESCRIBE, ResourceType.CLUSTER)
    try:
        wanted = filter_of(request)
    except Refusal:
        return told(None)  # as Kafka: no ACL has such a number
    by_resource: dict[tuple[ResourceType, str, PatternType], dict[str, Any]] = {}
    async for acl in ctx.paced(await authorizer.matching(wanted)):
        resource = by_resource.setdefault(acl[:3], {**told_resource(acl), "acls": []})
        resource["acls"].append(told_acl(acl))
    return {**told(None), "resources": list(by_resource.values())}


API: Final = Api(
    key=29,
    name="DescribeAcls",
    versions=range(1, 4),
    handle=describe_acls,
    error_response=lambda request, version, code: {"error_code": code},
    large_answer=True,
)
