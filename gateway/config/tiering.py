"""The configuration keys of long-term storage: its place, its credentials, its bounds.

Keeps: a secret is a `SecretStr` as soon as it is read, so that no repr, message or listing shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field, PlainValidator, SecretStr

from gateway.config.fields import INT_MAX, LONG_MAX
from gateway.config.places import TIER2_DIRECTORY
from gateway.config.units import DAY_MS, GIB, HOUR_MS, KIB, MIB, SECOND_MS


@dataclass(frozen=True, slots=True)
class Bucket:
    """`s3://BUCKET/PREFIX`"""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


@dataclass(frozen=True, slots=True)
class Directory:
    """`file:PATH`, or `file` for one below the data directory."""

    path: Path | None = None

    def __str__(self) -> str:
        return "file" if self.path is None else f"file:{self.path}"

    def below(self, data_dir: Path) -> Path:
        """The directory itself."""
        return (data_dir / TIER2_DIRECTORY if self.path is None else self.path).absolute()


Place: TypeAlias = Bucket | Directory | Literal["off"]


def _place(value: object) -> Place:
    if isinstance(value, Bucket | Directory):
        return value
    text = str(value).strip()
    if text.lower() == "off":
        return "off"
    if text.lower() == "file":
        return Directory()
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() == "file" and rest.removeprefix("//"):
        return Directory(Path(rest.removeprefix("//")))
    if colon and scheme.lower() == "s3" and rest.startswith("//"):
        bucket, _, prefix = rest.removeprefix("//").partition("/")
        if bucket:
            return Bucket(bucket, prefix.strip("/"))
    raise ValueError("it names no place")


class TieringKeys(BaseModel):
    """Keys that have no effect with `tier2 = off`, but must be valid even then."""

    # Long-term storage: place and credentials
    tier2: Annotated[Place, PlainValidator(_place)] = Field(
        Directory(),
        description="Place of the log's sealed chunks. s3://BUCKET/PREFIX: MinIO or any other store that speaks S3, "
        "at tier2.endpoint. file:PATH: a directory; file: the directory tier2 below data.dir. off: the log keeps "
        "everything.",
        json_schema_extra={"allowed": "s3://BUCKET, s3://BUCKET/PREFIX, file, file:PATH, off"},
    )
    tier2_endpoint: str | None = Field(
        None,
        description="http(s)://HOST[:PORT] of the S3 store; https is TLS. Not set: Amazon's for tier2.region.",
        json_schema_extra={"allowed": "http://HOST[:PORT], https://HOST[:PORT]"},
    )
    tier2_region: str | None = Field(
        None,
        description="Region of the bucket. Not set: AWS_REGION, then AWS_DEFAULT_REGION, else the store is asked.",
    )
    tier2_access_key: SecretStr | None = Field(
        None,
        description="Access key of the S3 store. Key and secret are looked for as a pair, and the first place that "
        "has one wins: tier2.access.key with tier2.secret.key; tier2.credentials.file; AWS_ACCESS_KEY_ID with "
        "AWS_SECRET_ACCESS_KEY and, if set, AWS_SESSION_TOKEN.",
    )
    tier2_secret_key: SecretStr | None = Field(
        None, description="Secret that belongs to tier2.access.key. It is never shown or logged."
    )
    tier2_credentials_file: Path | None = Field(
        None,
        description="File with aws_access_key_id, aws_secret_access_key and perhaps aws_session_token in section "
        "[penstock] or [default], as the aws command keeps it.",
    )
    tier2_ca_file: Path | None = Field(
        None,
        description="Certificates (PEM) that vouch for an https endpoint. Not set: SSL_CERT_FILE, else the usual ones.",
    )
    tier2_sse: Literal["none", "s3", "kms"] = Field(
        "none",
        description="Encryption of objects by the S3 store that keeps them: s3 with its own keys (SSE-S3), kms with "
        "one of its key management service (SSE-KMS).",
    )
    tier2_sse_kms_key_id: str | None = Field(
        None,
        min_length=1,
        max_length=2_048,
        description="Id of the key for tier2.sse = kms. Not set: the key that the bucket or the store names.",
    )

    # Long-term storage: patience and width
    tier2_start_timeout_ms: int = Field(
        30 * SECOND_MS,
        ge=0,
        le=HOUR_MS,
        description="Longest time that a start waits for a storage that is unreachable or starting.",
    )
    tier2_connect_timeout_ms: int = Field(
        5 * SECOND_MS, ge=1, le=HOUR_MS, description="Longest time to connect to the S3 store."
    )
    tier2_io_timeout_ms: int = Field(
        30 * SECOND_MS,
        ge=1,
        le=HOUR_MS,
        description="Longest silence of the S3 store while Penstock waits for an answer or for room to send.",
    )
    tier2_read_timeout_ms: int = Field(30 * SECOND_MS, ge=1, le=HOUR_MS, description="Longest time of one try to read.")
    tier2_write_timeout_ms: int = Field(
        120 * SECOND_MS, ge=1, le=HOUR_MS, description="Longest time of one try to write an object."
    )
    tier2_readers: int = Field(8, ge=8, le=256, description="Threads that read from long-term storage.")
    tier2_uploads: int = Field(
        4, ge=1, le=64, description="Objects that are uploaded at a time; each may hold 40 MiB of memory."
    )

    # What is moved, and when
    chunk_bytes: int = Field(
        32 * MIB,
        ge=64 * KIB,
        le=GIB,
        description="Bytes of a segment in the log at which they are moved to long-term storage.",
    )
    chunk_age_ms: int = Field(
        300 * SECOND_MS,
        ge=100,
        le=7 * DAY_MS,
        description="Age of a segment's oldest byte in the log at which its bytes are moved to long-term storage, "
        "however few they are.",
    )
    log_max_bytes: int = Field(
        4 * GIB,
        ge=4 * MIB,
        le=LONG_MAX,
        description="Bound on the log while long-term storage takes too little: producers are slowed "
        "down below the bound, and refused at it until there is room.",
    )
    tier2_verify_delay_ms: int = Field(
        30 * SECOND_MS,
        ge=0,
        le=DAY_MS,
        description="Wait before the second look at a chunk's object, after which the log behind it is released: a "
        "store may lose an object in a power cut that it has just acknowledged.",
    )
    tier2_snapshot_interval_ms: int = Field(
        60 * SECOND_MS,
        ge=100,
        le=DAY_MS,
        description="Time between snapshots of the metadata in long-term storage, from which `penstock recover` "
        "starts; group offsets that were committed since are not recovered.",
    )
    tier2_abandoned_ms: int = Field(
        HOUR_MS,
        ge=0,
        le=DAY_MS,
        description="Time after a crash in which an upload that was under way may still arrive, to be swept.",
    )
    file_delete_delay_ms: int = Field(
        60 * SECOND_MS,
        ge=0,
        le=DAY_MS,
        description="Time that an object in long-term storage stays after nothing refers to it any more.",
    )

    tier2_scrub_interval_ms: int = Field(
        7 * DAY_MS,
        ge=0,
        le=LONG_MAX,
        description="Time between two passes in which everything in long-term storage is read and checked, 8 MiB a "
        "second at most; damage is logged and counted. 0: none.",
    )
    rewrite_interval_ms: int = Field(
        15 * SECOND_MS,
        ge=10,
        le=DAY_MS,
        description="Time between two looks for chunks that are worth rewriting: small ones, compacted topics, "
        "mostly dead ones.",
    )

    # Reading back
    tier2_cache_bytes: int = Field(
        64 * MIB, ge=MIB, le=LONG_MAX, description="Memory for blocks that were read from long-term storage."
    )
    tier2_disk_cache_bytes: int = Field(
        0,
        ge=0,
        le=LONG_MAX,
        description="Disk below data.dir for blocks that were read from long-term storage; 0: none.",
    )
    tier2_read_ahead_bytes: int = Field(
        24 * MIB,
        ge=0,
        le=INT_MAX,
        description="Bytes that are read ahead for a sequential reader; 0: none.",
    )
