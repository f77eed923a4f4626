"""Random instances of kio's messages, and the same values as our codec speaks them."""

import datetime
import random
import uuid
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin

from kio.schema.errors import ErrorCode
from kio.serial._introspect import get_field_tag

from gateway.wire.schema import OWN_FIELDS

INTEGERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
MILLISECOND = datetime.timedelta(milliseconds=1)
TEXTS = ["", "a", "topic-1", "é✓𝄞", "x" * 127, "y" * 300]


def instance(entity: type[Any], rng: random.Random) -> Any:
    """An instance of a kio dataclass with random values, extremes and nulls among them."""
    return entity(**{f.name: _field(f, rng) for f in fields(entity)})


def plain(value: Any) -> Any:
    """kio's value as the mapping that our encoder takes and our decoder's Message equals."""
    if is_dataclass(value):
        return {f.name: _plain_field(f, getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime.timedelta):
        return value // MILLISECOND
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, ErrorCode):
        return int(value)
    return value


def _plain_field(field: Any, value: Any) -> Any:
    if value is None and field.metadata.get("kafka_type") == "datetime_i64":
        return -1
    return plain(value)


def as_mapping(message: Any) -> Any:
    """A decoded Message as nested dicts, without the fields that only our nodes send, and that have their default."""
    if hasattr(message, "schema_fields"):
        own = OWN_FIELDS.get(type(message).__name__)
        names = [
            name
            for name in message.schema_fields
            if own is None or name != own.name or getattr(message, name) != own.default
        ]
        return {name: as_mapping(getattr(message, name)) for name in names}
    if isinstance(message, list):
        return [as_mapping(item) for item in message]
    return bytes(message) if isinstance(message, memoryview) else message


def _field(field: Any, rng: random.Random) -> Any:
    annotation, nullable = field.type, False
    if get_origin(annotation) is UnionType:
        nullable = True
        (annotation,) = (a for a in get_args(annotation) if a is not type(None))
    tagged = get_field_tag(field) is not None
    # kio cannot write null for a tagged field; it leaves it out when that is the default.
    if nullable and rng.random() < 0.3 and not (tagged and field.default is not None):
        return None
    if get_origin(annotation) is tuple:
        item, _ = get_args(annotation)
        count = rng.choice([0, 1, 1, 2, 3])
        if rng.random() < 0.02 and not is_dataclass(item):
            count = 200
        return tuple(_scalar(item, field, rng) for _ in range(count))
    return _scalar(annotation, field, rng)


def _scalar(annotation: Any, field: Any, rng: random.Random) -> Any:
    if get_origin(annotation) is UnionType:
        (annotation,) = (a for a in get_args(annotation) if a is not type(None))
    if is_dataclass(annotation):
        return instance(annotation, rng)
    kind = field.metadata["kafka_type"]
    if kind in INTEGERS:
        return _integer(INTEGERS[kind], rng)
    match kind:
        case "uint16":
            return rng.choice([0, 1, 2**16 - 1])
        case "bool":
            return rng.random() < 0.5
        case "float64":
            return rng.choice([0.0, -1.5, 1e300])
        case "string":
            return rng.choice(TEXTS)
        case "bytes" | "records":
            return rng.randbytes(rng.choice([0, 1, 126, 127, 128, 500]))
        case "error_code":
            return rng.choice(list(ErrorCode))
        case "uuid":
            return uuid.UUID(int=rng.getrandbits(128) or 1)
        case "timedelta_i32":
            return MILLISECOND * _integer(32, rng)
        case "timedelta_i64":
            return MILLISECOND * rng.choice([-1, 0, 1, 2**45])
        case "datetime_i64":
            millis = rng.choice([0, 1_700_000_000_123])
            return datetime.datetime.fromtimestamp(millis // 1000, datetime.UTC)
    raise AssertionError(f"no values for {kind}")


def _integer(bits: int, rng: random.Random) -> int:
    extremes = [0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))]
    return rng.choice([*extremes, rng.getrandbits(bits - 1)])
