"""One process's configuration: every section's keys in one immutable value.

Keeps: a key that Kafka has is named as in Kafka; its attribute is the key with underscores for dots. A key is a field,
with type, default, bounds and meaning, of its section's module beside this one (`gateway.config.listeners`, `.log`,
`.topics`, ...); `gateway.config.loading` fills and judges the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from core.config import LogStore, StoreConfig, SyncMode
from gateway.config.addresses import ListenAddress
from gateway.config.audit import AuditKeys
from gateway.config.authorizer import AuthorizerKeys
from gateway.config.bounds import BoundKeys
from gateway.config.cluster import ClusterKeys
from gateway.config.containers import ContainerKeys
from gateway.config.delegation import DelegationKeys
from gateway.config.fields import from_text
from gateway.config.groups import GroupKeys
from gateway.config.http import HttpKeys
from gateway.config.listeners import ListenerKeys
from gateway.config.log import LogKeys
from gateway.config.logs import LogLineKeys
from gateway.config.machine import default_cache_bytes
from gateway.config.scaling import ScalingKeys
from gateway.config.secrets import SecretFileKeys
from gateway.config.security import ListenerSecurity, SecurityKeys, SecurityProtocol, parse_protocols
from gateway.config.share_groups import ShareGroupKeys
from gateway.config.tiering import TieringKeys
from gateway.config.topics import TopicKeys
from gateway.config.transactions import TransactionKeys


class Config(
    # `penstock config` lists sections from the last to the first: that is how pydantic collects them.
    LogLineKeys,
    AuditKeys,
    AuthorizerKeys,
    ShareGroupKeys,
    DelegationKeys,
    GroupKeys,
    TransactionKeys,
    ScalingKeys,
    TopicKeys,
    LogKeys,
    SecurityKeys,
    ClusterKeys,
    ContainerKeys,
    ListenerKeys,
    BoundKeys,
    HttpKeys,
    TieringKeys,
    SecretFileKeys,
    BaseSettings,
):
    """One process's configuration. `load` makes it, `describe` lists it."""

    model_config = SettingsConfigDict(
        alias_generator=lambda attribute: attribute.replace("_", "."),
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # it may be a secret
        arbitrary_types_allowed=True,
    )

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _provided: tuple[Path, ...] = PrivateAttr(default=())  # files that values were taken from
    _own_keys: Mapping[str, ListenerSecurity] = PrivateAttr(default_factory=dict)  # by listener

    @property
    def kafka_listeners(self) -> tuple[ListenAddress, ...]:
        """The listeners, with the addresses that `advertised.listeners` gives them."""
        told = {address.name: address for address in self.advertised_listeners}
        return tuple(one.advertising(told[one.name]) if one.name in told else one for one in self.listeners)

    def listeners_of(self, worker: int) -> tuple[ListenAddress, ...]:
        """The listeners of one of several workers; 0 is the first."""
        return tuple(one.of_worker(worker, self.http_listen) for one in self.kafka_listeners)

    def protocol_of(self, listener: str) -> SecurityProtocol | None:
        """What a listener's name means; None if nothing says it."""
        named = parse_protocols(self.listener_security_protocol_map).get(listener)
        return named or SecurityProtocol.__members__.get(listener)

    def security_of(self, listener: str) -> ListenerSecurity:
        """The keys of one listener."""
        return self._own_keys.get(listener) or ListenerSecurity.of(self, {})

    def store_config(self) -> StoreConfig:
        """The store's part of the configuration, in the store's own names."""
        return StoreConfig(
            log_store=LogStore(self.log_store),
            log_object_linger_ms=self.log_object_linger_ms,
            log_object_inflight=self.log_object_inflight,
            sync_mode=SyncMode(self.log_sync_mode),
            sync_interval_ms=self.log_sync_interval_ms,
            log_file_bytes=self.log_file_bytes,
            log_file_entries_max=self.log_file_entries_max,
            cache_bytes=default_cache_bytes() if self.log_cache_bytes < 0 else self.log_cache_bytes,
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
        """The source of a key's value."""
        return self._sources.get(key, "default")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only the values from `gateway.config.loading.load`, which reads the layers and remembers each source."""
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _from_text(cls, value: object, info: ValidationInfo) -> object:
        """Read text as `gateway.config.fields.from_text` says."""
        assert info.field_name is not None
        return from_text(info.field_name, cls.model_fields[info.field_name], value)

    @field_validator("workers", mode="before")
    @classmethod
    def _as_many_as_processors(cls, value: object) -> object:
        """Here and not beside the key: what is defined last is asked first, before the text must be a number."""
        return 0 if isinstance(value, str) and value.strip().lower() == "auto" else value

    @field_validator("logging_level", "logging_format", "log_sync_mode", "log_store", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value
