"""Changing the configs of resources of all kinds, for AlterConfigs and IncrementalAlterConfigs.

Keeps: a resource changes as a whole or not at all; a fault in one leaves the others alone. The audit log hears of each
change with the names of its configs, and without values, which may be secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.apis.shared.administration import repeated, repeated_among, told
from gateway.dispatch.context import RequestContext
from gateway.kafka_configs.broker_configs import CLUSTER
from gateway.kafka_configs.keys import Change, ResourceType
from gateway.kafka_configs.resource_configs import kind_of
from gateway.kafka_configs.resource_keys import KINDS
from gateway.refusals import Refusal, invalid_request
from gateway.security.acls import Operation
from gateway.security.acls import ResourceType as AclType
from gateway.security.audit import clipped
from gateway.topics.checks import check_name
from gateway.wire.message import Message


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as a request names it."""

    type: int
    name: str


CONFIGS_MAX: Final = 2_000
"""Configs of one resource in a request: more than any resource can have, each once."""
NAMES_TOLD_MAX: Final = 100
"""Configs that a line of the audit log names; a resource has fewer."""

Changes = Mapping[Resource, Change]
Outcomes = dict[Resource, Refusal | None]


async def alter(
    ctx: RequestContext,
    request: Message,
    check: Callable[[Message], None],
    change_of: Callable[[Message, Resource], Change],
) -> Mapping[str, Any]:
    """Check each resource of a request with `check`, and make the change that `change_of` returns for it."""
    asked = [Resource(r.resource_type, r.resource_name) async for r in ctx.paced(request.resources)]
    twice = await repeated_among(ctx, asked)
    outcomes: Outcomes = {}
    changes: dict[Resource, Change] = {}
    async for resource, message in ctx.paced(zip(asked, request.resources, strict=True)):
        try:
            if resource in twice:
                raise invalid_request("Each resource must appear at most once.")
            if (count := len(message.configs)) > CONFIGS_MAX:
                raise invalid_request(f"{count} configs of one resource, at most {CONFIGS_MAX} are read.")
            if repeated(config.name for config in message.configs):
                raise invalid_request("Error due to duplicate config keys")
            check(message)
            _check_rights(ctx, resource)
            _check_resource(ctx, resource)
            changes[resource] = change_of(message, resource)
        except Refusal as refused:
            outcomes[resource] = refused
    outcomes |= await _apply(ctx, changes, request.validate_only)
    if not request.validate_only:
        async for resource, message in ctx.paced(zip(asked, request.resources, strict=True)):
            if outcomes[resource] is None:
                _tell(ctx, resource, message)
    return {
        "responses": [
            {
                **told(outcomes[resource]),
                "resource_type": resource.type,
                "resource_name": resource.name,
            }
            async for resource in ctx.paced(asked)
        ]
    }


def _tell(ctx: RequestContext, resource: Resource, message: Message) -> None:
    names = [clipped(config.name) for config in message.configs[:NAMES_TOLD_MAX]]
    ctx.tell("configs changed", resource=ResourceType(resource.type).name, name=resource.name, configs=names)


def _check_rights(ctx: RequestContext, resource: Resource) -> None:
    match resource.type:
        case ResourceType.TOPIC:
            ctx.require(Operation.ALTER_CONFIGS, AclType.TOPIC, resource.name)
        case ResourceType.GROUP:
            ctx.require(Operation.ALTER_CONFIGS, AclType.GROUP, resource.name)
        case _:
            ctx.require(Operation.ALTER_CONFIGS, AclType.CLUSTER)


def _check_resource(ctx: RequestContext, resource: Resource) -> None:
    if resource.type == ResourceType.TOPIC:
        if not resource.name:
            raise invalid_request("Default topic resources are not allowed.")
        check_name(resource.name)
    elif resource.type != ResourceType.BROKER:
        kind_of(resource.type, resource.name)
    elif resource.name != CLUSTER:
        _check_node(ctx.services.node_id, resource.name)


def _check_node(node_id: int, name: str) -> None:
    try:
        named = int(name)
    except ValueError:
        raise invalid_request(f"Node id must be an integer, but it is: {name}") from None
    if named != node_id:
        raise invalid_request(f"Unexpected broker id, expected {node_id}, but received {name}")


async def _apply(ctx: RequestContext, changes: Changes, validate_only: bool) -> Outcomes:
    topics = ctx.services.topics
    of_topics = {r.name: c async for r, c in ctx.paced(changes.items()) if r.type == ResourceType.TOPIC}
    done = await topics.configure(of_topics, validate_only)
    outcomes: Outcomes = {
        Resource(ResourceType.TOPIC, name): outcome async for name, outcome in ctx.paced(done.items())
    }
    async for resource, change in ctx.paced(changes.items()):
        if resource.type == ResourceType.TOPIC:
            continue
        try:
            if resource.type == ResourceType.BROKER:
                entity = CLUSTER if resource.name == CLUSTER else topics.configs.node
                await topics.configure_broker(entity, change, validate_only)
            else:
                kind = KINDS[resource.type]
                await ctx.services.resource_configs.configure(kind, resource.name, change, validate_only)
            outcomes[resource] = None
        except Refusal as refused:
            outcomes[resource] = refused
    return outcomes


def check_no_nulls(configs: Sequence[Message]) -> None:
    """Raises Refusal when a config that needs a value has none."""
    if nulls := [config.name for config in configs if config.value is None]:
        raise invalid_request(f"Null value not supported for : {', '.join(nulls)}")


def error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    """The answer after an unexpected error."""
    return {
        "responses": [
            {
                "error_code": code,
                "resource_type": resource.resource_type,
                "resource_name": resource.resource_name,
            }
            for resource in request.resources
        ]
    }
