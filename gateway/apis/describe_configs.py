"""DescribeConfigs (key 32), versions 1-4; v3 adds types and documentation (KIP-569).

Keeps: the answer has every config of a resource, with its default, the source of its value and its
synonyms. A group or a metrics subscription is described whether it exists or not.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.kafka_configs.broker_configs import DescribedConfig
from gateway.kafka_configs.keys import ConfigType, ResourceType
from gateway.kafka_configs.resource_keys import KINDS
from gateway.refusals import Refusal
from gateway.security.acls import Operation
from gateway.security.acls import ResourceType as AclType
from gateway.topics.checks import check_name
from gateway.wire.message import Message

LOGGER_SOURCE: Final = 6
UNKNOWN_TYPE: Final = 0


async def describe_configs(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    # A short request must not make an endless answer: the same question twice is answered once.
    asked = {_identity(resource): resource async for resource in ctx.paced(request.resources)}
    return {"results": [_describe(ctx, request, resource) async for resource in ctx.paced(asked.values())]}


def _identity(resource: Message) -> tuple[int, str, tuple[str, ...]]:
    return resource.resource_type, resource.resource_name, tuple(resource.configuration_keys or ())


def _describe(ctx: RequestContext, request: Message, resource: Message) -> dict[str, Any]:
    named = {
        "resource_type": resource.resource_type,
        "resource_name": resource.resource_name,
    }
    try:
        _check_rights(ctx, resource)
        if resource.resource_type == ResourceType.BROKER_LOGGER:
            entries = [_root_logger(ctx, resource.resource_name)]
        else:
            wanted = _wanted(_configs(ctx, resource), resource.configuration_keys)
            entries = [_entry(request, config) for config in wanted]
    except Refusal as refused:
        return {**named, **told(refused)}
    return {**named, "error_code": ErrorCode.none, "error_message": "", "configs": entries}


def _check_rights(ctx: RequestContext, resource: Message) -> None:
    match resource.resource_type:
        case ResourceType.TOPIC:
            ctx.require(Operation.DESCRIBE_CONFIGS, AclType.TOPIC, resource.resource_name)
        case ResourceType.GROUP:
            ctx.require(Operation.DESCRIBE_CONFIGS, AclType.GROUP, resource.resource_name)
        case _:
            ctx.require(Operation.DESCRIBE_CONFIGS, AclType.CLUSTER)


def _configs(ctx: RequestContext, resource: Message) -> Iterator[DescribedConfig]:
    name: str = resource.resource_name
    topics = ctx.services.topics
    described: Iterator[DescribedConfig]
    match resource.resource_type:
        case ResourceType.TOPIC:
            check_name(name)
            stream = ctx.services.readable(name)
            if stream is None:
                raise Refusal(ErrorCode.unknown_topic_or_partition, "")
            described = topics.configs.describe_topic(stream.config)
        case ResourceType.BROKER if not name:
            described = topics.configs.describe_cluster()
        case ResourceType.BROKER:
            _check_node(ctx, name)
            described = topics.configs.describe_node()
        case ResourceType.CLIENT_METRICS | ResourceType.GROUP as kind:
            if not name:
                what = "Group" if kind == ResourceType.GROUP else "Client metrics subscription"
                raise Refusal(ErrorCode.invalid_request, f"{what} name must not be empty")
            described = ctx.services.resource_configs.describe(KINDS[kind], name)
        case unknown:
            raise Refusal(ErrorCode.invalid_request, f"Unsupported resource type: {unknown}")
    return described


def _check_node(ctx: RequestContext, name: str) -> None:
    if not name.removeprefix("-").isascii() or not name.removeprefix("-").isdigit():
        raise Refusal(ErrorCode.invalid_request, f"Broker id must be an integer, but it is: {name}")
    if int(name) != ctx.services.node_id:
        raise Refusal(
            ErrorCode.invalid_request,
            f"Unexpected broker id, expected {ctx.services.node_id} or empty string, but received {name}",
        )


def _wanted(configs: Iterable[DescribedConfig], keys: list[str] | None) -> Iterator[DescribedConfig]:
    """An empty list of keys means all of them too."""
    return (config for config in configs if not keys or config.name in keys)


def _entry(request: Message, config: DescribedConfig) -> dict[str, Any]:
    secret = config.type is ConfigType.PASSWORD
    entry: dict[str, Any] = {
        "name": config.name,
        "value": None if secret else config.value,
        "read_only": config.read_only,
        "config_source": config.source,
        "is_sensitive": secret,
        "config_type": config.type,
        "documentation": config.doc if request.include_documentation else None,
    }
    if request.include_synonyms:
        entry["synonyms"] = [
            {"name": synonym.name, "value": None if secret else synonym.value, "source": synonym.source}
            for synonym in config.synonyms
        ]
    return entry


def _root_logger(ctx: RequestContext, name: str) -> dict[str, Any]:
    if not name:
        raise Refusal(ErrorCode.invalid_request, "Broker id must not be empty")
    _check_node(ctx, name)
    return {
        "name": "root",
        "value": ctx.services.config.logging_level.upper(),
        "read_only": True,
        "config_source": LOGGER_SOURCE,
        "is_sensitive": False,
        "config_type": UNKNOWN_TYPE,
        "documentation": "",
    }


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "results": [
            {
                "error_code": code,
                "resource_type": resource.resource_type,
                "resource_name": resource.resource_name,
            }
            for resource in request.resources
        ]
    }


API: Final = Api(
    key=32,
    name="DescribeConfigs",
    versions=range(1, 5),
    handle=describe_configs,
    error_response=_error_response,
    large_answer=True,
)
