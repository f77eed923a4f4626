"""IncrementalAlterConfigs (key 44), versions 0-1: set, delete, append to and subtract from configs.

Keeps: an append or subtract starts from the value in effect when it is applied, so two of them at
the same time lose nothing.
"""

import enum
from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.altering import Resource, alter, check_no_nulls, error_response
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.kafka_configs.keys import Change, ResourceType
from gateway.refusals import Refusal, invalid_request
from gateway.wire.message import Message


class Operation(enum.IntEnum):
    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


async def incremental_alter_configs(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    configs: BrokerConfigs = ctx.services.topics.configs

    def change_of(message: Message, resource: Resource) -> Change:
        for config in message.configs:
            _check_list(configs, resource, config)

        def change(now: Mapping[str, str]) -> Mapping[str, str | None]:
            changed: dict[str, str | None] = dict(now)
            for config in message.configs:
                _apply(changed, config, configs.default_of(resource.type, config.name))
            return changed

        return change

    return await alter(ctx, request, _check_operations, change_of)


def _check_operations(message: Message) -> None:
    known = set(Operation)
    for config in message.configs:
        if config.config_operation not in known:
            raise invalid_request(f"Unknown operations type {config.config_operation}")
    check_no_nulls([c for c in message.configs if c.config_operation != Operation.DELETE])


def _check_list(configs: BrokerConfigs, resource: Resource, config: Message) -> None:
    """Raises Refusal, in Kafka's words for each kind of resource."""
    operation = Operation(config.config_operation)
    if operation in (Operation.SET, Operation.DELETE) or configs.is_list(resource.type, config.name):
        return
    why = f"Can't {operation.name} to key {config.name} because its type is not LIST."
    if resource.type == ResourceType.BROKER:
        why = f"Config value {operation.name.lower()} is not allowed for config key: {config.name}"
    raise Refusal(ErrorCode.invalid_config, why)


def _apply(changed: dict[str, str | None], config: Message, default: str) -> None:
    """Apply one operation to the result of those before it."""
    match Operation(config.config_operation):
        case Operation.SET:
            changed[config.name] = config.value
        case Operation.DELETE:
            changed.pop(config.name, None)
        case Operation.APPEND:
            items = _items(changed.get(config.name, default))
            known = set(items)
            items += [item for item in config.value.split(",") if item not in known]
            changed[config.name] = ",".join(items)
        case Operation.SUBTRACT:
            gone = set(config.value.split(","))
            items = _items(changed.get(config.name, default))
            changed[config.name] = ",".join(item for item in items if item not in gone)


def _items(text: str | None) -> list[str]:
    return [item.strip() for item in text.split(",")] if text else []


API: Final = Api(
    key=44,
    name="IncrementalAlterConfigs",
    versions=range(2),
    handle=incremental_alter_configs,
    error_response=error_response,
)
