"""A decoded request: an attribute bag with the same attributes in every version of its API.

Each entity of each (API, version) gets its own slotted subclass, made by the codec. A field that the
version lacks gets, at its first use, its default in the newest schema that has it. So version
differences end here, and a misspelt field name is an AttributeError.
"""

from functools import cache
from typing import Any, ClassVar, Final

from gateway.wire.schema import StructSpec, field_in_other_versions

ITEMS_SHOWN_MAX: Final = 4
TEXT_SHOWN_CHARS_MAX: Final = 120


class Message:
    """Base of the generated classes. `repr` is for logs: it never shows the contents of bytes."""

    __slots__ = ()

    schema_fields: ClassVar[tuple[str, ...]] = ()
    schema_place: ClassVar[tuple[int, bool, tuple[str, ...]]] = (-1, True, ())
    """This entity's place: API key, whether it is a request, names of the fields from the root to it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        key, is_request, path = type(self).schema_place
        field = field_in_other_versions(key, is_request, path, name)
        if isinstance(field.default, list):
            return []  # never a shared one
        if field.struct is not None and field.default is not None:
            return message_from_defaults(field.struct, key, is_request)
        setattr(type(self), name, field.default)
        return field.default

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            getattr(self, name) == getattr(other, name) for name in self.schema_fields
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = (f"{name}={_shown(getattr(self, name))}" for name in self.schema_fields)
        return f"{type(self).__name__}({', '.join(shown)})"


@cache
def message_class(struct: StructSpec, key: int, is_request: bool) -> type[Message]:
    """The class of one entity; its constructor takes the fields in the schema's order."""
    names = [field.name for field in struct.fields]
    body = "".join(f"\n    self.{name} = {name}" for name in names) or "\n    pass"
    source = f"def __init__(self{''.join(', ' + name for name in names)}):{body}\n"
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    members = {
        "__slots__": tuple(names),
        "__init__": namespace["__init__"],
        "__module__": __name__,
        "schema_fields": tuple(names),
        "schema_place": (key, is_request, struct.path),
    }
    return type(struct.name, (Message,), members)


def message_from_defaults(struct: StructSpec, key: int, is_request: bool) -> Message:
    """An entity with the default in every field."""
    values = [
        message_from_defaults(field.struct, key, is_request)
        if field.struct is not None and isinstance(field.default, dict)
        else field.default
        for field in struct.fields
    ]
    return message_class(struct, key, is_request)(*values)


def _shown(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, list):
        items = [_shown(item) for item in value[:ITEMS_SHOWN_MAX]]
        if len(value) > ITEMS_SHOWN_MAX:
            items.append(f"… {len(value)} in all")
        return f"[{', '.join(items)}]"
    if isinstance(value, str) and len(value) > TEXT_SHOWN_CHARS_MAX:
        return f"{value[:TEXT_SHOWN_CHARS_MAX]!r}…"
    return repr(value)
