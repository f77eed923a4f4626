"""Kafka's message schemas as kio publishes them, read into plain descriptions for the codec.

A kio schema module is imported at the first use of its (API, version), never before: all of them
together take more than a second. Times are milliseconds here and in all code behind this module.
"""

import datetime
import uuid
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from types import UnionType
from typing import Any, Final, cast, get_args, get_origin

from kio.index import load_request_schema, load_response_schema
from kio.schema.index import api_key_map, schema_name_map
from kio.serial._introspect import (
    EntityField,
    EntityTupleField,
    classify_field,
    get_field_tag,
    is_optional,
)
from kio.static.constants import EntityType

STRUCT_FORMATS: Final[Mapping[str, str]] = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float64": "d",
    "error_code": "h",
    "timedelta_i32": "i",
    "timedelta_i64": "q",
    "datetime_i64": "q",
    "uuid": "16s",
}
"""Kinds of a fixed size, and their `struct` formats."""

FIXED_BYTES: Final[Mapping[str, int]] = {
    kind: {"?": 1, "b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "16s": 16}.get(form, 8)
    for kind, form in STRUCT_FORMATS.items()
}


@dataclass(frozen=True, slots=True, eq=False)
class FieldSpec:
    name: str
    kind: str
    """A key of STRUCT_FORMATS, or "string", "bytes", "records", "struct"."""
    is_array: bool
    nullable: bool
    tag: int | None
    default: Any
    struct: "StructSpec | None"

    def smallest_bytes(self, flexible: bool) -> int:
        """The fewest bytes that this field takes on the wire."""
        if self.is_array:
            return 1 if flexible else 4
        if self.kind == "struct":
            assert self.struct is not None
            return 1 if self.nullable else self.struct.smallest_bytes
        return self.smallest_element_bytes(flexible)

    def smallest_element_bytes(self, flexible: bool) -> int:
        if self.kind == "struct":
            assert self.struct is not None
            return self.struct.smallest_bytes
        if self.kind == "string":
            return 1 if flexible else 2
        if self.kind in ("bytes", "records"):
            return 1 if flexible else 4
        return FIXED_BYTES[self.kind]


@dataclass(frozen=True, slots=True, eq=False)
class StructSpec:
    name: str
    flexible: bool
    path: tuple[str, ...]
    fields: tuple[FieldSpec, ...]
    smallest_bytes: int


OWN_TAG: Final = 10_000
"""Of fields that nodes of this gateway send one another beside Kafka's, which are numbered from 0. Nobody else sends
them, and whoever does not know them passes over them."""
_TOPIC_ID: Final = FieldSpec("topic_id", "uuid", False, True, OWN_TAG, None, None)
OWN_FIELDS: Final[Mapping[str, FieldSpec]] = {
    "AddPartitionsToTxnTopic": _TOPIC_ID,
    "WritableTxnMarkerTopic": _TOPIC_ID,
}
"""By the structure's name: in versions that have tags."""


def versions_known(key: int) -> range:
    """All versions of an API that kio has a schema for (they have no gaps)."""
    versions = sorted(schema_name_map[api_key_map[key]])
    return range(versions[0], versions[-1] + 1)


@cache
def load(key: int, version: int, is_request: bool) -> StructSpec:
    """The description of one message. Raises kio's UnknownEntity when there is none."""
    entity = (load_request_schema if is_request else load_response_schema)(key, version)
    return _describe(entity, ())


def field_in_other_versions(key: int, is_request: bool, path: tuple[str, ...], name: str) -> FieldSpec:
    """A field's description in the newest version that has it."""
    kind = EntityType.request if is_request else EntityType.response
    for version in sorted(schema_name_map[api_key_map[key]], reverse=True):
        if kind not in schema_name_map[api_key_map[key]][version]:
            continue
        fields_there = load(key, version, is_request).fields
        for step in path:
            inner = next((f.struct for f in fields_there if f.name == step), None)
            fields_there = inner.fields if inner else ()
        for field in fields_there:
            if field.name == name:
                return field
    place = ".".join((api_key_map[key], *path))
    raise AttributeError(f"no version of {place} has a field {name!r}")


def _describe(entity: Any, path: tuple[str, ...]) -> StructSpec:
    flexible = bool(entity.__flexible__)
    described = tuple(_describe_field(field, path) for field in fields(entity))
    if flexible and (own := OWN_FIELDS.get(entity.__name__)) is not None:
        described += (own,)
    smallest = sum(f.smallest_bytes(flexible) for f in described if f.tag is None) + flexible
    return StructSpec(entity.__name__, flexible, path, described, smallest)


def _describe_field(field: "Field[Any]", path: tuple[str, ...]) -> FieldSpec:
    classified = classify_field(field)
    tag = get_field_tag(field)
    struct = None
    kind = field.metadata.get("kafka_type", "struct")
    if isinstance(classified, EntityField | EntityTupleField):
        struct = _describe(classified.type_, (*path, field.name))
        assert struct.smallest_bytes > 0, "bytes left would not bound an array of empty elements"
    # For an array of ids kio's is_optional is about the elements; ask for the array itself.
    nullable = (
        get_origin(field.type) is UnionType and type(None) in get_args(field.type)
        if classified.is_array
        else is_optional(field)
    )
    spec = FieldSpec(field.name, kind, classified.is_array, nullable, tag, None, struct)
    default = _implicit_default(spec) if field.default is MISSING else _plain(field.default, spec)
    return FieldSpec(field.name, kind, classified.is_array, nullable, tag, default, struct)


def _implicit_default(spec: FieldSpec) -> Any:
    if spec.nullable:
        return -1 if spec.kind == "datetime_i64" else None
    if spec.is_array:
        return []
    match spec.kind:
        case "struct":
            assert spec.struct is not None
            return {f.name: f.default for f in spec.struct.fields}
        case "string":
            return ""
        case "bytes" | "records":
            return b""
        case "bool":
            return False
        case "float64":
            return 0.0
        case _:
            return 0


def _plain(default: Any, spec: FieldSpec) -> Any:
    """kio's default without kio's types: milliseconds, lists, dicts."""
    if default is None:
        return -1 if spec.kind == "datetime_i64" else None
    if isinstance(default, tuple):
        assert not default, "no schema has a default that is a filled array"
        return []
    if isinstance(default, datetime.timedelta):
        return default // datetime.timedelta(milliseconds=1)
    if isinstance(default, datetime.datetime):
        return round(default.timestamp() * 1000)
    if spec.struct is not None:
        return {f.name: _plain(getattr(default, f.name), f) for f in spec.struct.fields}
    if isinstance(default, bool | float | str | bytes | uuid.UUID):
        return default
    return int(cast(int, default))
