"""The allowed values and the shown values of the configuration's fields, in words and plain values."""

from __future__ import annotations

import re
import typing
import unicodedata
from pathlib import Path
from typing import Any, Final, Literal

from annotated_types import Ge, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from gateway.config.addresses import ListenAddress

INT_MAX: Final = 2**31 - 1
INT_MIN: Final = -(2**31)
LONG_MIN: Final = -(2**63)
LONG_MAX: Final = 2**63 - 1
HIDDEN: Final = "[hidden]"
"""The text shown for a secret that is set."""
SHOWN_CHARS: Final = 300
MULTI_LINE: Final = frozenset(
    {"ssl_keystore_certificate_chain", "ssl_keystore_key", "ssl_truststore_certificates", "sasl_jaas_config"}
)
"""Fields whose text may have line breaks: certificates, keys, and users as Kafka's files list them."""
_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,20}")
_CREDENTIALS: Final = re.compile(r"(//)[^/?#]*@")


def plain(value: object, field: FieldInfo) -> object:
    """A value in JSON's and TOML's types, in a form in which it may be given."""
    if isinstance(value, tuple):
        return [plain(item, field) for item in value]
    if value is None and field.annotation == ListenAddress | None and field.default is not None:
        return "off"
    if isinstance(value, SecretStr):
        return HIDDEN
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def shown(value: object, *, quoted: bool = True) -> str:
    """A given value for a message: clipped, in one line, and without the credentials before an @ in an address."""
    text = _CREDENTIALS.sub(rf"\1{HIDDEN}@", str(value))
    if len(text) > SHOWN_CHARS:
        text = f"{text[:SHOWN_CHARS]}..."
    if isinstance(value, str):
        return repr(text) if quoted else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return text


def from_text(attribute: str, field: FieldInfo, value: object) -> object:
    """Check that text is one line; read lists with commas, and numbers and truth values as Kafka reads them.

    Raises ValueError."""
    name = type_name(field)
    for item in value if isinstance(value, list) else (value,):
        if isinstance(item, str | Path) and attribute not in MULTI_LINE:
            check_one_line(str(item))
    is_sent_in_a_header = name == "password" and not attribute.startswith(("ssl_", "sasl_", "http_tls_"))
    if is_sent_in_a_header and isinstance(value, str) and not value.isascii():
        raise ValueError("it holds characters that no header of a request can carry")
    if name == "list" and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if name in ("int", "long"):
        return _number(value)
    if name == "boolean" and isinstance(value, str) and value.strip().lower() not in ("true", "false"):
        raise ValueError("neither true nor false")
    return value


def _number(value: object) -> object:
    """Kafka refuses some of Python's numbers (1_000, 7.0); true and false are never numbers."""
    if isinstance(value, bool) or (isinstance(value, str) and not _DIGITS.fullmatch(value.strip())):
        raise ValueError("not a number")
    return value


def check_one_line(text: str) -> None:
    """Raises ValueError for text with a control character, such as a line break."""
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text):
        raise ValueError("it holds a line break or another control character")


def is_secret(field: FieldInfo) -> bool:
    return SecretStr in _options(field)


def type_name(field: FieldInfo) -> str:
    """Kafka's name for the type of a key."""
    options = [option for option in _options(field) if option is not type(None)]
    if bool in options:
        return "boolean"
    if int in options:
        _, high = _bounds(field)
        return "int" if high is not None and high <= INT_MAX else "long"
    if float in options:
        return "double"
    if SecretStr in options:
        return "password"
    return "list" if typing.get_origin(field.annotation) is tuple else "string"


def allowed(field: FieldInfo) -> str:
    """The values that a key takes, in words."""
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["allowed"])
    choices = [
        choice
        for option in _options(field)
        if typing.get_origin(option) is Literal
        for choice in typing.get_args(option)
    ]
    if choices:
        return ", ".join(choices)
    if (name := type_name(field)) == "boolean":
        return "true, false"
    low, high = _bounds(field)
    return name if low is None else f"{name} from {low} to {high}"


def document(field: FieldInfo) -> str:
    return f"{field.description} Allowed: {allowed(field)}."


def _options(field: FieldInfo) -> tuple[object, ...]:
    """The alternatives of a field's type: (int, None) for `int | None`."""
    if typing.get_origin(field.annotation) in (Literal, tuple):
        return (field.annotation,)
    return typing.get_args(field.annotation) or (field.annotation,)


def _bounds(field: FieldInfo) -> tuple[Any, Any]:
    low = next((m.ge for m in field.metadata if isinstance(m, Ge)), None)
    high = next((m.le for m in field.metadata if isinstance(m, Le)), None)
    return low, high
