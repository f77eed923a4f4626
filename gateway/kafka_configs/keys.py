"""Configuration keys as Kafka describes them over the wire: type, default, check and documentation.

Keeps: Kafka's own parser accepts every value that `ConfigKey.parse` accepts, and the message of a
refusal is Kafka's, because tools and tests match on it.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.refusals import InvalidConfig

INT_MAX: Final = 2**31 - 1
LONG_MAX: Final = 2**63 - 1

Change = Callable[[Mapping[str, str]], Mapping[str, str | None]]
"""A function that makes new configs from the present ones."""

_NUMBER: Final = re.compile(r"[+-]?[0-9]+")
_COMMA: Final = re.compile(r"\s*,\s*")


class ResourceType(enum.IntEnum):
    """Kafka's ConfigResource.Type."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


class ConfigType(enum.IntEnum):
    """The `config_type` of DescribeConfigs."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class ConfigSource(enum.IntEnum):
    """The `config_source` of DescribeConfigs; the sources of a broker and its topics stand strongest first."""

    TOPIC = 1
    NODE = 2  # set for one broker at run time
    CLUSTER = 3  # set for all brokers at run time
    STATIC = 4  # file, environment or flag
    DEFAULT = 5
    CLIENT_METRICS = 7  # set for one subscription
    GROUP = 8  # set for one group


ConfigValue = bool | int | float | str | tuple[str, ...]
Check = Callable[[str, ConfigValue], None]


@dataclass(frozen=True, slots=True)
class Synonym:
    """A broker's key that sets a topic's default, in a unit that is `factor` of the topic's."""

    name: str
    factor: int = 1
    floor: int | None = None
    """Smaller values of the broker's key all mean this value."""

    def convert(self, text: str) -> str:
        """The topic's text for a (valid) text of the broker's key."""
        if self.factor == 1 and self.floor is None:
            return text
        value = int(text) * self.factor
        return str(value if self.floor is None else max(value, self.floor))


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One key: its type, default, check and documentation."""

    name: str
    type: ConfigType
    default: str | None
    doc: str
    check: Check | None = None
    synonyms: tuple[Synonym, ...] = ()

    def parse(self, text: str) -> ConfigValue:
        """The value of a text. Raises InvalidConfig with Kafka's message."""
        value = self._read(text)
        if self.check is not None:
            self.check(self.name, value)
        return value

    def _read(self, text: str) -> ConfigValue:
        trimmed = text.strip()
        match self.type:
            case ConfigType.BOOLEAN:
                return _boolean(self.name, trimmed)
            case ConfigType.INT | ConfigType.SHORT | ConfigType.LONG:
                return _integer(self, text)
            case ConfigType.DOUBLE:
                return _double(self.name, text)
            case ConfigType.LIST:
                return tuple(_COMMA.split(trimmed)) if trimmed else ()
            case ConfigType.STRING | ConfigType.CLASS | ConfigType.PASSWORD:
                return trimmed


def invalid_value(name: str, value: object, why: str) -> InvalidConfig:
    """Kafka's sentence about a value."""
    return InvalidConfig(f"Invalid value {value} for configuration {name}: {why}")


def _boolean(name: str, text: str) -> bool:
    lowered = text.lower()
    if lowered not in ("true", "false"):
        raise invalid_value(name, text, "Expected value to be either true or false")
    return lowered == "true"


_LIMITS: Final = {ConfigType.SHORT: 2**15 - 1, ConfigType.INT: INT_MAX, ConfigType.LONG: LONG_MAX}


def _integer(key: ConfigKey, text: str) -> int:
    limit = _LIMITS[key.type]
    trimmed = text.strip()
    # int() accepts underscores, and is slow on long text.
    if len(trimmed) > 20 or not _NUMBER.fullmatch(trimmed) or not -limit - 1 <= int(text) <= limit:
        raise invalid_value(key.name, text, f"Not a number of type {key.type.name}")
    return int(text)


def _double(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or "_" in text:
        raise invalid_value(name, text, "Not a number of type DOUBLE")
    return value


def at_least(low: float) -> Check:
    def check(name: str, value: ConfigValue) -> None:
        assert isinstance(value, int | float)
        if value < low:
            raise invalid_value(name, value, f"Value must be at least {low}")

    return check


def between(low: float, high: float) -> Check:
    checked_low = at_least(low)

    def check(name: str, value: ConfigValue) -> None:
        assert isinstance(value, int | float)
        checked_low(name, value)
        if value > high:
            raise invalid_value(name, value, f"Value must be no more than {high}")

    return check


def required(low: int) -> Check:
    """A check that Kafka makes only when it has read all keys, with a message of another form."""

    def check(name: str, value: ConfigValue) -> None:
        assert isinstance(value, int)
        if value < low:
            raise InvalidConfig(f"requirement failed: {name} must be greater than or equal to {low}")

    return check


def time_or_for_ever(name: str, value: ConfigValue) -> None:
    """Negative means for ever; zero, which would delete everything, is refused."""
    if value == 0:
        raise InvalidConfig(f"requirement failed: {name} must be unlimited (-1) or, greater than or equal to 1")


def gzip_level(name: str, value: ConfigValue) -> None:
    """1 to 9, or -1 for the codec's own default."""
    assert isinstance(value, int)
    if value != -1 and not 1 <= value <= 9:
        raise invalid_value(name, value, "Value must be between 1 and 9 or equal to -1")


def one_of(*choices: str) -> Check:
    def check(name: str, value: ConfigValue) -> None:
        if value not in choices:
            raise invalid_value(name, value, f"String must be one of: {', '.join(choices)}")

    return check


def list_of(*choices: str) -> Check:
    each = one_of(*choices)

    def check(name: str, value: ConfigValue) -> None:
        assert isinstance(value, tuple)
        if "" in value:
            raise InvalidConfig(f"Configuration '{name}' values must not be empty.")
        for item in value:
            each(name, item)

    return check


GROUPS_MAX: Final = 100
"""Most consumer groups that one topic may wait for: each is looked up for each partition."""


def group_names(name: str, value: ConfigValue) -> None:
    """Names of consumer groups."""
    assert isinstance(value, tuple)
    if "" in value:
        raise InvalidConfig(f"Configuration '{name}' values must not be empty.")
    if len(value) > GROUPS_MAX:
        raise invalid_value(name, f"of {len(value)} groups", f"There must be no more than {GROUPS_MAX}")


def throttled_replicas(name: str, value: ConfigValue) -> None:
    """`*`, or PARTITION:BROKER pairs."""
    assert isinstance(value, tuple)
    if value in ((), ("*",)) or all(re.fullmatch(r"[0-9]+:[0-9]+", item) for item in value):
        return
    raise invalid_value(
        name,
        f"[{', '.join(value)}]",
        f"{name} must be the literal '*' or a list of replicas in the following format: "
        "[partitionId]:[brokerId],[partitionId]:[brokerId],...",
    )
