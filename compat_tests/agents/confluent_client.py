"""confluent-kafka (librdkafka) behind the line protocol."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import confluent_kafka
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from compat_tests.agents.base import Agent, Json, packed, record_arguments

WAIT_S = 20
FLUSH_S = 90
TRIES_MAX = 3
SPECS = {-1: OffsetSpec.latest, -2: OffsetSpec.earliest, -3: OffsetSpec.max_timestamp}


class ConfluentAgent(Agent):
    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self._admin: AdminClient | None = None

    @property
    def admin(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap})
        return self._admin

    def refusal(self, error: BaseException) -> Json:
        """librdkafka's own errors are negative: not Kafka's numbers."""
        if isinstance(error, KafkaException):
            error = error.args[0]
        if isinstance(error, confluent_kafka.KafkaError):
            code = error.code()
            return {
                "code": code if code > 0 else None,
                "name": error.name(),
                "message": error.str(),
            }
        return super().refusal(error)

    # -- producing

    def op_producer_open(self, config: Json) -> int:
        settings = {
            "bootstrap.servers": self.bootstrap,
            "acks": config["acks"],
            "enable.idempotence": config["idempotent"],
            "compression.type": config["compression"],
            "linger.ms": config["linger_ms"],
            "message.max.bytes": config["max_request_bytes"],
            "delivery.timeout.ms": config["delivery_timeout_ms"],
            "request.timeout.ms": config["request_timeout_ms"],
            "reconnect.backoff.max.ms": 500,
            "queue.buffering.max.messages": 1_000_000,
        }
        if config["transactional_id"] is not None:
            settings["transactional.id"] = config["transactional_id"]
            settings["transaction.timeout.ms"] = config["transaction_timeout_ms"]
            settings["delivery.timeout.ms"] = min(config["delivery_timeout_ms"], config["transaction_timeout_ms"])
        return self.keep(confluent_kafka.Producer(settings))

    def op_produce(self, handle: int, topic: str, records: list[Json]) -> list[Json]:
        producer = self.handles[handle]
        outcomes: list[Json | None] = [None] * len(records)

        def delivered(number: int) -> Any:
            def note(error: Any, message: Any) -> None:
                outcomes[number] = (
                    {"error": self.refusal(error)}
                    if error is not None
                    else {"partition": message.partition(), "offset": message.offset()}
                )

            return note

        for number, raw in enumerate(records):
            self._send(producer, topic, record_arguments(raw), delivered(number))
            producer.poll(0)
        # Not flush(): what that raises of a fenced producer is no exception of the library's. The callbacks tell it.
        deadline = time.monotonic() + FLUSH_S
        while len(producer) and time.monotonic() < deadline:
            with contextlib.suppress(KafkaException):
                producer.poll(0.1)
        return [outcome or {"error": self.refusal(TimeoutError("flush"))} for outcome in outcomes]

    @staticmethod
    def _send(producer: Any, topic: str, record: Json, delivered: Any) -> None:
        record["timestamp"] = record.pop("timestamp_ms") or 0
        if record["partition"] is None:
            del record["partition"]
        try:
            producer.produce(topic, on_delivery=delivered, **record)
        except KafkaException as error:
            delivered(error.args[0], None)

    def op_producer_close(self, handle: int) -> None:
        self.handles[handle].flush(10)
        self.handles[handle] = None

    def op_transaction_init(self, handle: int) -> None:
        self.handles[handle].init_transactions(WAIT_S)

    def op_transaction_begin(self, handle: int) -> None:
        self.handles[handle].begin_transaction()

    def op_member(self, handle: int) -> int:
        return self.keep(self.handles[handle][0].consumer_group_metadata())

    def op_transaction_offsets(self, handle: int, member: int, group: str, offsets: list[list[Any]]) -> None:
        places = [TopicPartition(*place) for place in offsets]
        self.handles[handle].send_offsets_to_transaction(places, self.handles[member], WAIT_S)

    def op_transaction_commit(self, handle: int) -> None:
        self._patiently(self.handles[handle].commit_transaction)

    def op_transaction_abort(self, handle: int) -> None:
        self._patiently(self.handles[handle].abort_transaction)

    @staticmethod
    def _patiently(end: Any) -> None:
        """librdkafka says of an error whether the same call may be made again; then it is to be made."""
        for _ in range(TRIES_MAX):
            try:
                end(WAIT_S)
                return
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
        end(WAIT_S)

    # -- consuming

    def op_consumer_open(self, config: Json) -> int:
        settings = {
            "bootstrap.servers": self.bootstrap,
            "group.id": config["group"] or "unused",
            "auto.offset.reset": config["reset"],
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "fetch.wait.max.ms": config["max_wait_ms"],
            "fetch.min.bytes": config["min_bytes"],
            "max.partition.fetch.bytes": config["max_partition_bytes"],
            "group.protocol": config["protocol"],
            "allow.auto.create.topics": config["auto_create"],
            "topic.metadata.refresh.interval.ms": config["metadata_ms"],
            "isolation.level": config["isolation"],
            "reconnect.backoff.max.ms": 500,
            "socket.timeout.ms": max(10_000, config["max_wait_ms"] + 2_000),
        }
        if config["protocol"] == "classic":
            settings |= {
                "session.timeout.ms": config["session_ms"],
                "heartbeat.interval.ms": config["heartbeat_ms"],
                "partition.assignment.strategy": config["assignor"],
            }
        elif config["remote_assignor"] is not None:
            settings["group.remote.assignor"] = config["remote_assignor"]
        if config["instance"] is not None:
            settings["group.instance.id"] = config["instance"]
        consumer = confluent_kafka.Consumer(settings)
        events: list[list[Any]] = []
        if config["assign"] is not None:
            start = confluent_kafka.OFFSET_BEGINNING
            if config["reset"] == "latest":
                start = confluent_kafka.OFFSET_END
            consumer.assign([TopicPartition(*place, start) for place in config["assign"]])
        else:
            pattern = config["pattern"] or config["regex"]
            topics = ["^" + pattern] if pattern else config["topics"]
            consumer.subscribe(
                topics,
                on_assign=lambda _, p: events.append(["assigned", self._places(p)]),
                on_revoke=lambda _, p: events.append(["revoked", self._places(p)]),
                on_lost=lambda _, p: events.append(["lost", self._places(p)]),
            )
        return self.keep((consumer, events, {}))

    @staticmethod
    def _places(partitions: Any) -> list[list[Any]]:
        return sorted([p.topic, p.partition] for p in partitions)

    def op_poll(self, handle: int, timeout_ms: int) -> list[Json]:
        consumer, _events, positions = self.handles[handle]
        # consume() waits for the whole number or the whole time: take one, then what is there already.
        first = consumer.consume(1, timeout_ms / 1000)
        messages = first + (consumer.consume(10_000, 0.01) if first else [])
        records = []
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
            positions[message.topic(), message.partition()] = message.offset() + 1
            records.append(self._stored(message))
        return records

    @staticmethod
    def _stored(message: Any) -> Json:
        kind, timestamp = message.timestamp()
        return {
            "topic": message.topic(),
            "partition": message.partition(),
            "offset": message.offset(),
            "key": packed(message.key()),
            "value": packed(message.value()),
            "headers": [[name, packed(value)] for name, value in message.headers() or []],
            "timestamp": timestamp,
            "timestamp_type": {1: "create", 2: "append"}.get(kind),
        }

    def op_assignment(self, handle: int) -> Json:
        consumer, events, _positions = self.handles[handle]
        return {"partitions": self._places(consumer.assignment()), "events": events}

    def op_commit(self, handle: int, offsets: list[list[Any]] | None) -> None:
        consumer, _events, positions = self.handles[handle]
        wanted = (
            [TopicPartition(t, p, offset) for (t, p), offset in positions.items()]
            if offsets is None
            else [TopicPartition(t, p, offset, metadata=note) for t, p, offset, note in offsets]
        )
        for result in consumer.commit(offsets=wanted, asynchronous=False):
            if result.error is not None:
                raise KafkaException(result.error)

    def op_committed(self, handle: int, partitions: list[list[Any]]) -> list[Any]:
        places = [TopicPartition(*place) for place in partitions]
        found = self.handles[handle][0].committed(places, timeout=WAIT_S)
        return [None if f.offset < 0 else [f.offset, f.metadata or ""] for f in found]

    def op_position(self, handle: int, topic: str, partition: int) -> int:
        [found] = self.handles[handle][0].position([TopicPartition(topic, partition)])
        return found.offset

    def op_seek(self, handle: int, topic: str, partition: int, offset: int | str) -> None:
        named = {"begin": confluent_kafka.OFFSET_BEGINNING, "end": confluent_kafka.OFFSET_END}
        target = named[offset] if isinstance(offset, str) else offset
        self.handles[handle][0].seek(TopicPartition(topic, partition, target))

    def op_consumer_close(self, handle: int) -> None:
        self.handles[handle][0].close()

    # -- administering

    def op_list_offsets(self, queries: list[list[Any]]) -> list[int | None]:
        return [self._offset(TopicPartition(t, p), spec) for t, p, spec in queries]

    def _offset(self, place: TopicPartition, spec: int) -> int | None:
        wanted = SPECS[spec]() if spec in SPECS else OffsetSpec.for_timestamp(spec)
        [found] = self._all(self.admin.list_offsets({place: wanted})).values()
        return None if found.offset < 0 else found.offset

    def op_stable_end(self, topic: str, partition: int) -> int:
        wanted = {TopicPartition(topic, partition): OffsetSpec.latest()}
        [found] = self._all(self.admin.list_offsets(wanted, isolation_level=IsolationLevel.READ_COMMITTED)).values()
        return int(found.offset)

    @staticmethod
    def _all(futures: dict[Any, Any]) -> dict[Any, Any]:
        return {name: future.result(WAIT_S) for name, future in futures.items()}

    def op_create_topics(self, topics: list[Json], validate_only: bool) -> None:
        wanted = [
            NewTopic(
                topic["name"],
                num_partitions=topic["partitions"],
                replication_factor=topic["replication"],
                config=topic["configs"],
            )
            for topic in topics
        ]
        self._all(self.admin.create_topics(wanted, validate_only=validate_only))

    def op_delete_topics(self, names: list[str]) -> None:
        self._all(self.admin.delete_topics(names))

    def op_create_partitions(self, topic: str, total: int) -> None:
        self._all(self.admin.create_partitions([NewPartitions(topic, total)]))

    def op_list_topics(self) -> list[str]:
        return list(self.admin.list_topics(timeout=WAIT_S).topics)

    def op_partition_count(self, topic: str) -> int:
        described = self.admin.describe_topics(confluent_kafka.TopicCollection([topic]))
        return len(self._all(described)[topic].partitions)

    @staticmethod
    def _resource(kind: str, name: str, entries: Any = None) -> ConfigResource:
        return ConfigResource(ResourceType[kind.upper()], name, incremental_configs=entries)

    def op_describe_config(self, kind: str, name: str) -> Json:
        [entries] = self._all(self.admin.describe_configs([self._resource(kind, name)])).values()
        default = ConfigSource.DEFAULT_CONFIG.value
        return {key: {"value": entry.value, "default": entry.source == default} for key, entry in entries.items()}

    def op_alter_config(self, kind: str, name: str, changes: Json) -> None:
        entries = [
            ConfigEntry(
                key,
                value,
                incremental_operation=(AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET),
            )
            for key, value in changes.items()
        ]
        self._all(self.admin.incremental_alter_configs([self._resource(kind, name, entries)]))

    def op_delete_records(self, topic: str, offsets: list[list[int]]) -> dict[str, int]:
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in offsets]
        found = self._all(self.admin.delete_records(wanted))
        return {str(place.partition): result.low_watermark for place, result in found.items()}

    def op_list_groups(self) -> list[str]:
        found = self.admin.list_consumer_groups().result(WAIT_S)
        assert not found.errors, found.errors
        return [group.group_id for group in found.valid]

    def op_describe_group(self, group: str) -> Json:
        found = self._all(self.admin.describe_consumer_groups([group]))[group]
        return {
            "state": found.state.name.replace("_", "").lower().capitalize(),
            "protocol": found.partition_assignor,
            "members": [
                {
                    "client_id": member.client_id,
                    "instance": member.group_instance_id,
                    "assignment": self._places(member.assignment.topic_partitions),
                }
                for member in found.members
            ],
        }

    def op_delete_group(self, group: str) -> None:
        self._all(self.admin.delete_consumer_groups([group]))

    def op_group_offsets(self, group: str) -> list[list[Any]]:
        wanted = [confluent_kafka.ConsumerGroupTopicPartitions(group)]
        found = self._all(self.admin.list_consumer_group_offsets(wanted))[group]
        return sorted([p.topic, p.partition, p.offset] for p in found.topic_partitions)

    def op_alter_group_offsets(self, group: str, offsets: list[list[Any]]) -> None:
        places = [TopicPartition(*place) for place in offsets]
        wanted = [confluent_kafka.ConsumerGroupTopicPartitions(group, places)]
        for result in self._all(self.admin.alter_consumer_group_offsets(wanted)).values():
            for place in result.topic_partitions:
                if place.error is not None:
                    raise KafkaException(place.error)


if __name__ == "__main__":
    ConfluentAgent.main()
