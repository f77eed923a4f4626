"""RemoveRaftVoter (key 81), version 0 (KIP-853): takes a controller's vote.

The voters are fixed, as with kraft.version 0 (UNSUPPORTED_VERSION); another cluster's id is refused first.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import check_cluster, told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

FIXED: Final = Refusal(
    ErrorCode.unsupported_version, "Cluster doesn't support removing voter because the kraft.version feature is 0"
)


async def remove_raft_voter(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    try:
        check_cluster(ctx.services.cluster_id, request.cluster_id)
    except Refusal as refused:
        return told(refused)
    return told(FIXED)


API: Final = Api(
    key=81,
    name="RemoveRaftVoter",
    versions=range(1),
    handle=remove_raft_voter,
    error_response=lambda request, version, code: {"error_code": code},
)
