"""Client quotas as Kafka names them: of users, client ids and addresses, alone or users with client ids.

Keeps: a change that Kafka would refuse is refused in its words, so that scripts find their faults here. An address is
written as one: Kafka also takes the name of a host, which it looks up once, on a thread that may wait.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kio.schema.errors import ErrorCode

from gateway.quotas.quotas import address_of
from gateway.refusals import Refusal, invalid_request

USER, CLIENT_ID, IP = "user", "client-id", "ip"
KINDS: Final = (CLIENT_ID, USER, IP)
"""Kinds of an entity's parts, in Kafka's order."""
PARTS_MAX: Final = 100
"""Parts of one entity, components of a filter, changes of one entity's quotas that are read; there are few kinds."""


class Match(enum.IntEnum):
    """How a filter's component chooses entities."""

    EXACT = 0
    DEFAULT = 1
    SPECIFIED = 2


class Number(enum.Enum):
    """The sort of a quota's value: the largest one, and whether it may have a fraction."""

    INT = (2**31 - 1, False)
    LONG = (2**63 - 1, False)
    DOUBLE = (float("inf"), True)


_OF_CLIENTS: Final[Mapping[str, Number]] = {
    "producer_byte_rate": Number.LONG,
    "consumer_byte_rate": Number.LONG,
    "request_percentage": Number.DOUBLE,
    "controller_mutation_rate": Number.DOUBLE,
}
_OF_ADDRESSES: Final[Mapping[str, Number]] = {"connection_creation_rate": Number.INT}


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a filter."""

    kind: str
    match: int
    name: str | None


Entity = Mapping[str, str | None]
"""Names by kind; None is the default one of its kind."""


def entity_of(parts: Sequence[tuple[str, str | None]]) -> dict[str, str | None]:
    """An entity in Kafka's order of kinds; the last part of a kind counts."""
    named = dict(parts)
    known = {kind: named.pop(kind) for kind in KINDS if kind in named}
    return known | named


def check_filter(components: Sequence[Component]) -> None:
    """Raises Refusal for a filter that Kafka would not answer."""
    kinds: set[str] = set()
    for component in components:
        _check_component(component)
        if component.kind in kinds:
            raise invalid_request(f"Entity type {component.kind} cannot appear more than once in the filter.")
        kinds.add(component.kind)
    if IP in kinds and len(kinds) > 1:
        raise invalid_request(
            "Invalid entity filter component combination. "
            "IP filter component should not be used with user or clientId filter component."
        )


def _check_component(component: Component) -> None:
    match component.match:
        case Match.EXACT if component.name is None:
            raise invalid_request("Request specified MATCH_TYPE_EXACT, but set match string to null.")
        case Match.DEFAULT | Match.SPECIFIED as way if component.name is not None:
            raise invalid_request(f"Request specified MATCH_TYPE_{Match(way).name}, but also specified a match string.")
        case Match.EXACT | Match.DEFAULT | Match.SPECIFIED:
            pass
        case unknown:
            raise invalid_request(f"Unknown match type {unknown}")
    if not component.kind:
        raise invalid_request("Invalid empty entity type.")
    if component.kind not in KINDS:
        raise Refusal(ErrorCode.unsupported_version, f"Unsupported entity type {component.kind}")


def chosen(components: Sequence[Component], strict: bool, entity: Entity) -> bool:
    """Does a filter choose an entity? If it is strict, the entity has no other parts."""
    if strict and len(entity) != len(components):
        return False
    return all(component.kind in entity and _fits(component, entity[component.kind]) for component in components)


def _fits(component: Component, name: str | None) -> bool:
    match component.match:
        case Match.EXACT:
            return name == component.name
        case Match.DEFAULT:
            return name is None
        case _:
            return True


def check_change(entity: Entity, changes: Sequence[tuple[str, float | None]]) -> None:
    """Raises Refusal for a change of an entity's quotas (None takes one away) that cannot be made."""
    allowed = _quotas_of(entity)
    if len({key for key, _ in changes}) < len(changes):
        raise repeated(entity)
    for key, value in changes:
        if value is not None:
            _check_value(allowed, key, value)


def repeated(entity: Entity) -> Refusal:
    """The refusal of an entity that one request names twice."""
    told = ", ".join(f"{kind}={'null' if name is None else name}" for kind, name in entity.items())
    return invalid_request(f"Ignoring duplicate entity ClientQuotaEntity(entries={{{told}}})")


def _quotas_of(entity: Entity) -> Mapping[str, Number]:
    if not entity:
        raise invalid_request("Invalid empty client quota entity")
    for kind, name in entity.items():
        if kind not in KINDS:
            raise invalid_request(f"Unhandled client quota entity type: {kind}")
        if name == "":
            raise invalid_request(f"Empty {kind} not supported")
    if IP not in entity:
        return _OF_CLIENTS
    if len(entity) > 1:
        raise invalid_request("Invalid quota entity combination, IP entity shouldnot be combined with User or ClientId")
    if (name := entity[IP]) is not None:
        try:
            address_of(name)
        except ValueError:
            raise invalid_request(f"{name} is not a valid IP or resolvable host.") from None
    return _OF_ADDRESSES


def _check_value(allowed: Mapping[str, Number], key: str, value: float) -> None:
    if key not in allowed:
        raise invalid_request(f"Invalid configuration key {key}")
    if value <= 0:
        raise invalid_request(f"Quota {key} must be greater than 0")
    number = allowed[key]
    largest, fraction = number.value
    if value > largest:
        raise invalid_request(
            f"Proposed value for {key} is too large for {'an' if number is Number.INT else 'a'} {number.name}."
        )
    if not fraction and value != value // 1:
        raise invalid_request(f"{key} cannot be a fractional value.")
