"""The bodies and answers of the REST API. The OpenAPI document is made of these models.

Keeps: times are milliseconds since 1970, sizes bytes, rates per second, a segment's id its number in its stream.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

SegmentState = Literal["active", "sealed"]
MoveState = Literal["moving", "moved"]
StreamStatus = Literal["open", "sealed"]
KeyRangeBounds = Annotated[
    tuple[float, float], Field(description="From, and up to but without, as parts of the key space [0, 1)")
]


class ApiModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProblemDocument(ApiModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str


class Health(ApiModel):
    """The process's phase."""

    status: Literal["starting", "recovering", "serving", "stopping", "failed"]


class PartitionOfChunk(ApiModel):
    """Entries of a partition in a chunk."""

    topic: str
    partition: int
    first: int
    end: int
    stream: int
    segment: int
    position: int
    length: int
    entries: int


class ChunkView(ApiModel):
    """An object in long-term storage, and the entries for which the store refers to it."""

    chunk: str = Field(description="The object's key")
    state: str
    bytes: int
    created_ms: int
    runs: list[PartitionOfChunk]


# Streams


class Tiers(ApiModel):
    """Bytes by tier. Bytes that are both in a chunk and in the log count as chunk bytes."""

    log: int = Field(description="In the log alone")
    chunks: int = Field(description="In chunks of long-term storage")


class StreamSummary(ApiModel):
    """A stream in a list."""

    name: str
    state: StreamStatus
    slots: int = Field(description="Kafka partitions")
    epoch: int
    segments: int = Field(description="Active ones")
    appended_bytes: int = Field(description="Ever appended")
    appended_events: int = Field(description="Records ever appended, counted by offsets")
    tiers: Tiers
    rate_bytes: float
    rate_events: float


class StreamList(ApiModel):
    """Streams by name."""

    streams: list[StreamSummary]
    total: int = Field(description="Number of all streams, listed or not")


class Scaling(ApiModel):
    """The rules by which segments split and merge by themselves."""

    policy: str = Field(description="fixed, bytes or events")
    target_rate: float = Field(description="Per segment and second")
    factor: int = Field(description="Maximum number of pieces of one split")
    min_segments: int


class SegmentView(ApiModel):
    """A segment as part of one epoch."""

    id: int
    slots: list[int] = Field(description="In key order")
    key_range: KeyRangeBounds
    state: SegmentState
    container: int = Field(description="The container that has its slots")
    bytes: int = Field(description="Appended to it")
    rate_bytes: float
    rate_events: float


class EpochView(ApiModel):
    """One cut of the key space."""

    epoch: int
    started_ms: int
    reason: str
    segments: list[SegmentView] = Field(description="In key order")


class StreamView(StreamSummary):
    """A stream with the history of its epochs."""

    created_ms: int
    sealed_ms: int | None
    scaling: Scaling
    limits: list[str] = Field(description="Hot segments that cannot split; the last line gives the remedy")
    epochs: list[EpochView] = Field(description="Oldest first")


# The map


class MapSegment(ApiModel):
    """A rectangle of the map: a key range, for a time."""

    id: int
    key_range: KeyRangeBounds
    slots: int
    container: int = Field(description="In which its slots lie")
    node: int | None = Field(description="The node, or worker, that serves it; null: none does now, or it is sealed")
    opened_ms: int
    sealed_ms: int | None = Field(description="null: it is active")
    bytes: int
    rate_bytes: float
    rate_events: float


class StreamMap(ApiModel):
    """The segments of a stream that were active at some time since `since_ms`."""

    name: str
    state: StreamStatus
    sealed_ms: int | None
    time_ms: int = Field(description="The gateway's clock")
    slots: int
    epoch: int
    truncated: bool = Field(description="There were more segments than are listed: the oldest are left out")
    scaling: Scaling
    limits: list[str]
    segments: list[MapSegment]


class SegmentHeat(ApiModel):
    """The loads of a segment in the last hours."""

    id: int
    loads: list[int | None] = Field(
        description="Per second, in bytes or events as the policy counts, the last at end_ms; null: less than 1, or "
        "not among those that the gateway remembers"
    )


class HeatHistory(ApiModel):
    """The loads of a stream's segments, as the gateway remembers them."""

    name: str
    policy: str = Field(description="fixed, bytes or events")
    period_ms: int
    end_ms: int = Field(description="Time of the last sample")
    segments: list[SegmentHeat]


# Changing


class Split(ApiModel):
    """Cut one segment between slots."""

    segment: StrictInt = Field(ge=0)
    at: list[StrictInt] = Field(
        default=[],
        max_length=10_000,
        description="Slots that begin a new segment. None: the cut halves the load, or the slots if there is no load",
    )


