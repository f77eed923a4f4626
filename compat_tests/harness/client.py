"""A client library as scenarios see it: the same words for all of them, plus a table of what each can do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from compat_tests.harness.agent import AgentProcess
from compat_tests.harness.records import Partition, Produced, Record, Refused, Stored

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3
EARLIEST_LOCAL: Final = -4  # the first offset that the log holds; older ones are in long-term storage
LATEST_TIERED: Final = -5  # the last offset in long-term storage

ALL: Final = frozenset(
    {
        "assign",  # read partitions without a group
        "notes",  # see the metadata that was committed with an offset
        "timestamp types",
        "config sources",  # tell a value that was set from a default
        "default counts",  # create a topic with -1 partitions and -1 replicas
        "newest errors",  # know Kafka's error numbers up to today's
        "nothing at all",  # send a record with neither key nor value
        "null headers",
        "max timestamp",
        "tier offsets",  # ask where the log begins and long-term storage ends
        "static members",
        "cooperative",
        "sticky",
        "range",
        "alter group offsets",
        "delete group offsets",
        "delete groups",
        "incremental configs",
        "no auto-create",  # a consumer can ask that its topic is not created
        "instance everywhere",  # each request of a static member says its instance id
        "member fencing",  # offsets go into a transaction with the member's id and generation
        "isolated ends",  # ask where a log ends for a read_committed consumer
        "stable offsets",  # a read_committed consumer asks for offsets that no transaction holds
        "transaction admin",
        "tells producers apart",  # aborted and committed records of several producers in one batch of a fetch
    }
)

ABLE: Final = {
    "kafka-python": ALL - {"nothing at all", "null headers", "no auto-create", "tier offsets"},
    "aiokafka": ALL
    - {
        "instance everywhere",
        "member fencing",
        "stable offsets",
        "transaction admin",
        "config sources",
        "default counts",
        "newest errors",
        "nothing at all",
        "notes",
        "max timestamp",
        "tier offsets",
        "cooperative",
        "alter group offsets",
        "delete group offsets",
        "delete groups",
        "incremental configs",
        "no auto-create",
    },
    "confluent-kafka": ALL - {"sticky", "delete group offsets", "tier offsets", "transaction admin"},
    "java": ALL,
    "kafkajs": ALL
    - {
        "instance everywhere",
        "member fencing",
        "isolated ends",
        "stable offsets",
        "tells producers apart",
        "transaction admin",
        "assign",
        "timestamp types",
        "null headers",
        "max timestamp",
        "tier offsets",
        "static members",
        "cooperative",
        "sticky",
        "range",
        "delete group offsets",
        "incremental configs",
    },
}
"""The abilities of each library: a scenario that needs more is not in its column."""

CLIENTS: Final = tuple(ABLE)


class Producer:
    def __init__(self, agent: AgentProcess, handle: int) -> None:
        self._agent = agent
        self._handle = handle

    def begin(self, topic: str, records: Iterable[Record]) -> None:
        self._agent.begin("produce", handle=self._handle, topic=topic, records=[r.wire() for r in records])

    def finish(self, within_s: float = 100) -> list[Produced | Refused]:
        return [
            Refused.from_wire(raw["error"]) if "error" in raw else Produced(raw["partition"], raw["offset"])
            for raw in self._agent.finish(within_s)
        ]

    def try_send(self, topic: str, records: Iterable[Record]) -> list[Produced | Refused]:
        self.begin(topic, records)
        return self.finish()

    def send(self, topic: str, *records: Record) -> list[Produced]:
        """Send all, wait for all, and insist that all were acknowledged."""
        done = []
        for outcome in self.try_send(topic, records):
            if isinstance(outcome, Refused):
                raise outcome
            done.append(outcome)
        return done

    def close(self) -> None:
        self._agent.call("producer_close", handle=self._handle)

    # -- transactions

    def init_transactions(self) -> None:
        self._agent.call("transaction_init", handle=self._handle)

    def begin_transaction(self) -> None:
        self._agent.call("transaction_begin", handle=self._handle)

    def send_offsets(self, member: Member, offsets: dict[Partition, int]) -> None:
        self._agent.call(
            "transaction_offsets",
            handle=self._handle,
            member=member.handle,
            group=member.group,
            offsets=[[t, p, offset] for (t, p), offset in offsets.items()],
        )

    def commit_transaction(self) -> None:
        self._agent.call("transaction_commit", handle=self._handle, within_s=100)

    def abort_transaction(self) -> None:
        self._agent.call("transaction_abort", handle=self._handle, within_s=100)


@dataclass(frozen=True)
class Member:
    """A consumer's identity in its group just now: id and generation, if the library passes them on."""

    handle: int
    group: str | None


