"""AlterConfigs (key 33), versions 0-2: replaces all configs of a resource; superseded by KIP-339.

Keeps: a config that a request does not name goes back to its default.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.altering import Resource, alter, check_no_nulls, error_response
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.kafka_configs.keys import Change
from gateway.wire.message import Message


async def alter_configs(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    def change_of(message: Message, resource: Resource) -> Change:
        wanted = {config.name: config.value for config in message.configs}
        return lambda now: wanted

    return await alter(ctx, request, lambda message: check_no_nulls(message.configs), change_of)


API: Final = Api(
    key=33,
    name="AlterConfigs",
    versions=range(3),
    handle=alter_configs,
    error_response=error_response,
)
