"""Every configuration key of Penstock: type, default, bounds, meaning.

Keeps: a key is named as Kafka names it wherever Kafka has it; its attribute is the key with underscores for dots. The
keys of long-term storage are in `gateway.config.tiering`, those of HTTP in `gateway.config.http`, files of secrets in
`gateway.config.secrets`; `gateway.config.loading` fills and judges the whole.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    PrivateAttr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from core.config import StoreConfig, SyncMode
from gateway.config.addresses import ListenAddress, parse_kafka_listener
from gateway.config.bounds import BoundKeys
from gateway.config.fields import INT_MAX, INT_MIN, LONG_MIN, check_one_line, type_name
from gateway.config.http import HttpKeys
from gateway.config.secrets import SecretFileKeys
from gateway.config.tiering import DAY_MS, GIB, HOUR_MS, LONG_MAX, MIB, TieringKeys
from gateway.network.connection_limits import parse_overrides

IDLE_MS_MIN: Final = 101
"""Kafka delays the answer to a failed authentication by 100 ms, and closes no connection before it."""

_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,20}")
Compression = Literal["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]


def _listener(value: object) -> ListenAddress:
    return value if isinstance(value, ListenAddress) else parse_kafka_listener(str(value))


def _http_address(value: object) -> ListenAddress | None:
    if value is None or isinstance(value, ListenAddress):
        return value
    return None if str(value).strip().lower() == "off" else ListenAddress.parse(str(value))


def _number(value: object) -> object:
    """Text that is a number to Python (1_000, 7.0) is none to Kafka; true and false are never numbers."""
    if isinstance(value, bool) or (isinstance(value, str) and not _DIGITS.fullmatch(value.strip())):
        raise ValueError("not a number")
    return value


Listener = Annotated[ListenAddress, BeforeValidator(_listener)]
HttpAddress = Annotated[ListenAddress | None, PlainValidator(_http_address)]


class Config(BoundKeys, HttpKeys, TieringKeys, SecretFileKeys, BaseSettings):
    """One process's configuration. Made by `load`, told by `describe`."""

    model_config = SettingsConfigDict(
        alias_generator=lambda attribute: attribute.replace("_", "."),
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # it may be a secret
        arbitrary_types_allowed=True,
    )

    # Where it listens and where data lies
    listeners: tuple[Listener, ...] = Field(
        (ListenAddress("localhost", 9092),),
        min_length=1,
        description="Addresses for Kafka clients, HOST:PORT[=ADVERTISED_HOST[:PORT]]. A client is "
        "told the advertised address of the listener that it used. Port 0 picks a free port.",
        json_schema_extra={"allowed": "HOST:PORT[=ADVERTISED_HOST[:PORT]], at least one, separated by commas"},
    )
    http_listen: HttpAddress = Field(
        ListenAddress("localhost", 9094),
        description="Address of the HTTP server: console, REST API, /metrics, /healthz, /readyz.",
        json_schema_extra={"allowed": "HOST:PORT, off"},
    )
    data_dir: Path = Field(Path("data"), description="Directory that holds everything Penstock keeps.")
    node_id: int = Field(1, ge=0, le=INT_MAX, description="The id that clients are told for this broker.")

    # Connections and requests
    max_connections: int = Field(
        10_000, ge=1, le=INT_MAX, description="Connections at a time; further ones are closed."
    )
    max_connections_per_ip: int = Field(
        INT_MAX,
        ge=0,
        le=INT_MAX,
        description="Connections at a time from one address. 0 only with max.connections.per.ip.overrides.",
    )
    max_connections_per_ip_overrides: str = Field(
        "",
        description="Connections at a time from single addresses or hosts, instead of max.connections.per.ip.",
        json_schema_extra={"allowed": "HOST:COUNT, separated by commas"},
    )
    max_connection_creation_rate: int = Field(
        INT_MAX,
        ge=0,
        le=INT_MAX,
        description="Connections a second that are taken, over all listeners; after a quiet time ten seconds' worth at "
        "once. Further ones wait, they are not refused. 0: none is taken.",
    )
    connections_max_idle_ms: int = Field(
        600_000,
        ge=LONG_MIN,
        le=LONG_MAX,
        json_schema_extra={"allowed": f"long from {IDLE_MS_MIN} to {LONG_MAX}, or -1"},
        description="A connection idle for this long is closed; -1 never.",
    )
    connections_first_request_timeout_ms: int = Field(
        60_000,
        ge=1,
        le=INT_MAX,
        description="A connection without a request for this long after it was made is closed.",
    )
    connections_receive_timeout_ms: int = Field(
        30_000,
        ge=1,
        le=INT_MAX,
        description="A connection is closed when the rest of a request does not come for this long.",
    )
    socket_request_max_bytes: int = Field(100 * MIB, ge=1, le=INT_MAX, description="Largest request that is read.")
    fetch_max_bytes: int = Field(
        55 * MIB, ge=1024, le=INT_MAX, description="Largest answer to a fetch, whatever the client asks for."
    )
    max_incremental_fetch_session_cache_slots: int = Field(
        1_000,
        ge=0,
        le=1_000_000,
        description="Fetch sessions kept. One that is idle for two minutes makes room; without, a consumer fetches as "
        "well, and names all of its partitions each time.",
    )
    fetch_session_partitions_max: int = Field(
        500_000,
        ge=0,
        le=INT_MAX,
        description="Partitions of all fetch sessions together, up to 500 bytes each.",
    )
    queued_max_request_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        le=LONG_MAX,
        description="Bound on the bytes of all requests being received or handled; connections are "
        "not read while it is reached.",
    )
    queued_max_response_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        le=LONG_MAX,
        description="Bound on the bytes of all responses that have not left their sockets.",
    )

    # The log
    log_sync_mode: Literal["group", "interval"] = Field(
        "group",
        description="group: a write is synced to disk before it is acknowledged. interval: it is "
        "acknowledged once the operating system has it, and synced every log.sync.interval.ms.",
    )
    log_sync_interval_ms: int = Field(
        50, ge=1, le=HOUR_MS, description="Time between syncs with log.sync.mode=interval."
    )
    log_file_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        le=2 * GIB,
        description="A log file of this size is closed and the next begun.",
    )
    log_file_entries_max: int = Field(
        500_000,
        ge=1_000,
        le=INT_MAX,
        description="Batches in a log file, after which the next is begun: bounds the index of the "
        "open file, 24 bytes a batch.",
    )
    log_cache_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        le=LONG_MAX,
        description="Memory for the newest records, from which reads at the tail are served.",
    )
    log_index_cache_bytes: int = Field(
        32 * MIB, ge=MIB, le=LONG_MAX, description="Memory for the indexes of closed log files."
    )
    log_read_cache_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        le=LONG_MAX,
        description="Memory for what consumers that are behind read from log files, at least 8 MiB.",
    )
    log_reader_threads: int = Field(8, ge=1, le=256, description="Threads that read records from log files.")
    checkpoint_interval_ms: int = Field(
        10_000,
        ge=100,
        le=DAY_MS,
        description="Longest time between checkpoints while there is something to save.",
    )
    checkpoint_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        le=LONG_MAX,
        description="Log written since the last checkpoint that starts the next.",
    )
    rocksdb_cache_bytes: int = Field(8 * MIB, ge=MIB, le=LONG_MAX, description="RocksDB's block cache.")
    rocksdb_write_buffer_bytes: int = Field(8 * MIB, ge=MIB, le=GIB, description="RocksDB's write buffer.")

    # Topics
    num_partitions: int = Field(
        16,
        ge=1,
        le=100_000,
        description="Partitions of a new topic where its creator names no number.",
    )
    default_replication_factor: int = Field(
        1,
        ge=1,
        le=32_767,
        description="Accepted for Kafka's tools; a topic is always shown with one replica.",
    )
    auto_create_topics_enable: bool = Field(True, description="A topic is created when a client first asks for it.")
    delete_topic_enable: bool = Field(True, description="Topics may be deleted.")
    message_max_bytes: int = Field(
        MIB + 12, ge=0, le=INT_MAX, description="Largest record batch, compressed as it was sent."
    )
    compression_type: Compression = Field(
        "producer", description="Codec of new topics' batches; producer keeps what was sent."
    )
    log_cleanup_policy: str = Field(
        "delete",
        pattern=r"^\s*((delete|compact)(\s*,\s*(delete|compact))*)?\s*$",
        description="What happens to old records of topics that do not say.",
        json_schema_extra={"allowed": "delete, compact, or both with a comma; empty: everything is kept"},
    )
    log_retention_ms: int | None = Field(
        None,
        ge=LONG_MIN,
        le=LONG_MAX,
        json_schema_extra={"allowed": f"long from 1 to {LONG_MAX}, or -1"},
        description="Age at which records go; -1 never. Set, it wins over minutes and hours.",
    )
    log_retention_minutes: int | None = Field(
        None,
        ge=INT_MIN,
        le=INT_MAX,
        json_schema_extra={"allowed": f"int from 1 to {INT_MAX}, or -1"},
        description="Age at which records go, in minutes. Set, it wins over hours.",
    )
    log_retention_hours: int = Field(
        168,
        ge=INT_MIN,
        le=INT_MAX,
        json_schema_extra={"allowed": f"int from 1 to {INT_MAX}, or -1"},
        description="Age at which records go, in hours; -1 never.",
    )
    log_retention_bytes: int = Field(
        -1,
        ge=LONG_MIN,
        le=LONG_MAX,
        json_schema_extra={"allowed": f"long from -1 to {LONG_MAX}"},
        description="Size of a partition from which its oldest records go; -1 unbounded.",
    )
    log_retention_check_interval_ms: int = Field(
        300_000, ge=1, le=LONG_MAX, description="Time between two rounds of retention."
    )
    log_message_timestamp_type: Literal["CreateTime", "LogAppendTime"] = Field(
        "CreateTime", description="Whose clock stamps records: the producer's or the broker's."
    )
    log_message_timestamp_before_max_ms: int = Field(
        LONG_MAX, ge=0, le=LONG_MAX, description="How far a record's timestamp may lie in the past."
    )
    log_message_timestamp_after_max_ms: int = Field(
        HOUR_MS,
        ge=0,
        le=LONG_MAX,
        description="How far a record's timestamp may lie in the future.",
    )

    # Scaling
    scaling_policy: Literal["fixed", "bytes", "events"] = Field(
        "bytes",
        description="What makes a topic's segments split and merge, where it does not say: the bytes or the events "
        "that a segment gets a second, or nothing.",
    )
    scaling_target_rate: int = Field(
        0,
        ge=0,
        le=LONG_MAX,
        description="What one segment should get a second, in bytes or events; 0: 8388608 bytes, 10000 events.",
    )
    scaling_factor: int = Field(
        4, ge=2, le=1_000, description="Into how many segments at most one split cuts a segment."
    )
    scaling_min_segments: int = Field(
        1, ge=1, le=100_000, description="Segments that a topic begins with, and below which it does not merge."
    )
    scaler_sample_ms: int = Field(
        1_000, ge=100, le=INT_MAX, description="How often the rates of partitions are taken, for scaler and metrics."
    )
    scaler_time_factor: float = Field(
        1.0,
        ge=0.001,
        le=1_000.0,
        description="Multiplies all times of the scaler: its windows of 2, 5, 10 and 20 minutes, and the 10 minutes "
        "for which it leaves a new segment alone. 0.01 shows it in seconds.",
    )

    # Producers
    producer_id_expiration_ms: int = Field(
        DAY_MS,
        ge=1,
        le=INT_MAX,
        description="A producer id that wrote nothing for this long is forgotten.",
    )

    # Transactions
    transaction_max_timeout_ms: int = Field(
        900_000, ge=1, le=INT_MAX, description="Longest time-out that a transactional producer may ask for."
    )
    transactional_id_expiration_ms: int = Field(
        7 * DAY_MS,
        ge=1,
        le=INT_MAX,
        description="A transactional id that nobody used for this long is forgotten.",
    )
    transaction_abort_timed_out_transaction_cleanup_interval_ms: int = Field(
        10_000,
        ge=1,
        le=INT_MAX,
        description="Time between two searches for transactions that took longer than their time-out.",
    )
    transaction_remove_expired_transaction_cleanup_interval_ms: int = Field(
        3_600_000, ge=1, le=INT_MAX, description="Time between two searches for transactional ids to forget."
    )

    # Consumer groups
    group_initial_rebalance_delay_ms: int = Field(
        3_000,
        ge=0,
        le=INT_MAX,
        description="How long the first rebalance of an empty group waits for more members.",
    )
    group_min_session_timeout_ms: int = Field(
        6_000, ge=1, le=INT_MAX, description="Shortest session time-out that a member may ask for."
    )
    group_max_session_timeout_ms: int = Field(
        1_800_000,
        ge=1,
        le=INT_MAX,
        description="Longest session time-out that a member may ask for.",
    )
    group_max_size: int = Field(INT_MAX, ge=1, le=INT_MAX, description="Members that a group may have.")
    offset_metadata_max_bytes: int = Field(
        4_096,
        ge=0,
        le=INT_MAX,
        description="Longest metadata that a consumer may commit with an offset.",
    )
    offsets_retention_minutes: int = Field(
        10_080,
        ge=1,
        le=INT_MAX,
        description="Committed offsets go this long after their group became empty.",
    )
    offsets_retention_check_interval_ms: int = Field(
        600_000, ge=1, le=LONG_MAX, description="Time between two searches for expired offsets."
    )

    # What it says
    logging_format: Literal["text", "json"] = Field("text", description="Form of the log lines on stderr.")
    logging_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def retention_ms(self) -> int:
        """Kafka's precedence: milliseconds over minutes over hours; negative is for ever."""
        if self.log_retention_ms is not None:
            return max(self.log_retention_ms, -1)
        if self.log_retention_minutes is not None:
            return max(self.log_retention_minutes * 60_000, -1)
        return max(self.log_retention_hours * HOUR_MS, -1)

    def store_config(self) -> StoreConfig:
        """The part of it that the store needs, in the store's own names."""
        return StoreConfig(
            sync_mode=SyncMode(self.log_sync_mode),
            sync_interval_ms=self.log_sync_interval_ms,
            log_file_bytes=self.log_file_bytes,
            log_file_entries_max=self.log_file_entries_max,
            cache_bytes=self.log_cache_bytes,
            index_cache_bytes=self.log_index_cache_bytes,
            log_read_cache_bytes=self.log_read_cache_bytes,
            checkpoint_interval_ms=self.checkpoint_interval_ms,
            checkpoint_log_bytes=self.checkpoint_bytes,
            retention_check_interval_ms=self.log_retention_check_interval_ms,
            writer_expiration_ms=self.producer_id_expiration_ms,
            writers_max=self.producer_states_max,
            log_reader_threads=self.log_reader_threads,
            scaler_sample_ms=self.scaler_sample_ms,
            scaler_time_factor=self.scaler_time_factor,
            rocksdb_cache_bytes=self.rocksdb_cache_bytes,
            rocksdb_write_buffer_bytes=self.rocksdb_write_buffer_bytes,
            chunk_bytes=self.chunk_bytes,
            chunk_age_ms=self.chunk_age_ms,
            log_max_bytes=self.log_max_bytes,
            tier2_uploads=self.tier2_uploads,
            tier2_verify_delay_ms=self.tier2_verify_delay_ms,
            tier2_abandoned_ms=self.tier2_abandoned_ms,
            tier2_snapshot_interval_ms=self.tier2_snapshot_interval_ms,
            tier2_scrub_interval_ms=self.tier2_scrub_interval_ms,
            file_delete_delay_ms=self.file_delete_delay_ms,
            rewrite_interval_ms=self.rewrite_interval_ms,
            tier2_cache_bytes=self.tier2_cache_bytes,
            tier2_disk_cache_bytes=self.tier2_disk_cache_bytes,
            tier2_read_ahead_bytes=self.tier2_read_ahead_bytes,
        )

    def source_of(self, key: str) -> str:
        """Where a key's value came from."""
        return self._sources.get(key, "default")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `gateway.config.loading.load` hands over: it reads the layers, to remember each value's source."""
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _from_text(cls, value: object, info: ValidationInfo) -> object:
        """Text is in one line, lists may be written with commas; numbers and truth values as Kafka reads them."""
        assert info.field_name is not None
        name = type_name(cls.model_fields[info.field_name])
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, str | Path):
                check_one_line(str(item))
        if name == "password" and isinstance(value, str) and not value.isascii():
            raise ValueError("it holds characters that no header of a request can carry")
        if name == "list" and isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        if name in ("int", "long"):
            return _number(value)
        if name == "boolean" and isinstance(value, str) and value.strip().lower() not in ("true", "false"):
            raise ValueError("neither true nor false")
        return value

    @field_validator("max_connections_per_ip_overrides")
    @classmethod
    def _hosts_with_counts(cls, value: str) -> str:
        parse_overrides(value)
        return value

    @field_validator("logging_level", "logging_format", "log_sync_mode", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value
