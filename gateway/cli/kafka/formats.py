r"""A record as text: `{key}\t{value}`, or as JSON.

Keeps: to a file or pipe, keys and values go byte for byte; a terminal gets no control characters from a record.
JSON has bytes that are no UTF-8 as base64 under another name, so that nothing is lost.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any, Final

from gateway.cli.client.cluster import Record
from gateway.cli.output import json_text, time_of, visible
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

FIELDS: Final = ("topic", "partition", "offset", "timestamp", "time", "key", "value", "headers", "size")
_HOLE: Final = re.compile(r"\{([a-z]+)\}")
_ESCAPES: Final = {r"\t": "\t", r"\n": "\n", r"\0": "\0", r"\\": "\\"}
_ESCAPE: Final = re.compile(r"\\[tn0\\]")


def formatter(text: str, *, safe: bool) -> Callable[[Record], bytes]:
    """What writes a record by a format. `safe`: for a terminal. Raises Refused for an unknown field."""
    for hole in _HOLE.findall(text):
        if hole not in FIELDS:
            allowed = " ".join(f"{{{name}}}" for name in FIELDS)
            raise Refused(f"--format: {{{hole[:50]}}} is no field; allowed: {allowed}", ExitCode.CONFIGURATION)
    pieces = _HOLE.split(_ESCAPE.sub(lambda match: _ESCAPES[match[0]], text))

    def formatted(record: Record) -> bytes:
        parts = [piece.encode() if at % 2 == 0 else _field(record, piece, safe=safe) for at, piece in enumerate(pieces)]
        return b"".join(parts) + b"\n"

    return formatted


def as_json(record: Record) -> dict[str, Any]:
    """The form that `produce --records` reads back."""
    told: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "time": time_of(record.timestamp_ms),
        **_bytes("key", record.key),
        **_bytes("value", record.value),
    }
    if record.headers:
        told["headers"] = [{"name": name, **_bytes("value", value)} for name, value in record.headers]
    return told


def pretty(record: Record) -> bytes:
    """Indented JSON, in which a value that is JSON is shown as such."""
    told = as_json(record)
    for name in ("key", "value"):
        try:
            told[name] = json.loads(told[name])
        except (KeyError, TypeError, ValueError, RecursionError):
            continue
    return json_text(told, indent=2).encode() + b"\n"


def line(record: Record) -> bytes:
    """One line of JSON."""
    return json_text(as_json(record)).encode() + b"\n"


def _bytes(name: str, value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _field(record: Record, name: str, *, safe: bool) -> bytes:
    match name:
        case "key" | "value":
            content = record.key if name == "key" else record.value
            return _shown(content or b"") if safe else content or b""
        case "headers":
            pairs = [f"{key}={(value or b'').decode(errors='backslashreplace')}" for key, value in record.headers]
            return visible(",".join(pairs)).encode(errors="replace")
        case "timestamp":
            return str(record.timestamp_ms).encode()
        case "time":
            return (time_of(record.timestamp_ms) or "-").encode()
        case "size":
            return str(len(record.value or b"")).encode()
        case _:
            return visible(str(getattr(record, name))).encode()


def _shown(content: bytes) -> bytes:
    return visible(content.decode(errors="backslashreplace")).encode(errors="replace")
