"""ApiVersions (key 18), versions 0-4: what a client asks first.

v3 (KIP-511) brings the client's software name and version and features (KIP-584); v4 lets a feature's
minimum be 0 (KAFKA-17011), which none of ours is. A version that we do not know is answered in
version 0's form with UNSUPPORTED_VERSION and our own range, so that the client can ask again.

Keeps: what is advertised is what is registered, except Produce's minimum, which is shown as 0 because
older librdkafka otherwise turns compression off (KAFKA-18659). No feature is finalised that is not
there: without group.version and transaction.version clients keep to the classic protocol and to
the first version of transactions.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.apis import Api, RequestContext
from gateway.wire.message import Message

UNSUPPORTED_VERSION: Final = 35
INVALID_REQUEST: Final = 42

SOFTWARE_NAMED_FROM: Final = 3
SOFTWARE_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")
SOFTWARE_CHARS_MAX: Final = 100
"""What a connection remembers of either."""

METADATA_VERSION: Final = 25
"""4.0-IV3: the level of the oldest Kafka whose APIs these are, known to every tool of 4.x."""
METADATA_VERSION_MIN: Final = 7
FEATURES_EPOCH: Final = 1

VERSIONS: Final = range(5)


async def api_versions(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if ctx.version >= SOFTWARE_NAMED_FROM:
        name, version = request.client_software_name, request.client_software_version
        if not (SOFTWARE_NAME.fullmatch(name) and SOFTWARE_NAME.fullmatch(version)):
            return {"error_code": INVALID_REQUEST}
        ctx.connection.client_software_name = name[:SOFTWARE_CHARS_MAX]
        ctx.connection.client_software_version = version[:SOFTWARE_CHARS_MAX]
    return {
        "api_keys": [_advertised(api) for api in ctx.apis],
        "supported_features": [
            {
                "name": "metadata.version",
                "min_version": METADATA_VERSION_MIN,
                "max_version": METADATA_VERSION,
            }
        ],
        "finalized_features_epoch": FEATURES_EPOCH,
        "finalized_features": [
            {
                "name": "metadata.version",
                "min_version_level": METADATA_VERSION,
                "max_version_level": METADATA_VERSION,
            }
        ],
    }


def _advertised(api: Api) -> dict[str, int]:
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
