"""Encryption by the server that keeps the objects: what a request that makes one says.

Keeps: each object that this driver makes, in one request or in parts, asks for the same encryption; a server that
cannot do it refuses the object. Reading needs nothing: the server decrypts.
"""

from __future__ import annotations

import enum
from typing import Final

ALGORITHM_HEADER: Final = "x-amz-server-side-encryption"
KEY_HEADER: Final = "x-amz-server-side-encryption-aws-kms-key-id"


class Encryption(enum.Enum):
    """Whose key encrypts an object: nobody's, the store's own, or one of a key management service."""

    NONE = "none"
    S3 = "s3"
    KMS = "kms"


def headers_of(encryption: Encryption, key_id: str | None) -> dict[str, str]:
    """`key_id`: the key of the service; None for the one that the bucket or the store names."""
    if encryption is Encryption.NONE:
        return {}
    if encryption is Encryption.S3:
        return {ALGORITHM_HEADER: "AES256"}
    return {ALGORITHM_HEADER: "aws:kms", **({KEY_HEADER: key_id} if key_id else {})}
