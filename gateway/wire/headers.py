"""Request headers v1 and v2, response headers v0 and v1.

A header is flexible when its message is, except that the answer to ApiVersions always has the old
header: a client reads it before it knows the broker's versions. The client id is never compact.
(Header v0 belonged to ControlledShutdown v0 alone, which no client sends.)
"""

import struct
from typing import Final, NamedTuple

from gateway.wire.errors import MalformedRequest

API_VERSIONS_KEY: Final = 18

FIXED: Final = struct.Struct(">hhih")
"""API key, API version, correlation id, length of the client id: the first bytes of every request."""

HEADER_TAGS_MAX: Final = 100  # Kafka's clients send none


class RequestHeader(NamedTuple):
    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None


def decode_client_id(frame: bytearray | memoryview) -> tuple[str | None, int]:
    """The client id of a request of at least FIXED.size bytes, and the position behind it."""
    length, position = FIXED.unpack_from(frame)[3], FIXED.size
    if length == -1:
        return None, position
    if not 0 <= length <= len(frame) - position:
        raise MalformedRequest("header.client_id", position, f"length {length}")
    try:
        return str(frame[position : position + length], "utf-8"), position + length
    except UnicodeDecodeError:
        raise MalformedRequest("header.client_id", position, "invalid UTF-8") from None


def encode_request_header(header: RequestHeader, flexible: bool) -> bytes:
    """The header that a client sends in front of a request (for our own tools and tests)."""
    key, version, correlation_id, client_id = header
    raw = None if client_id is None else client_id.encode()
    fixed = FIXED.pack(key, version, correlation_id, -1 if raw is None else len(raw))
    return fixed + (raw or b"") + (b"\0" if flexible else b"")


def response_header_is_flexible(key: int, response_flexible: bool) -> bool:
    return response_flexible and key != API_VERSIONS_KEY
