"""The API's models of one group: members, positions, lag and its history, and the moving of offsets.

Keeps: as in `gateway.http.models`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, StrictInt, model_validator

from gateway.http.models import ApiModel


class MemberView(ApiModel):
    """A member."""

    id: str
    client_id: str
    host: str
    instance_id: str | None
    partitions: dict[str, list[int]] = Field(description="Assigned ones, by topic; of a thousand at most")
    count: int = Field(description="Number of all assigned partitions")


class GroupPartition(ApiModel):
    """A group's position in a partition."""

    topic: str
    partition: int
    offset: int = Field(description="The next record to read")
    start_offset: int | None = Field(description="null: its node did not tell")
    end_offset: int | None
    lag: int


class GroupDetail(ApiModel):
    """One group."""

    name: str
    type: str = Field(description="classic, consumer, streams or share")
    state: str
    coordinator: int = Field(description="The node that coordinates it")
    epoch: int = Field(description="Of a classic group: its generation")
    protocol: str = Field(description="By which partitions are assigned; empty while there is none")
    lag: int
    members: list[MemberView]
    members_total: int
    partitions: list[GroupPartition] = Field(description="Those that lag most first")
    partitions_total: int
    measured_ms: int


class LagHistory(ApiModel):
    """A group's lag in the last hour, as the gateway remembers it."""

    group: str
    period_ms: int
    end_ms: int = Field(description="Time of the last sample")
    lags: list[int | None] = Field(description="Oldest first; null: not measured then")


class OffsetsMove(ApiModel):
    """Where a group without members shall go on reading."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "earliest", "topic": "orders", "dry_run": True}]})

    to: Literal["earliest", "latest", "offset", "time", "shift"]
    value: StrictInt | None = Field(
        None, ge=-(2**53), le=2**53, description="Offset, milliseconds since 1970, or shift"
    )
    topic: str | None = Field(None, description="Default: every topic in which it has an offset")
    partitions: list[StrictInt] | None = Field(
        None, max_length=1_000, description="Default: those in which it has an offset; of a topic it never read, all"
    )
    dry_run: bool = Field(True, description="Only tell what would be done")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.value is None) != (self.to in ("earliest", "latest")):
            raise ValueError(f"to={self.to} goes {'with' if self.value is None else 'without'} a value")
        if self.to in ("offset", "time") and (self.value or 0) < 0:
            raise ValueError("value is 0 or more")
        if self.partitions is not None and self.topic is None:
            raise ValueError("partitions need a topic")
        return self


class MovedOffset(ApiModel):
    """One partition's position, before and after."""

    topic: str
    partition: int
    before: int | None = Field(description="null: it had none")
    after: int
    lag: int = Field(description="Afterwards")


class OffsetsMoved(ApiModel):
    """What a move does, or has done."""

    group: str
    dry_run: bool
    offsets: list[MovedOffset]