class Consumer:
    def __init__(self, agent: AgentProcess, handle: int, group: str | None = None) -> None:
        self._agent = agent
        self._handle = handle
        self._group = group

    def member(self) -> Member:
        return Member(self._call("member"), self._group)

    def _call(self, op: str, **arguments: Any) -> Any:
        return self._agent.call(op, handle=self._handle, **arguments)

    def poll(self, timeout_ms: int = 100) -> list[Stored]:
        return [Stored.from_wire(raw) for raw in self._call("poll", timeout_ms=timeout_ms)]

    def begin_poll(self, timeout_ms: int) -> None:
        self._agent.begin("poll", handle=self._handle, timeout_ms=timeout_ms)

    def finish_poll(self) -> list[Stored]:
        return [Stored.from_wire(raw) for raw in self._agent.finish()]

    def take(self, count: int, *, within_s: float = 20) -> list[Stored]:
        """Poll until that many records came; more than that is an error too."""
        taken: list[Stored] = []
        deadline = time.monotonic() + within_s
        while len(taken) < count:
            assert time.monotonic() < deadline, (
                f"{self._agent.client}: {len(taken)} of {count} records in {within_s:g} s; last: {taken[-1:]}"
            )
            taken += self.poll(200)
        assert len(taken) == count, f"{len(taken)} records where {count} were expected"
        return taken

    def assignment(self) -> set[Partition]:
        return {(t, p) for t, p in self._call("assignment")["partitions"]}

    def events(self) -> list[tuple[str, set[Partition]]]:
        """The rebalance callbacks so far: ("assigned" | "revoked" | "lost", partitions)."""
        return [(kind, {(t, p) for t, p in what}) for kind, what in self._call("assignment")["events"]]

    def commit(self, offsets: dict[Partition, int] | None = None, note: str = "") -> None:
        wanted = None if offsets is None else [[t, p, offset, note] for (t, p), offset in offsets.items()]
        self._call("commit", offsets=wanted)

    def committed(self, topic: str, partition: int) -> int | None:
        [found] = self._call("committed", partitions=[[topic, partition]])
        return None if found is None else found[0]

    def begin_committed(self, topic: str, partition: int) -> None:
        self._agent.begin("committed", handle=self._handle, partitions=[[topic, partition]])

    def finish_committed(self) -> int | None:
        [found] = self._agent.finish()
        return None if found is None else found[0]

    def committed_note(self, topic: str, partition: int) -> str:
        [found] = self._call("committed", partitions=[[topic, partition]])
        return found[1]

    def position(self, topic: str, partition: int) -> int:
        return self._call("position", topic=topic, partition=partition)

    def seek(self, topic: str, partition: int, offset: int | Literal["begin", "end"]) -> None:
        self._call("seek", topic=topic, partition=partition, offset=offset)

    def close(self) -> None:
        self._call("consumer_close")


