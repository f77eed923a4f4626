"""An ACL as a row of the table `acls`. The key is the whole ACL, the value is empty: a row is there or not.

| bytes | meaning |
|---|---|
| 0 | 1: this format |
| 1 | resource type, Kafka's number |
| 2 | pattern type: 3 literal, 4 prefixed |
| 3 | operation, Kafka's number |
| 4 | permission: 2 deny, 3 allow |
| 5-6 | bytes of the resource's name, big-endian |
| 7-8 | bytes of the principal |
| 9- | resource's name, principal, host; UTF-8, one behind the other |

Keeps: equal ACLs have equal keys, and a key is read back as the ACL that it was made of.
"""

from __future__ import annotations

import struct
from typing import Final

from gateway.security.acls import Acl, Operation, PatternType, Permission, ResourceType

TABLE: Final = "acls"
FORMAT: Final = 1
TEXT_BYTES_MAX: Final = 8_192
"""Longest name, principal or host of an ACL, in UTF-8."""
_HEAD: Final = struct.Struct(">BBBBBHH")


class UnknownAcl(Exception):
    """A row that this release cannot read: a later one wrote it, or it is damaged."""


def encode_key(acl: Acl) -> bytes:
    """The row's key."""
    name, principal = acl.name.encode(), acl.principal.encode()
    numbers = acl.type, acl.pattern, acl.operation, acl.permission
    return _HEAD.pack(FORMAT, *numbers, len(name), len(principal)) + name + principal + acl.host.encode()


def decode_key(key: bytes) -> Acl:
    """Raises UnknownAcl."""
    try:
        form, kind, pattern, operation, permission, name_size, principal_size = _HEAD.unpack_from(key)
        if form != FORMAT or len(key) < _HEAD.size + name_size + principal_size:
            raise ValueError
        name_end = _HEAD.size + name_size
        principal_end = name_end + principal_size
        return Acl(
            ResourceType(kind),
            key[_HEAD.size : name_end].decode(),
            PatternType(pattern),
            key[name_end:principal_end].decode(),
            key[principal_end:].decode(),
            Operation(operation),
            Permission(permission),
        )
    except (ValueError, struct.error) as error:
        raise UnknownAcl(f"a row of the table {TABLE} is no ACL of this release: {key[:100].hex()}") from error
