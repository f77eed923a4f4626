"""The API's models of how the gateway is: logs, long-term storage, disks, failures, warnings.

Keeps: as in `gateway.http.models`.
"""

from __future__ import annotations

from pydantic import Field

from gateway.http.models import ApiModel


class PinView(ApiModel):
    """A partition that holds back bytes in the durable log."""

    topic: str
    partition: int
    reason: str
    bytes: int


class LogHealth(ApiModel):
    """The durable log of one container, and its way to long-term storage."""

    container: int
    log_bytes: int
    log_limit_bytes: int
    held_bytes: int = Field(description="Behind open transactions or damage, as of the last look")
    pins: list[PinView] = Field(description="What holds back most")
    held_up_s: float = Field(description="Time by which a producer is held up now")
    long_term: bool
    untiered_bytes: int = Field(description="In no chunk yet")
    storage_full: bool = Field(description="Long-term storage had no room for the last put")
    put_failures: int = Field(description="Uploads that had to start over, since the start")
    snapshot_age_s: float | None = Field(description="Since the last snapshot; null: none since the start")
    snapshot_failures: int


class DiskView(ApiModel):
    """A disk of the store."""

    path: str
    size_bytes: int
    free_bytes: int


class FailedRequests(ApiModel):
    """Requests of one of Kafka's APIs whose handler failed."""

    api: int = Field(description="Kafka's number of it")
    count: int


class HealthReport(ApiModel):
    """How the gateway is."""

    time_ms: int
    concerns: list[str] = Field(description="As /readyz tells them")
    logs: list[LogHealth]
    disks: list[DiskView]
    failed_requests: list[FailedRequests] = Field(description="Since the start")


class WarningView(ApiModel):
    """A line of the log."""

    time_ms: int
    level: str
    text: str


class WarningList(ApiModel):
    """The last warnings and errors, newest first."""

    warnings: list[WarningView]
    total: int = Field(description="Of all since the start")


class ThroughputHistory(ApiModel):
    """What came and went in the last minutes, as the gateway remembers it."""

    period_ms: int
    end_ms: int = Field(description="Time of the last sample")
    bytes_in: list[int] = Field(description="In each period, oldest first")
    bytes_out: list[int]
    records_in: list[int]