class Client:
    """One library, in one process, against one server."""

    def __init__(self, name: str, bootstrap: str, log: Path) -> None:
        self.name = name
        self.agent = AgentProcess(name, bootstrap, log)
        self._groups = 0

    def can(self, *needs: str) -> bool:
        return ABLE[self.name].issuperset(needs)

    def producer(
        self,
        *,
        acks: int | Literal["all"] = "all",
        idempotent: bool = False,
        compression: str = "none",
        linger_ms: int = 5,
        max_request_bytes: int = 1_048_576,
        delivery_timeout_ms: int = 60_000,
        request_timeout_ms: int = 10_000,
        transactional_id: str | None = None,
        transaction_timeout_ms: int = 60_000,
    ) -> Producer:
        config = {
            "acks": acks,
            "idempotent": idempotent or transactional_id is not None,
            "compression": compression,
            "linger_ms": linger_ms,
            "max_request_bytes": max_request_bytes,
            "delivery_timeout_ms": delivery_timeout_ms,
            "request_timeout_ms": request_timeout_ms,
            "transactional_id": transactional_id,
            "transaction_timeout_ms": transaction_timeout_ms,
        }
        return Producer(self.agent, self.agent.call("producer_open", config=config))

    def transactional(self, transactional_id: str, **options: Any) -> Producer:
        """A transactional producer that is ready to begin."""
        producer = self.producer(transactional_id=transactional_id, **options)
        producer.init_transactions()
        return producer

    def consumer(
        self,
        *topics: str,
        group: str | None = None,
        assign: Sequence[Partition] | None = None,
        pattern: str | None = None,
        reset: Literal["earliest", "latest"] = "earliest",
        instance: str | None = None,
        assignor: str = "roundrobin",
        session_ms: int = 10_000,
        max_wait_ms: int = 200,
        min_bytes: int = 1,
        max_partition_bytes: int = 1_048_576,
        auto_create: bool = True,
        metadata_ms: int = 300_000,
        isolation: Literal["read_uncommitted", "read_committed"] = "read_uncommitted",
        protocol: Literal["classic", "consumer"] = "classic",
        regex: str | None = None,
        remote_assignor: Literal["uniform", "range"] | None = None,
    ) -> Consumer:
        config = {
            "topics": list(topics),
            "group": group,
            "assign": assign,
            "pattern": pattern,
            "reset": reset,
            "instance": instance,
            "assignor": assignor,
            "session_ms": session_ms,
            "heartbeat_ms": 300,
            "max_wait_ms": max_wait_ms,
            "min_bytes": min_bytes,
            "max_partition_bytes": max_partition_bytes,
            "auto_create": auto_create,
            "metadata_ms": metadata_ms,
            "isolation": isolation,
            "protocol": protocol,
            "regex": regex,
            "remote_assignor": remote_assignor,
        }
        return Consumer(self.agent, self.agent.call("consumer_open", config=config), group)

    def reader(self, topic: str, partitions: int = 1, **options: Any) -> Consumer:
        """A consumer of all partitions from the start; in a group of its own if the library insists."""
        if self.can("assign"):
            return self.consumer(assign=[(topic, p) for p in range(partitions)], **options)
        self._groups += 1
        return self.consumer(topic, group=f"{topic}-reader-{self._groups}", **options)

    def read_all(self, topic: str, count: int, partitions: int = 1, **options: Any) -> list[Stored]:
        consumer = self.reader(topic, partitions, **options)
        try:
            return consumer.take(count)
        finally:
            consumer.close()

    def write(self, topic: str, *records: Record, **options: Any) -> list[Produced]:
        producer = self.producer(**options)
        try:
            return producer.send(topic, *records)
        finally:
            producer.close()

    # -- administration

    def offset(self, topic: str, partition: int, at: int) -> int | None:
        """At EARLIEST, LATEST, MAX_TIMESTAMP or a time in milliseconds; None where there is none."""
        return self.offsets([(topic, partition, at)])[0]

    def offsets(self, queries: Sequence[tuple[str, int, int]]) -> list[int | None]:
        return self.agent.call("list_offsets", queries=queries)

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        configs: dict[str, str] | None = None,
        *,
        replication: int = 1,
        validate_only: bool = False,
    ) -> None:
        topic = {
            "name": name,
            "partitions": partitions,
            "replication": replication,
            "configs": configs or {},
        }
        self.agent.call("create_topics", topics=[topic], validate_only=validate_only)

    def delete_topic(self, name: str) -> None:
        self.agent.call("delete_topics", names=[name])

    def create_partitions(self, topic: str, total: int) -> None:
        self.agent.call("create_partitions", topic=topic, total=total)

    def topics(self) -> set[str]:
        return set(self.agent.call("list_topics"))

    def partition_count(self, topic: str) -> int:
        return self.agent.call("partition_count", topic=topic)

    def config(self, kind: Literal["topic", "broker"], name: str) -> dict[str, str | None]:
        return {key: entry["value"] for key, entry in self._described(kind, name).items()}

    def keys_set(self, kind: Literal["topic", "broker"], name: str) -> set[str]:
        """The keys whose value is not a default."""
        return {key for key, entry in self._described(kind, name).items() if not entry["default"]}

    def _described(self, kind: str, name: str) -> dict[str, dict[str, Any]]:
        return self.agent.call("describe_config", kind=kind, name=name)

    def alter_config(self, kind: str, name: str, changes: dict[str, str | None]) -> None:
        """Set values; None takes the key back to its default."""
        self.agent.call("alter_config", kind=kind, name=name, changes=changes)

    def delete_records(self, topic: str, offsets: dict[int, int]) -> dict[int, int]:
        found = self.agent.call("delete_records", topic=topic, offsets=list(offsets.items()))
        return {int(partition): low for partition, low in found.items()}

    def groups(self) -> set[str]:
        return set(self.agent.call("list_groups"))

    def describe_group(self, group: str) -> dict[str, Any]:
        described = self.agent.call("describe_group", group=group)
        for member in described["members"]:
            member["assignment"].sort()
        return described

    def delete_group(self, group: str) -> None:
        self.agent.call("delete_group", group=group)

    def group_offsets(self, group: str) -> dict[Partition, int]:
        return {(t, p): o for t, p, o in self.agent.call("group_offsets", group=group)}

    def alter_group_offsets(self, group: str, offsets: dict[Partition, int]) -> None:
        wanted = [[t, p, offset] for (t, p), offset in offsets.items()]
        self.agent.call("alter_group_offsets", group=group, offsets=wanted)

    def delete_group_offsets(self, group: str, partitions: list[Partition]) -> None:
        self.agent.call("delete_group_offsets", group=group, partitions=partitions)

    def stable_end(self, topic: str, partition: int) -> int:
        """The last stable offset: where the log ends for a read_committed consumer."""
        return int(self.agent.call("stable_end", topic=topic, partition=partition))

    def transactions(self) -> dict[str, str]:
        """The state of each transactional id."""
        return dict(self.agent.call("list_transactions"))

    def describe_transaction(self, transactional_id: str) -> dict[str, Any]:
        return dict(self.agent.call("describe_transaction", transactional_id=transactional_id))

    def producers_of(self, topic: str, partition: int) -> list[dict[str, Any]]:
        """The producers that a partition knows; `start` is where an open transaction began, else None."""
        return list(self.agent.call("describe_producers", topic=topic, partition=partition))

    def abort_open_transaction(self, topic: str, partition: int, producer: dict[str, Any]) -> None:
        """Abort by the partition's leader, whatever the coordinator thinks."""
        self.agent.call("abort_open_transaction", topic=topic, partition=partition, producer=producer)
