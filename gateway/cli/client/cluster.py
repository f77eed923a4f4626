"""What the tools ask of a Kafka cluster, whoever speaks the protocol for them.

Keeps: the tools know these names alone, and no client library. Every method raises `Refused` with a message that says
what the cluster refused and why; offsets are of records, sizes bytes, times milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

Edge = Literal["start", "end"]
ConfigKind = Literal["topic", "broker", "group", "client-metrics"]


class PartitionId(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as Metadata tells; `leader` is -1 if there is none."""

    id: int
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as Metadata tells."""

    name: str
    internal: bool
    partitions: tuple[Partition, ...]

    @property
    def replication(self) -> int:
        return max((len(one.replicas) for one in self.partitions), default=0)

    @property
    def ids(self) -> list[PartitionId]:
        return [PartitionId(self.name, one.id) for one in self.partitions]


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """One key; `source` is Kafka's name of it, such as DYNAMIC_TOPIC_CONFIG. `value` is None for a secret."""

    key: str
    value: str | None
    source: str
    read_only: bool
    secret: bool

    @property
    def origin(self) -> str:
        """The source in words."""
        return self.source.lower().replace("_", " ").removesuffix(" config")

    @property
    def changed(self) -> bool:
        return self.source != "DEFAULT_CONFIG"


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """A group as ListGroups tells; its kind is that of its protocol: classic, consumer, share or streams."""

    name: str
    state: str
    kind: str

    @property
    def is_share(self) -> bool:
        return self.kind.lower() == "share"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a group, with its partitions; one of a streams group has tasks, by their role."""

    id: str
    client: str
    host: str
    partitions: tuple[PartitionId, ...]
    tasks: Mapping[str, Sequence[str]] = field(default_factory=dict)


class SharePosition(NamedTuple):
    """Where a share group's open records of a partition begin, and how many there are; -1 if the broker knows not."""

    start: int
    lag: int


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker with the address that clients get, or got: a fenced one is known to the cluster and serves nothing."""

    id: int
    host: str
    port: int
    rack: str | None
    fenced: bool


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """The cluster as DescribeCluster tells."""

    id: str
    controller: int
    brokers: tuple[Broker, ...]


@dataclass(frozen=True, slots=True)
class Acl:
    """A right, or as a filter the rights that match; words as in Kafka, in small letters. None matches all."""

    principal: str | None = None
    host: str | None = None
    operation: str = "any"
    permission: str = "any"
    resource: str = "any"
    name: str | None = None
    pattern: str = "any"


@dataclass(frozen=True, slots=True)
class ScramUser:
    """A user with its SCRAM mechanisms and their iterations."""

    name: str
    mechanisms: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Quota:
    """The quotas of one entity, such as {"user": "ann"}; the name None stands for the default."""

    entity: Mapping[str, str | None]
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to write; partition and timestamp None are for the client to choose."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = field(default_factory=tuple)
    partition: int | None = None
    timestamp_ms: int | None = None


class Writer(Protocol):
    """Writes records to one topic. `write` returns once there is room; `flush` raises Refused if one was refused."""

    def write(self, record: NewRecord) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Reader(Protocol):
    """Reads records of partitions, each in order."""

    def poll(self, timeout_ms: int) -> list[Record]: ...

    def position(self, partition: PartitionId) -> int: ...

    def pause(self, partition: PartitionId) -> None: ...

    def commit(self, offsets: Mapping[PartitionId, int]) -> None: ...

    def close(self) -> None: ...


class Cluster(Protocol):
    """A cluster of Kafka's protocol."""

    def info(self) -> ClusterInfo: ...

    def topics(self, names: Sequence[str] | None = None) -> list[Topic]: ...

    def find_topics(self, names: Sequence[str]) -> tuple[list[Topic], dict[str, str]]:
        """Those that are there, and why others are not shown, by their names."""
        ...

    def sizes(self) -> dict[PartitionId, int]: ...

    def offsets(self, partitions: Sequence[PartitionId], at: Edge | int) -> dict[PartitionId, int]:
        """The first or next offset, or the first at or after a time; -1 if there is none."""
        ...

    def create_topic(
        self, name: str, partitions: int, replication: int, configs: Mapping[str, str], *, dry_run: bool
    ) -> None: ...

    def delete_topics(self, names: Sequence[str]) -> dict[str, str]:
        """Returns why some were refused, by their names."""
        ...

    def grow_topic(self, name: str, partitions: int) -> None: ...

    def configs(self, kind: ConfigKind, name: str) -> list[ConfigEntry]: ...

    def configs_of(self, kind: ConfigKind, names: Sequence[str]) -> dict[str, list[ConfigEntry]]:
        """Of several, by name; brokers are asked one by one."""
        ...

    def alter_configs(self, kind: ConfigKind, name: str, changes: Mapping[str, str | None], *, dry_run: bool) -> None:
        """Set keys; those with None go back to their default."""
        ...

    def groups(self) -> list[GroupSummary]: ...

    def members(self, group: GroupSummary) -> list[Member]: ...

    def group_offsets(self, group: str) -> dict[PartitionId, int]: ...

    def share_positions(self, group: str) -> dict[PartitionId, SharePosition]: ...

    def set_group_offsets(self, group: str, offsets: Mapping[PartitionId, int]) -> dict[PartitionId, str]:
        """Returns why some were refused, by their partitions."""
        ...

    def delete_groups(self, names: Sequence[str]) -> dict[str, str]:
        """Returns why some were refused, by their names."""
        ...

    def acls(self, matching: Acl) -> list[Acl]: ...

    def add_acl(self, acl: Acl) -> None: ...

    def delete_acls(self, matching: Acl) -> tuple[list[Acl], dict[Acl, str]]:
        """Returns those that are gone, and why others are not."""
        ...

    def users(self) -> list[ScramUser]: ...

    def set_user(self, name: str, mechanism: str, password: str, iterations: int) -> None: ...

    def delete_user(self, name: str, mechanism: str) -> None: ...

    def quotas(self) -> list[Quota]: ...

    def set_quotas(self, entity: Mapping[str, str | None], values: Mapping[str, float | None]) -> None: ...

    def writer(self, topic: str, *, compression: str | None, acks: str) -> Writer: ...

    def reader(self, positions: Mapping[PartitionId, int], *, committed: bool) -> Reader: ...

    def group_reader(self, topics: Sequence[str], group: str, *, committed: bool, from_start: bool) -> Reader: ...

    def close(self) -> None: ...


def counted(number: int, thing: str) -> str:
    """`1 record`, `2 records`"""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
