"""DeleteAcls (key 31), versions 1-3: one result for each filter, with the ACLs that it removed.

Without an authorizer it is SECURITY_DISABLED. A filter that chooses nothing succeeds. An ACL that several filters
choose is told for each of them, up to a bound: beyond it the request is INVALID_REQUEST, and removes none.

Keeps: an ACL is answered as removed when that is durable and in effect; every other ACL stays in effect throughout.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.acls import audited, authorizer_of, filter_of, told_acl, told_resource
from gateway.apis.shared.administration import told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Acl, AclFilter, Operation, ResourceType
from gateway.wire.message import Message


async def delete_acls(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    try:
        authorizer = authorizer_of(ctx)
    except Refusal as refused:
        return await ctx.connection.aside(_everywhere, request, refused)
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    results: list[dict[str, Any]] = []
    filters: list[AclFilter] = []
    chosen_by: list[int] = []
    async for one in ctx.paced(request.filters):
        try:
            filters.append(filter_of(one))
            chosen_by.append(len(results))
            results.append({})
        except Refusal as refused:
            results.append({**told(refused), "matching_acls": []})
    try:
        chosen = await authorizer.delete(filters)
    except Refusal as refused:
        return await ctx.connection.aside(_everywhere, request, refused)
    gone: dict[Acl, None] = {}
    async for place, some in ctx.paced(zip(chosen_by, chosen, strict=True)):
        removed = []
        async for acl in ctx.paced(some):
            gone[acl] = None
            removed.append(_removed(acl))
        results[place] = {**told(None), "matching_acls": removed}
    async for acl in ctx.paced(gone):
        authorizer.audit.tell("ACL deleted", ctx.principal, ctx.host, **audited(acl))
    return {"filter_results": results}


def _everywhere(request: Message, refusal: Refusal) -> Mapping[str, Any]:
    """The same for every filter. For any thread."""
    return {"filter_results": [told(refusal) for _ in request.filters]}


def _removed(acl: Acl) -> dict[str, Any]:
    return {**told(None), **told_resource(acl), **told_acl(acl)}


API: Final = Api(
    key=31,
    name="DeleteAcls",
    versions=range(1, 4),
    handle=delete_acls,
    error_response=lambda request, version, code: {"filter_results": [{"error_code": code} for _ in request.filters]},
    large_answer=True,
)
