"""ApiVersions (key 18), versions 0-4: a client's first request.

v3 (KIP-511) brings the client's software name and version and features (KIP-584); v4 lets a feature's
minimum be 0 (KAFKA-17011): before it such a feature is left out of the supported ones, as in Kafka. An
unknown version is answered in version 0's form with UNSUPPORTED_VERSION and our own range, so that the
client can ask again.

Keeps: exactly the registered APIs are advertised, with one exception. Produce's minimum is shown as 0,
because older librdkafka otherwise turns compression off (KAFKA-18659).
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.dispatch.context import Described, RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message

UNSUPPORTED_VERSION: Final = 35
INVALID_REQUEST: Final = 42

SOFTWARE_NAMED_FROM: Final = 3
SOFTWARE_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")
SOFTWARE_CHARS_MAX: Final = 100
"""Characters of the software's name, and of its version, that a connection remembers."""

ZERO_MINIMUM_SINCE: Final = 4

VERSIONS: Final = range(5)


async def api_versions(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if ctx.version >= SOFTWARE_NAMED_FROM:
        name, version = request.client_software_name, request.client_software_version
        if not (SOFTWARE_NAME.fullmatch(name) and SOFTWARE_NAME.fullmatch(version)):
            return {"error_code": INVALID_REQUEST}
        ctx.connection.client_software_name = name[:SOFTWARE_CHARS_MAX]
        ctx.connection.client_software_version = version[:SOFTWARE_CHARS_MAX]
    features = ctx.services.features
    return {
        "api_keys": [_advertised(api) for api in ctx.apis],
        "supported_features": [
            {"name": name, "min_version": lowest, "max_version": highest}
            for name, (lowest, highest) in features.supported.items()
            if lowest > 0 or ctx.version >= ZERO_MINIMUM_SINCE
        ],
        "finalized_features_epoch": features.epoch,
        "finalized_features": [
            {"name": name, "min_version_level": level, "max_version_level": level}
            for name, level in features.levels.items()
        ],
    }


def _advertised(api: Described) -> dict[str, int]:
    lowest = api.versions.start if api.advertise_from is None else api.advertise_from
    return {"api_key": api.key, "min_version": lowest, "max_version": api.versions.stop - 1}


def unsupported_version() -> Mapping[str, Any]:
    return {"error_code": UNSUPPORTED_VERSION, "api_keys": [_advertised(API)]}


API: Final = Api(
    key=18,
    name="ApiVersions",
    versions=VERSIONS,
    handle=api_versions,
    unsupported_version=unsupported_version,
)
