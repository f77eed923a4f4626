"""Keys of one listener: `listener.name.NAME.KEY`, and `listener.name.NAME.MECHANISM.KEY` as Kafka has it for SASL.

Keeps: a key of a listener that is not there, or that cannot be set for one listener, ends the start like every unknown
key; a message shows no secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from gateway.config.fields import HIDDEN, allowed, is_secret, shown
from gateway.config.layers import ConfigError, Given
from gateway.config.security import MECHANISMS, OVERRIDABLE, OVERRIDE, ListenerSecurity, TransportKeys

_BY_MECHANISM: Final = ("sasl.jaas.config", "connections.max.reauth.ms", "sasl.server.max.receive.size")


@dataclass(slots=True)
class OwnKeys:
    """What was given for single listeners: by listener, then by key."""

    given: dict[str, dict[str, Given]] = field(default_factory=dict)

    def add(self, listener: str, key: str, value: Given) -> None:
        self.given.setdefault(listener, {})[key] = value

    def securities(self, common: TransportKeys, listeners: Iterable[str]) -> Mapping[str, ListenerSecurity]:
        """Each listener's keys. Raises ConfigError."""
        listeners = set(listeners)
        problems = [
            f"{OVERRIDE}{name.lower()}.{key} ({value.source}): there is no listener {name}; listeners has "
            f"{', '.join(sorted(listeners))}"
            for name, keys in self.given.items()
            if name not in listeners
            for key, value in keys.items()
        ]
        found: dict[str, ListenerSecurity] = {}
        for name in listeners:
            own = self.given.get(name, {})
            try:
                found[name] = ListenerSecurity.of(common, {key: value.value for key, value in own.items()})
            except ValidationError as exc:
                problems += _wrong(exc, name, own)
        if problems:
            raise ConfigError(problems)
        return found


def apart(given: Mapping[str, Given]) -> tuple[dict[str, Given], OwnKeys]:
    """The keys of all listeners, and those of single ones. Raises ConfigError."""
    common: dict[str, Given] = {}
    own = OwnKeys()
    problems: list[str] = []
    for key, value in given.items():
        if not key.startswith(OVERRIDE):
            common[key] = value
            continue
        name, _, rest = key.removeprefix(OVERRIDE).partition(".")
        mechanism, _, of_mechanism = rest.partition(".")
        if mechanism.upper() in MECHANISMS and of_mechanism in _BY_MECHANISM:
            if of_mechanism == "sasl.jaas.config" and mechanism.upper() != "PLAIN":
                continue  # Kafka wants a login module for each mechanism; only PLAIN's has users in it
            rest = of_mechanism
        if not name or rest not in OVERRIDABLE:
            problems.append(
                f"unknown key {shown(key, quoted=False)} ({value.source}); for one listener can be set: "
                f"{', '.join(sorted(OVERRIDABLE))}"
            )
            continue
        own.add(name.upper(), rest, value)
    if problems:
        raise ConfigError(problems)
    return common, own


def _wrong(error: ValidationError, name: str, own: Mapping[str, Given]) -> Iterable[str]:
    seen: set[str] = set()
    for detail in error.errors(include_url=False):
        key = str(detail["loc"][0])
        if key in seen or key not in own:
            continue
        seen.add(key)
        cause: Any = detail.get("ctx", {}).get("error")
        why = f"{shown(str(cause), quoted=False)}; " if isinstance(cause, ValueError) else ""
        of_key = ListenerSecurity.model_fields[key.replace(".", "_")]
        value = HIDDEN if is_secret(of_key) else shown(own[key].value)
        yield f"{OVERRIDE}{name.lower()}.{key} = {value} ({own[key].source}): {why}allowed: {allowed(of_key)}"
