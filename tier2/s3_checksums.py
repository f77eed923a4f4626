"""CRC-32C instead of SHA-256 or MD5 over the parts of an upload: the server computes it, and refuses other bytes.

Over plain http the S3 signature covers a part by its SHA-256, over https the client adds an MD5; each costs both sides
more than any other work with the bytes. A CRC-32C costs a tenth, and Penstock checks its own bytes with it, too.

Invariant: a part has no other hash only if the server has said, when the upload began, that it checks the CRC-32C; an
object that is put at once only if the server has answered the last such put with the CRC-32C of its bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Final

from crc32c import crc32c

from tier2.storage import Buffer

ALGORITHM_HEADER: Final = "x-amz-checksum-algorithm"
CRC_HEADER: Final = "x-amz-checksum-crc32c"
ALGORITHM: Final = "CRC32C"
DIFFERS: Final = frozenset({"XAmzContentChecksumMismatch", "BadDigest", "XAmzContentSHA256Mismatch"})
"""Codes for bytes that changed on their way."""
NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"


def is_checked(answer: Mapping[str, str]) -> bool:
    """Whether the server checks the parts of an upload, by the headers of its answer when the upload began."""
    return answer.get(ALGORITHM_HEADER, "").upper() == ALGORITHM


def checksum(pieces: Iterable[Buffer]) -> str:
    """The checksum of all pieces together, in its form for headers and documents."""
    crc = 0
    for piece in pieces:
        crc = crc32c(piece, crc)
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def completion(parts: Iterable[tuple[int, str, str]]) -> bytes:
    """The document that ends an upload: number, etag and checksum of each part."""
    lines = (
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag>"
        f"<Checksum{ALGORITHM}>{crc}</Checksum{ALGORITHM}></Part>"
        for number, etag, crc in parts
    )
    return f'<CompleteMultipartUpload xmlns="{NAMESPACE}">{"".join(lines)}</CompleteMultipartUpload>'.encode()