class ScaleRequest(ApiModel):
    """Either a split or a merge."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"split": {"segment": 0}}]})

    split: Split | None = None
    merge: list[StrictInt] | None = Field(None, min_length=2, max_length=10_000, description="Neighbouring segments")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.split is None) == (self.merge is None):
            raise ValueError("give either split or merge")
        return self


class Scaled(ApiModel):
    """The result of a scale."""

    name: str
    epoch: int
    sealed: list[int]
    opened: list[int]


class MoveRequest(ApiModel):
    """Move a slot to another container."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"slot": 0, "container": 1}]})

    slot: StrictInt = Field(ge=0, description="A Kafka partition")
    container: StrictInt = Field(ge=0)


class Moving(ApiModel):
    """A move that is carried out, or still under way: then the same request waits for it again."""

    name: str
    slot: int
    container: int
    state: MoveState


class Sealed(ApiModel):
    """A stream that takes no more records."""

    name: str
    state: StreamStatus
    sealed_ms: int


# Groups, events, totals


class GroupTopic(ApiModel):
    """A group's lag on one topic."""

    topic: str
    partitions: int = Field(description="With a committed offset")
    lag: int = Field(description="Records between the committed offsets and the ends")


class GroupView(ApiModel):
    """A group of consumers."""

    name: str
    type: str = Field("classic", description="classic, consumer, streams or share")
    state: str
    members: int
    lag: int
    topics: list[GroupTopic] = Field(description="Those in which it lags most")
    topics_total: int
    coordinator: int = Field(description="The node that coordinates it")


class GroupList(ApiModel):
    """A page of the groups of all kinds."""

    groups: list[GroupView]
    found: int = Field(description="Number of those that the search and the topic fit")
    total: int = Field(description="Number of all groups")
    measured_ms: int = Field(description="Time of the count")
    loading: bool = Field(False, description="Whether some groups are being loaded, and missing here")


class ScaleEventView(ApiModel):
    """One scale of a stream."""

    time_ms: int
    stream: str
    epoch: int
    kind: str = Field(description="split, merge, manual, grown or move")
    reason: str
    sealed: list[int]
    opened: list[int]


class LimitView(ApiModel):
    """A stream whose hot segment has one slot and cannot split."""

    stream: str
    segment: int
    message: str


class EventList(ApiModel):
    """Recent scales, newest first, and streams at their limit."""

    events: list[ScaleEventView]
    limits: list[LimitView]


class Overview(ApiModel):
    """The gateway as a whole. Counters only rise; a reader takes differences."""

    version: str
    cluster_id: str
    phase: str
    time_ms: int
    topics: int
    groups: int
    connections: int
    produced_bytes: int
    produced_records: int
    fetched_bytes: int
    log_bytes: int
    log_limit_bytes: int
    chunk_bytes: int = Field(description="Bytes of the streams that are in chunks")
    long_term: bool = Field(description="There is long-term storage")
    cache_bytes: int
    cache_limit_bytes: int
    events_total: int = Field(description="Scales since the start")


# Records


class Base64(ApiModel):
    """Bytes that are no text, in base64."""

    base64: str


Bytes = Annotated[
    str | Base64 | None, Field(description="Text (UTF-8) as a string, other bytes as base64; null: there is none")
]


class RecordHeader(ApiModel):
    """A record's header."""

    name: str
    value: Bytes = None


class RecordView(ApiModel):
    """A record."""

    offset: int
    timestamp_ms: int = Field(description="-1: it has none")
    key: Bytes
    value: Bytes
    headers: list[RecordHeader]


class RecordPage(ApiModel):
    """A partition's next records."""

    topic: str
    partition: int
    start_offset: int = Field(description="Of the oldest record that is kept")
    end_offset: int = Field(description="Up to which records are readable")
    next_offset: int = Field(description="Give it as offset in the next request")
    records: list[RecordView]


class NewRecord(ApiModel):
    """A record to add."""

    key: Bytes = None
    value: Bytes = None
    headers: list[RecordHeader] = Field(default=[], max_length=1_000)
    timestamp_ms: StrictInt | None = Field(None, ge=0, le=2**53, description="Default: now")


class NewRecords(ApiModel):
    """Records to add as one batch: all or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"records": [{"key": "k1", "value": "paid", "headers": [{"name": "source", "value": "till"}]}]}
            ]
        }
    )

    records: list[NewRecord] = Field(min_length=1, max_length=1_000)


class Added(ApiModel):
    """Records that are durable."""

    topic: str
    partition: int
    first_offset: int
    next_offset: int
