"""UpdateFeatures (key 57), versions 0-2; v1 names the kind of a change and may only validate, v2 has no results.

Keeps: this release fixes a feature's level, so it can be set to that level and to no other; one feature that cannot be
set fails the request. ApiVersions shows the levels.
"""

import enum
from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import told
from gateway.apis.shared.features import SUPPORTED_FEATURES
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

KINDS_FROM: Final = 1


class Kind(enum.IntEnum):
    UPGRADE = 1
    SAFE_DOWNGRADE = 2
    UNSAFE_DOWNGRADE = 3


async def update_features(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    for update in request.feature_updates:
        if reason := _why_not(ctx, update):
            return told(_failed(update, reason))
    features = dict.fromkeys(update.feature for update in request.feature_updates)
    return {"results": [{"feature": feature, "error_message": "NONE"} for feature in features]}


def _why_not(ctx: RequestContext, update: Message) -> str | None:
    kind, level = update.upgrade_type, update.max_version_level
    if ctx.version < KINDS_FROM:
        kind = Kind.SAFE_DOWNGRADE if update.allow_downgrade else Kind.UPGRADE
    if kind not in set(Kind):
        return "The controller does not support the given upgrade type."
    if level < 0:
        return "A feature version cannot be less than 0."
    if update.feature not in SUPPORTED_FEATURES:
        return f"Local controller {ctx.services.node_id} does not support this feature."
    lowest, highest = SUPPORTED_FEATURES[update.feature]
    if not lowest <= level <= highest:
        return f"Local controller {ctx.services.node_id} only supports versions {lowest}-{highest}"
    if level < highest:
        if kind == Kind.UPGRADE:
            return (
                "Can't downgrade the version of this feature without setting the upgrade type to either safe or "
                "unsafe downgrade."
            )
        return "Penstock has every feature at its highest version only."
    return None


def _failed(update: Message, reason: str) -> Refusal:
    return Refusal(
        ErrorCode.invalid_update_version,
        "The update failed for all features since the following feature had an error: "
        f"Invalid update version {update.max_version_level} for feature {update.feature}. {reason}",
    )


API: Final = Api(
    key=57,
    name="UpdateFeatures",
    versions=range(3),
    handle=update_features,
    error_response=lambda request, version, code: {"error_code": code},
)
