"""What a driver of S3 is told: the bucket, the credentials, and the bounds on its memory, threads and time.

Keeps: settings that no server could serve are never made (Misconfigured). No repr shows a key or a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from tier2.rotating_keys import ReadKeys
from tier2.s3_encryption import Encryption
from tier2.storage import KEY_ALLOWED, Misconfigured, check_key

PART_BYTES_MIN: Final = 5 << 20
"""Smallest size, bytes, that S3 allows for every part except the last."""
BUCKET_ALLOWED: Final = "3 to 63 lower-case letters, digits, dots and hyphens, of which first and last are no sign"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS: Final = re.compile(r"\d{1,3}(\.\d{1,3}){3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """The bucket, the credentials, and the bounds on the driver's memory, threads and time."""

    endpoint: str  # http(s)://host[:port]
    bucket: str
    prefix: str = ""
    region: str | None = None  # None: ask the server
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str | None = field(default=None, repr=False)
    read_keys: ReadKeys | None = field(default=None, repr=False)  # asked when the server refuses those
    ca_file: str | None = None
    encryption: Encryption = Encryption.NONE
    kms_key_id: str | None = None
    create_bucket: bool = True  # if it is missing
    reads: int = 8
    writes: int = 4
    part_bytes: int = 8 << 20
    parts_at_once: int = 2  # of one put; memory is bounded by writes * (parts_at_once + 3) * part_bytes
    connect_timeout_s: float = 5.0
    io_timeout_s: float = 30.0  # for one answer, or to send one part
    read_timeout_s: float = 30.0  # for one call
    write_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        url = urlsplit(self.endpoint)
        if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/") or url.query or url.username:
            raise Misconfigured(f"an S3 endpoint is http(s)://host[:port], not {url.scheme}://{url.hostname}{url.path}")
        if not _is_bucket(self.bucket):
            raise Misconfigured(f"not a bucket's name: {self.bucket!r}. Allowed are {BUCKET_ALLOWED}")
        if self.part_bytes < PART_BYTES_MIN:
            raise Misconfigured(f"parts must have at least {PART_BYTES_MIN} bytes, not {self.part_bytes}")
        if self.prefix:
            try:
                check_key(self.prefix.strip("/"))
            except ValueError as error:
                raise Misconfigured(f"not a prefix for keys: {self.prefix!r}. Allowed are {KEY_ALLOWED}") from error


def _is_bucket(name: str) -> bool:
    """S3's rule for names that may be part of a host's: dots part labels, and none looks like an IPv4 address."""
    if not _BUCKET.fullmatch(name) or _ADDRESS.fullmatch(name):
        return False
    return not any(signs in name for signs in ("..", ".-", "-."))
