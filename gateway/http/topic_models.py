"""The API's models of topics as an operator sees them: a list to search, partitions, configuration.

Keeps: as in `gateway.http.models`.
"""

from __future__ import annotations

from pydantic import ConfigDict, Field

from gateway.http.models import ApiModel, StreamStatus


class TopicRow(ApiModel):
    """A topic in a list."""

    name: str
    state: StreamStatus
    partitions: int
    segments: int = Field(description="Active ones")
    bytes: int = Field(description="Kept, in the log and in chunks")
    rate_bytes: float
    rate_events: float
    retention_ms: int = Field(description="-1: records do not age")
    retention_bytes: int = Field(description="Of each partition; -1: any size")
    compacted: bool
    groups: int = Field(description="Consumer groups with a committed offset in it")


class TopicList(ApiModel):
    """A page of the topics."""

    topics: list[TopicRow]
    found: int = Field(description="Number of those that the search fits")
    total: int = Field(description="Number of all topics")
    truncated: bool = Field(description="More topics were found than are sorted together; search for fewer")


class PartitionRow(ApiModel):
    """A partition. What is null is not known to the node that was asked."""

    partition: int
    segment: int | None = Field(description="The one that owns it now")
    start_offset: int | None = Field(description="Of the oldest record that is kept")
    end_offset: int | None
    stable_offset: int | None = Field(description="No open transaction lies before it")
    bytes: int | None = Field(description="Kept, in the log and in chunks")
    chunk_bytes: int | None = Field(description="Of these, in chunks")
    here: bool = Field(description="This node serves it")


class PartitionList(ApiModel):
    """A topic's partitions by number."""

    topic: str
    partitions: list[PartitionRow]
    total: int


class ConfigRow(ApiModel):
    """One configuration of a topic."""

    name: str
    value: str | None
    inherited: str = Field(description="Its value without one of the topic's own")
    source: str = Field(description="topic, node, cluster, static or default")
    type: str
    doc: str


class ConfigList(ApiModel):
    """All configurations of a topic."""

    topic: str
    configs: list[ConfigRow]


class ConfigChange(ApiModel):
    """A change of a topic's configuration: as a whole, or not at all."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"set": {"retention.ms": "604800000"}, "dry_run": True}]})

    set: dict[str, str] = Field(default={}, max_length=100)
    reset: list[str] = Field(default=[], max_length=100, description="Those that go back to the inherited value")
    dry_run: bool = Field(default=False, description="Only check it")
