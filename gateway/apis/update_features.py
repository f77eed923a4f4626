"""UpdateFeatures (key 57), versions 0-2; v1 names the kind of a change and may only validate, v2 has no results.

Keeps: one feature that cannot be set fails the request; the answer without error is sent when the levels are durable.
ApiVersions shows them: a producer uses the second version of transactions, for example, as long as it finds it there.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.administration import told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.kafka_configs.features import Kind, LevelChange
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

KINDS_FROM: Final = 1


async def update_features(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    changes = [_change(ctx.version, update) async for update in ctx.paced(request.feature_updates)]
    is_check = ctx.version >= KINDS_FROM and request.validate_only
    try:
        await ctx.services.features.update(changes, validate_only=is_check)
    except Refusal as refused:
        return told(refused)
    if changes and not is_check:
        ctx.tell("features changed", levels={change.feature: change.level for change in changes})
    features = dict.fromkeys(change.feature for change in changes)
    return {"results": [{"feature": feature, "error_message": "NONE"} for feature in features]}


def _change(version: int, update: Message) -> LevelChange:
    kind = update.upgrade_type
    if version < KINDS_FROM:
        kind = Kind.SAFE_DOWNGRADE if update.allow_downgrade else Kind.UPGRADE
    return LevelChange(update.feature, update.max_version_level, kind)


API: Final = Api(
    key=57,
    name="UpdateFeatures",
    versions=range(3),
    handle=update_features,
    error_response=lambda request, version, code: {"error_code": code},
)
