"""CreateAcls (key 30), versions 1-3: one result for each ACL; v2 adds user resources, v3 is flexible.

Without an authorizer it is SECURITY_DISABLED. An ACL that is there already is made again, as in Kafka: it stays.

Keeps: an ACL is answered without error when it is durable and in effect.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.acls import acl_of, audited, authorizer_of, is_for_filters
from gateway.apis.shared.administration import told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Acl, Operation, ResourceType
from gateway.wire.message import Message

NO_ACL: Final = Refusal(ErrorCode.unknown_server_error, "An ACL names no ANY and no MATCH: these are for filters.")


async def create_acls(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    try:
        authorizer = authorizer_of(ctx)
    except Refusal as refused:
        return await ctx.connection.aside(_everywhere, request, refused)
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    if any([is_for_filters(creation) async for creation in ctx.paced(request.creations)]):
        return await ctx.connection.aside(_everywhere, request, NO_ACL)
    outcomes: list[Refusal | None] = []
    acls: list[Acl] = []
    places: list[int] = []
    async for creation in ctx.paced(request.creations):
        try:
            acls.append(acl_of(creation))
            places.append(len(outcomes))
            outcomes.append(None)
        except Refusal as refused:
            outcomes.append(refused)
    done = await authorizer.create(acls)
    async for place, acl, refusal in ctx.paced(zip(places, acls, done, strict=True)):
        outcomes[place] = refusal
        if refusal is None:
            authorizer.audit.tell("ACL created", ctx.principal, ctx.host, **audited(acl))
    return {"results": [told(outcome) async for outcome in ctx.paced(outcomes)]}


def _everywhere(request: Message, refusal: Refusal) -> Mapping[str, Any]:
    """The same for every ACL. For any thread."""
    return {"results": [told(refusal) for _ in request.creations]}


API: Final = Api(
    key=30,
    name="CreateAcls",
    versions=range(1, 4),
    handle=create_acls,
    error_response=lambda request, version, code: {"results": [{"error_code": code} for _ in request.creations]},
)
