"""AlterClientQuotas (key 49), versions 0-1 (KIP-546): sets and removes quotas, each entity by itself.

Removing a quota that does not exist succeeds.

Keeps: a quota is answered without error when it is durable and in effect.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.administration import told
from gateway.apis.shared.client_quotas import PARTS_MAX, check_change, entity_of, repeated
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal, invalid_request
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def alter_client_quotas(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER_CONFIGS, ResourceType.CLUSTER)
    outcomes: dict[frozenset[tuple[str, str | None]], dict[str, Any]] = {}
    async for entry in ctx.paced(request.entries):
        entity = entity_of([(part.entity_type, part.entity_name) for part in entry.entity[:PARTS_MAX]])
        identity = frozenset(entity.items())
        try:
            if len(entry.entity) > PARTS_MAX:
                raise invalid_request(f"An entity of {len(entry.entity)} parts, at most {PARTS_MAX} are read.")
            if len(entry.ops) > PARTS_MAX:
                raise invalid_request(f"{len(entry.ops)} changes of one entity, at most {PARTS_MAX} are read.")
            if identity in outcomes:
                raise repeated(entity)
            changes = [(op.key, None if op.remove else op.value) for op in entry.ops]
            check_change(entity, changes)
            if not request.validate_only:
                await ctx.services.quotas.change(identity, dict(changes))
                ctx.tell("quota changed", entity=dict(entity), quotas=dict(changes))
            outcomes[identity] = _outcome(entity, None)
        except Refusal as refused:
            outcomes[identity] = _outcome(entity, refused)
    return {"entries": list(outcomes.values())}


def _outcome(entity: Mapping[str, str | None], refusal: Refusal | None) -> dict[str, Any]:
    named = [{"entity_type": kind, "entity_name": name} for kind, name in entity.items()]
    return {**told(refusal), "entity": named}


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "entries": [
            {
                "error_code": code,
                "entity": [{"entity_type": part.entity_type, "entity_name": part.entity_name} for part in entry.entity],
            }
            for entry in request.entries
        ]
    }


API: Final = Api(
    key=49,
    name="AlterClientQuotas",
    versions=range(2),
    handle=alter_client_quotas,
    error_response=_error_response,
)
