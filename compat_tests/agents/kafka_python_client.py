"""kafka-python behind the line protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import kafka
import kafka.errors
from kafka.admin import ConfigResource
from kafka.admin._transactions import AbortTransactionSpec
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from compat_tests.agents.base import Agent, Json, record_arguments, stored

ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
    "cooperative-sticky": CooperativeStickyAssignor,
}
TRIES_MAX = 50
RETRIABLE = ("NodeNotReadyError", "KafkaConnectionError", "CoordinatorLoadInProgressError")


class Rebalances(kafka.ConsumerRebalanceListener):
    def __init__(self) -> None:
        self.events: list[list[Any]] = []

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.events.append(["revoked", sorted(map(list, revoked))])

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.events.append(["assigned", sorted(map(list, assigned))])

    def on_partitions_lost(self, lost: Any) -> None:
        self.events.append(["lost", sorted(map(list, lost))])


class KafkaPythonAgent(Agent):
    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self._admin: kafka.KafkaAdminClient | None = None

    async def answer(self, request: Json) -> Json:
        """The admin client raises where other libraries try again: do that for it, with a bound."""
        for _ in range(TRIES_MAX):
            answer = await super().answer(dict(request))
            if answer.get("error", {}).get("name") not in RETRIABLE:
                break
            if self._admin is not None:
                self._admin.close()
                self._admin = None
            await asyncio.sleep(0.2)
        return answer

    @property
    def admin(self) -> kafka.KafkaAdminClient:
        if self._admin is None:
            self._admin = kafka.KafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=20_000)
        return self._admin

    # -- producing

    def op_producer_open(self, config: Json) -> int:
        idempotent = config["idempotent"]
        return self.keep(
            kafka.KafkaProducer(
                bootstrap_servers=self.bootstrap,
                acks=config["acks"],
                enable_idempotence=idempotent,
                compression_type=None if config["compression"] == "none" else config["compression"],
                linger_ms=config["linger_ms"],
                max_request_size=config["max_request_bytes"],
                delivery_timeout_ms=config["delivery_timeout_ms"],
                request_timeout_ms=config["request_timeout_ms"],
                max_block_ms=config["request_timeout_ms"],
                reconnect_backoff_max_ms=500,
                transactional_id=config["transactional_id"],
                transaction_timeout_ms=config["transaction_timeout_ms"],
            )
        )

    def op_produce(self, handle: int, topic: str, records: list[Json]) -> list[Json]:
        producer = self.handles[handle]
        sent: list[Any] = []
        for record in records:
            try:
                sent.append(producer.send(topic, **record_arguments(record)))
            except kafka.errors.KafkaError as error:
                sent.append(error)
        producer.flush(timeout=90)
        return [self._outcome(future) for future in sent]

    def _outcome(self, future: Any) -> Json:
        if isinstance(future, Exception):
            return {"error": self.refusal(future)}
        try:
            metadata = future.get(timeout=1)
        except kafka.errors.KafkaError as error:
            return {"error": self.refusal(error)}
        return {"partition": metadata.partition, "offset": metadata.offset}

    def op_producer_close(self, handle: int) -> None:
        self.handles[handle].close(timeout=10)

    def op_transaction_init(self, handle: int) -> None:
        self.handles[handle].init_transactions()

    def op_transaction_begin(self, handle: int) -> None:
        self.handles[handle].begin_transaction()

    def op_member(self, handle: int) -> int:
        return self.keep(self.handles[handle][0].group_metadata())

    def op_transaction_offsets(self, handle: int, member: int, group: str, offsets: list[list[Any]]) -> None:
        self.handles[handle].send_offsets_to_transaction(
            {
                kafka.TopicPartition(topic, partition): kafka.OffsetAndMetadata(offset, "", -1)
                for topic, partition, offset in offsets
            },
            self.handles[member],
        )

    def op_transaction_commit(self, handle: int) -> None:
        self.handles[handle].commit_transaction()

    def op_transaction_abort(self, handle: int) -> None:
        self.handles[handle].abort_transaction()

    # -- consuming

    def op_consumer_open(self, config: Json) -> int:
        consumer = kafka.KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=config["group"],
            group_instance_id=config["instance"],
            auto_offset_reset=config["reset"],
            enable_auto_commit=False,
            fetch_max_wait_ms=config["max_wait_ms"],
            fetch_min_bytes=config["min_bytes"],
            max_partition_fetch_bytes=config["max_partition_bytes"],
            session_timeout_ms=config["session_ms"],
            heartbeat_interval_ms=config["heartbeat_ms"],
            allow_auto_create_topics=config["auto_create"],
            partition_assignment_strategy=[ASSIGNORS[config["assignor"]]],
            metadata_max_age_ms=config["metadata_ms"],
            isolation_level=config["isolation"],
            reconnect_backoff_max_ms=500,
        )
        rebalances = Rebalances()
        if config["assign"] is not None:
            consumer.assign([kafka.TopicPartition(*place) for place in config["assign"]])
        elif config["pattern"] is not None:
            consumer.subscribe(pattern=config["pattern"], listener=rebalances)
        else:
            consumer.subscribe(config["topics"], listener=rebalances)
        return self.keep((consumer, rebalances))

    def op_poll(self, handle: int, timeout_ms: int) -> list[Json]:
        consumer = self.handles[handle][0]
        # kafka-python 3.0.12 forgets a join that new metadata began when a poll ends before it: it would
        # never ask for the assignment again. Remind it.
        coordinator = consumer._coordinator
        if coordinator is not None and coordinator._join_task is not None:
            coordinator.request_rejoin()
        batches = consumer.poll(timeout_ms=timeout_ms, max_records=10_000)
        return [stored(record) for batch in batches.values() for record in batch]

    def op_assignment(self, handle: int) -> Json:
        consumer, rebalances = self.handles[handle]
        return {
            "partitions": sorted(map(list, consumer.assignment())),
            "events": rebalances.events,
        }

    def op_commit(self, handle: int, offsets: list[list[Any]] | None) -> None:
        consumer = self.handles[handle][0]
        if offsets is None:
            consumer.commit()
            return
        consumer.commit(
            {
                kafka.TopicPartition(topic, partition): kafka.OffsetAndMetadata(offset, note, -1)
                for topic, partition, offset, note in offsets
            }
        )

    def op_committed(self, handle: int, partitions: list[list[Any]]) -> list[Any]:
        consumer = self.handles[handle][0]
        found = [consumer.committed(kafka.TopicPartition(*p), metadata=True) for p in partitions]
        return [None if f is None else [f.offset, f.metadata] for f in found]

    def op_position(self, handle: int, topic: str, partition: int) -> int:
        return self.handles[handle][0].position(kafka.TopicPartition(topic, partition))

    def op_seek(self, handle: int, topic: str, partition: int, offset: int | str) -> None:
        consumer, place = self.handles[handle][0], kafka.TopicPartition(topic, partition)
        if offset == "begin":
            consumer.seek_to_beginning(place)
        elif offset == "end":
            consumer.seek_to_end(place)
        else:
            consumer.seek(place, offset)

    def op_consumer_close(self, handle: int) -> None:
        self.handles[handle][0].close(autocommit=False, timeout_ms=10_000)

    # -- administering

    def op_list_offsets(self, queries: list[list[Any]]) -> list[int | None]:
        return [self._offset(kafka.TopicPartition(t, p), spec) for t, p, spec in queries]

    def _offset(self, place: kafka.TopicPartition, spec: int) -> int | None:
        offset = self.admin.list_partition_offsets({place: spec})[place].offset
        return None if offset < 0 else offset

    def op_stable_end(self, topic: str, partition: int) -> int:
        place = kafka.TopicPartition(topic, partition)
        found = self.admin.list_partition_offsets({place: -1}, isolation_level="read_committed")
        return int(found[place].offset)

    def op_create_topics(self, topics: list[Json], validate_only: bool) -> None:
        self.admin.create_topics(
            {
                topic["name"]: {
                    "num_partitions": topic["partitions"],
                    "replication_factor": topic["replication"],
                    "configs": topic["configs"],
                }
                for topic in topics
            },
            validate_only=validate_only,
        )

    def op_delete_topics(self, names: list[str]) -> None:
        self.admin.delete_topics(names)

    def op_create_partitions(self, topic: str, total: int) -> None:
        self.admin.create_partitions({topic: total})

    def op_list_topics(self) -> list[str]:
        return self.admin.list_topics()

    def op_partition_count(self, topic: str) -> int:
        [found] = self.admin.describe_topics([topic])
        if found["error_code"]:
            raise kafka.errors.for_code(found["error_code"])()
        return len(found["partitions"])

    def op_describe_config(self, kind: str, name: str) -> Json:
        found = self.admin.describe_configs([ConfigResource(kind, name)], config_filter="all")
        return {
            key: {"value": entry["value"], "default": entry["config_source"] == "DEFAULT_CONFIG"}
            for key, entry in found[kind][str(name)].items()
        }

    def op_alter_config(self, kind: str, name: str, changes: Json) -> None:
        operations = {key: ("DELETE", None) if value is None else ("SET", value) for key, value in changes.items()}
        answer = self.admin.alter_configs([ConfigResource(kind, name, operations)], raise_on_unknown=False)
        self._raise_as_named(answer[kind][name])

    @staticmethod
    def _raise_as_named(result: str) -> None:
        """kafka-python reports refusals as text: '[Error 40] InvalidConfigError: …'."""
        if result == "OK":
            return
        code = result.removeprefix("[Error ").split("]")[0]
        raise kafka.errors.for_code(int(code))(result) if code.isdigit() else ValueError(result)

    def op_delete_records(self, topic: str, offsets: list[list[int]]) -> dict[str, int]:
        found = self.admin.delete_records(
            {kafka.TopicPartition(topic, partition): offset for partition, offset in offsets}
        )
        return {str(place.partition): result["low_watermark"] for place, result in found.items()}

    def op_list_groups(self) -> list[str]:
        return [group["group_id"] for group in self.admin.list_groups()]

    def op_describe_group(self, group: str) -> Json:
        found = self.admin.describe_groups([group])[group]
        return {
            "state": found["group_state"],
            "protocol": found["protocol_data"],
            "members": [
                {
                    "client_id": member["client_id"],
                    "instance": member["group_instance_id"],
                    "assignment": sorted(
                        [topic["topic"], partition]
                        for topic in (member["member_assignment"] or {}).get("assigned_partitions", [])
                        for partition in topic["partitions"]
                    ),
                }
                for member in found["members"]
            ],
        }

    def op_delete_group(self, group: str) -> None:
        result = self.admin.delete_groups([group])[group]
        if result != "OK":
            raise getattr(kafka.errors, result)(group)

    def op_group_offsets(self, group: str) -> list[list[Any]]:
        found = self.admin.list_group_offsets([group])[group]
        return sorted([p.topic, p.partition, f.offset] for p, f in found.items())

    def op_alter_group_offsets(self, group: str, offsets: list[list[Any]]) -> None:
        results = self.admin.alter_group_offsets(
            group,
            {
                kafka.TopicPartition(topic, partition): kafka.OffsetAndMetadata(offset, "", -1)
                for topic, partition, offset in offsets
            },
        )
        self._raise_first(results)

    def op_delete_group_offsets(self, group: str, partitions: list[list[Any]]) -> None:
        places = [kafka.TopicPartition(*place) for place in partitions]
        self._raise_first(self.admin.delete_group_offsets(group, places))

    def op_list_transactions(self) -> Json:
        by_broker = self.admin.list_transactions()
        return {entry.transactional_id: entry.state.value for found in by_broker.values() for entry in found}

    def op_describe_transaction(self, transactional_id: str) -> Json:
        found = self.admin.describe_transactions([transactional_id])[transactional_id]
        return {
            "state": found.state.value,
            "producer_id": found.producer_id,
            "epoch": found.producer_epoch,
            "timeout_ms": found.transaction_timeout_ms,
            "partitions": sorted(map(list, found.topic_partitions)),
        }

    def op_describe_producers(self, topic: str, partition: int) -> list[Json]:
        place = kafka.TopicPartition(topic, partition)
        return [
            {
                "producer_id": found.producer_id,
                "epoch": found.producer_epoch,
                "sequence": found.last_sequence,
                "start": None if found.current_transaction_start_offset < 0 else found.current_transaction_start_offset,
            }
            for found in self.admin.describe_producers([place])[place].active_producers
        ]

    def op_abort_open_transaction(self, topic: str, partition: int, producer: Json) -> None:
        place = kafka.TopicPartition(topic, partition)
        self.admin.abort_transaction(AbortTransactionSpec(place, producer["producer_id"], producer["epoch"]))

    @staticmethod
    def _raise_first(results: dict[Any, Any]) -> None:
        for error in results.values():
            if error.errno:
                raise error()


if __name__ == "__main__":
    KafkaPythonAgent.main()
