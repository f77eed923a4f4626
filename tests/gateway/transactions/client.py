"""Requests of transactional producers over the wire, in exact versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.transactions.transaction import Identity
from gateway.wire.message import Message
from tests.gateway.apis.harness import NOW, Admin
from tests.gateway.harness import batch

NONE = 0
UNKNOWN_TOPIC_OR_PARTITION, ILLEGAL_GENERATION, INVALID_GROUP_ID, UNKNOWN_MEMBER_ID = 3, 22, 24, 25
OFFSET_METADATA_TOO_LARGE, INVALID_REQUEST, OUT_OF_ORDER = 12, 42, 45
INVALID_PRODUCER_EPOCH, INVALID_TXN_STATE, INVALID_PRODUCER_ID_MAPPING, INVALID_TIMEOUT = 47, 48, 49, 50
CONCURRENT_TRANSACTIONS, NOT_AUTHORIZED, OPERATION_NOT_ATTEMPTED = 51, 53, 55
INVALID_RECORD, UNSTABLE_OFFSET_COMMIT, PRODUCER_FENCED = 87, 88, 90
TRANSACTIONAL_ID_NOT_FOUND, TRANSACTION_ABORTABLE = 105, 120

READ_COMMITTED = 1


class Producer:
    """One transactional producer: the newest of its id until another one begins."""

    def __init__(self, admin: Admin, name: str, *, version: int = 5, timeout_ms: int = 60_000) -> None:
        self.admin = admin
        self.name = name
        self.who = Identity(-1, -1)
        self.sequences: dict[tuple[str, int], int] = {}
        code = self.init(version, timeout_ms)
        assert code == NONE

    def init(self, version: int = 5, timeout_ms: int = 60_000, expected: Identity | None = None) -> int:
        expected = expected or Identity(-1, -1)
        answer = self.admin.ask(
            "InitProducerId",
            version,
            transactional_id=self.name,
            transaction_timeout=timeout_ms,
            producer_id=expected.producer_id,
            producer_epoch=expected.epoch,
        )
        if not answer.error_code:
            self.who = Identity(answer.producer_id, answer.producer_epoch)
            self.sequences.clear()
        return int(answer.error_code)

    def identified(self, name: str | None = None, who: Identity | None = None) -> dict[str, Any]:
        who = who or self.who
        return {
            "transactional_id": self.name if name is None else name,
            "producer_id": who.producer_id,
            "producer_epoch": who.epoch,
        }

    def add(
        self, *where: tuple[str, int], version: int = 3, who: Identity | None = None, name: str | None = None
    ) -> list[int]:
        """The error of each partition."""
        identified = {f"v3_and_below_{key}": value for key, value in self.identified(name, who).items()}
        topics = [{"name": topic, "partitions": [partition]} for topic, partition in where]
        answer = self.admin.ask("AddPartitionsToTxn", version, v3_and_below_topics=topics, **identified)
        return [
            partition.partition_error_code
            for topic in answer.results_by_topic_v3_and_below
            for partition in topic.results_by_partition
        ]

    def verify(
        self, *where: tuple[str, int], version: int = 5, verify_only: bool = True, who: Identity | None = None
    ) -> list[int]:
        """As brokers ask: are these partitions part of the transaction?"""
        topics = [{"name": topic, "partitions": [partition]} for topic, partition in where]
        asked = {**self.identified(who=who), "verify_only": verify_only, "topics": topics}
        answer = self.admin.ask("AddPartitionsToTxn", version, transactions=[asked])
        assert answer.error_code == NONE
        (result,) = answer.results_by_transaction
        assert result.transactional_id == self.name
        return [p.partition_error_code for topic in result.topic_results for p in topic.results_by_partition]

    def add_group(self, group: str, version: int = 4, who: Identity | None = None) -> int:
        return int(self.admin.ask("AddOffsetsToTxn", version, group_id=group, **self.identified(who=who)).error_code)

    def commit_offsets(
        self,
        group: str,
        *offsets: tuple[str, int, int],
        version: int = 5,
        who: Identity | None = None,
        metadata: str = "",
        **options: Any,
    ) -> list[int]:
        """The error of each partition."""
        topics = [
            {
                "name": topic,
                "partitions": [
                    {
                        "partition_index": partition,
                        "committed_offset": offset,
                        "committed_leader_epoch": -1,
                        "committed_metadata": metadata,
                    }
                ],
            }
            for topic, partition, offset in offsets
        ]
        request = {"generation_id": -1, "member_id": "", "group_instance_id": None, **options}
        answer = self.admin.ask(
            "TxnOffsetCommit", version, group_id=group, topics=topics, **self.identified(who=who), **request
        )
        return [partition.error_code for topic in answer.topics for partition in topic.partitions]

    def batch(
        self, topic: str, *values: bytes, partition: int = 0, who: Identity | None = None, **options: Any
    ) -> bytearray:
        """The next batch for a partition."""
        who = who or self.who
        sequence = self.sequences.get((topic, partition), 0)
        options = {"base_sequence": sequence, "transactional": True, "timestamp": NOW} | options
        return batch(*values, producer_id=who.producer_id, producer_epoch=who.epoch, **options)

    def write(
        self,
        topic: str,
        *values: bytes,
        partition: int = 0,
        version: int = 12,
        name: str | None = None,
        **options: Any,
    ) -> int:
        """Produce one batch; its error."""
        records = self.batch(topic, *values, partition=partition, **options)
        code = self.produce(topic, records, partition=partition, version=version, name=name).error_code
        if not code and "base_sequence" not in options:
            key = (topic, partition)
            self.sequences[key] = self.sequences.get(key, 0) + len(values)
        return int(code)

    def produce(
        self, topic: str, records: bytearray, *, partition: int = 0, version: int = 12, name: str | None = None
    ) -> Message:
        answer = self.admin.ask("Produce", version, **self.produce_body([(topic, partition, records)], name))
        return answer.responses[0].partition_responses[0]  # type: ignore[no-any-return]

    def produce_body(self, batches: Sequence[tuple[str, int, bytearray]], name: str | None = None) -> dict[str, Any]:
        data = [{"name": t, "partition_data": [{"index": index, "records": r}]} for t, index, r in batches]
        name = self.name if name is None else name or None
        return {"transactional_id": name, "acks": -1, "timeout": 10_000, "topic_data": data}

    def end(
        self, *, committed: bool = True, version: int = 5, who: Identity | None = None, name: str | None = None
    ) -> int:
        answer = self.admin.ask("EndTxn", version, committed=committed, **self.identified(name, who))
        if not answer.error_code and version >= 5:
            given = Identity(answer.producer_id, answer.producer_epoch)
            if given != self.who:
                self.sequences.clear()
            self.who = given
        return int(answer.error_code)


def visible(admin: Admin, topic: str, partition: int = 0) -> int:
    """The offset at which committed readers stop."""
    return admin.slot(topic, partition).stable_end


def offset(admin: Admin, group: str, topic: str, *, stable: bool = False) -> tuple[int, int]:
    """Error and committed offset of partition 0."""
    asked = {"group_id": group, "topics": [{"name": topic, "partition_indexes": [0]}]}
    (answer,) = admin.ask("OffsetFetch", 8, groups=[asked], require_stable=stable).groups
    (partition,) = answer.topics[0].partitions
    return partition.error_code, partition.committed_offset


def state(admin: Admin, name: str) -> Any:
    (described,) = admin.ask("DescribeTransactions", 0, transactional_ids=[name]).transaction_states
    return described
