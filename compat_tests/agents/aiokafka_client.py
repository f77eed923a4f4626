"""aiokafka behind the line protocol; it also opens the thousand connections of one scenario."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiokafka
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError, for_code

from compat_tests.agents.base import Agent, Json, record_arguments, stored

ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}


class Rebalances(aiokafka.ConsumerRebalanceListener):
    def __init__(self) -> None:
        self.events: list[list[Any]] = []

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.events.append(["revoked", sorted(map(list, revoked))])

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.events.append(["assigned", sorted(map(list, assigned))])


class AiokafkaAgent(Agent):
    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self._admin: AIOKafkaAdminClient | None = None

    async def admin(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            self._admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=20_000)
            await self._admin.start()
        return self._admin

    # -- producing

    async def op_producer_open(self, config: Json) -> int:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            acks=config["acks"],
            enable_idempotence=config["idempotent"],
            compression_type=None if config["compression"] == "none" else config["compression"],
            linger_ms=config["linger_ms"],
            max_request_size=config["max_request_bytes"],
            request_timeout_ms=config["delivery_timeout_ms"],
            transactional_id=config["transactional_id"],
            transaction_timeout_ms=config["transaction_timeout_ms"],
        )
        await producer.start()
        return self.keep(producer)

    async def op_produce(self, handle: int, topic: str, records: list[Json]) -> list[Json]:
        producer = self.handles[handle]
        sent: list[Any] = []
        for record in records:
            try:
                sent.append(await producer.send(topic, **record_arguments(record)))
            except KafkaError as error:
                sent.append(error)
        return [await self._outcome(future) for future in sent]

    async def _outcome(self, future: Any) -> Json:
        if isinstance(future, Exception):
            return {"error": self.refusal(future)}
        try:
            metadata = await asyncio.wait_for(future, 90)
        except KafkaError as error:
            return {"error": self.refusal(error)}
        if metadata is None:  # acks=0: nobody knows where it went
            return {"partition": -1, "offset": -1}
        return {"partition": metadata.partition, "offset": metadata.offset}

    async def op_producer_close(self, handle: int) -> None:
        await self.handles[handle].stop()

    async def op_transaction_init(self, handle: int) -> None:
        """aiokafka has no call for it: an empty transaction makes it ask for its producer id."""
        await self.handles[handle].begin_transaction()
        await self.handles[handle].abort_transaction()

    async def op_transaction_begin(self, handle: int) -> None:
        await self.handles[handle].begin_transaction()

    def op_member(self, handle: int) -> int:
        return handle

    async def op_transaction_offsets(self, handle: int, member: int, group: str, offsets: list[list[Any]]) -> None:
        await self.handles[handle].send_offsets_to_transaction(
            {aiokafka.TopicPartition(topic, partition): offset for topic, partition, offset in offsets}, group
        )

    async def op_transaction_commit(self, handle: int) -> None:
        await self.handles[handle].commit_transaction()

    async def op_transaction_abort(self, handle: int) -> None:
        await self.handles[handle].abort_transaction()

    async def op_open_many(self, count: int) -> int:
        """As many producers, each with its own connections, all open at once."""
        gate = asyncio.Semaphore(50)

        async def opened() -> aiokafka.AIOKafkaProducer:
            async with gate:
                producer = aiokafka.AIOKafkaProducer(bootstrap_servers=self.bootstrap)
                await producer.start()
                return producer

        return self.keep(await asyncio.gather(*(opened() for _ in range(count))))

    async def op_send_by_each(self, handle: int, topic: str) -> list[int]:
        producers = self.handles[handle]
        sent = await asyncio.gather(
            *(
                producer.send_and_wait(topic, str(number).encode(), partition=0)
                for number, producer in enumerate(producers)
            )
        )
        return [metadata.offset for metadata in sent]

    async def op_close_many(self, handle: int) -> None:
        await asyncio.gather(*(producer.stop() for producer in self.handles[handle]))

    # -- consuming

    async def op_consumer_open(self, config: Json) -> int:
        consumer = aiokafka.AIOKafkaConsumer(
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
            partition_assignment_strategy=[ASSIGNORS[config["assignor"]]],
            metadata_max_age_ms=config["metadata_ms"],
            isolation_level=config["isolation"],
        )
        rebalances = Rebalances()
        if config["assign"] is not None:
            consumer.assign([aiokafka.TopicPartition(*place) for place in config["assign"]])
        elif config["pattern"] is not None:
            consumer.subscribe(pattern=config["pattern"], listener=rebalances)
        else:
            consumer.subscribe(config["topics"], listener=rebalances)
        handle = self.keep((consumer, rebalances))
        # start() waits for the whole join; another member of the same process may have to poll first.
        starting = asyncio.create_task(consumer.start())
        self.handles[-handle] = starting
        await asyncio.wait([starting], timeout=3)
        if starting.done():
            starting.result()
        return handle

    async def op_poll(self, handle: int, timeout_ms: int) -> list[Json]:
        if not self.handles[-handle].done():
            await asyncio.wait([self.handles[-handle]], timeout=timeout_ms / 1000)
            return []
        batches = await self.handles[handle][0].getmany(timeout_ms=timeout_ms)
        return [stored(record) for batch in batches.values() for record in batch]

    def op_assignment(self, handle: int) -> Json:
        consumer, rebalances = self.handles[handle]
        return {
            "partitions": sorted(map(list, consumer.assignment())),
            "events": rebalances.events,
        }

    async def op_commit(self, handle: int, offsets: list[list[Any]] | None) -> None:
        consumer = self.handles[handle][0]
        if offsets is None:
            await consumer.commit()
            return
        await consumer.commit(
            {aiokafka.TopicPartition(topic, partition): (offset, note) for topic, partition, offset, note in offsets}
        )

    async def op_committed(self, handle: int, partitions: list[list[Any]]) -> list[Any]:
        consumer = self.handles[handle][0]
        found = [await consumer.committed(aiokafka.TopicPartition(*p)) for p in partitions]
        return [None if offset is None else [offset, None] for offset in found]

    async def op_position(self, handle: int, topic: str, partition: int) -> int:
        place = aiokafka.TopicPartition(topic, partition)
        return await self.handles[handle][0].position(place)

    async def op_seek(self, handle: int, topic: str, partition: int, offset: int | str) -> None:
        consumer, place = self.handles[handle][0], aiokafka.TopicPartition(topic, partition)
        if offset == "begin":
            await consumer.seek_to_beginning(place)
        elif offset == "end":
            await consumer.seek_to_end(place)
        else:
            consumer.seek(place, offset)

    async def op_consumer_close(self, handle: int) -> None:
        starting = self.handles[-handle]
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
        await self.handles[handle][0].stop()

    # -- administering

    async def op_list_offsets(self, queries: list[list[Any]]) -> list[int | None]:
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
        await consumer.start()
        try:
            return [await self._offset(consumer, *query) for query in queries]
        finally:
            await consumer.stop()

    @staticmethod
    async def _offset(consumer: aiokafka.AIOKafkaConsumer, topic: str, partition: int, spec: int) -> int | None:
        place = aiokafka.TopicPartition(topic, partition)
        if spec == -1:
            return (await consumer.end_offsets([place]))[place]
        if spec == -2:
            return (await consumer.beginning_offsets([place]))[place]
        found = (await consumer.offsets_for_times({place: spec}))[place]
        return None if found is None else found.offset

    async def op_stable_end(self, topic: str, partition: int) -> int:
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=self.bootstrap, isolation_level="read_committed")
        await consumer.start()
        try:
            place = aiokafka.TopicPartition(topic, partition)
            return int((await consumer.end_offsets([place]))[place])
        finally:
            await consumer.stop()

    async def op_create_topics(self, topics: list[Json], validate_only: bool) -> None:
        wanted = [
            NewTopic(
                name=topic["name"],
                num_partitions=topic["partitions"],
                replication_factor=topic["replication"],
                topic_configs=topic["configs"],
            )
            for topic in topics
        ]
        answer = await (await self.admin()).create_topics(wanted, validate_only=validate_only)
        for _name, code, *_message in answer.topic_errors:
            self._raise_code(code)

    @staticmethod
    def _raise_code(code: int, message: str = "") -> None:
        if code:
            raise for_code(code)(message)

    async def op_delete_topics(self, names: list[str]) -> None:
        answer = await (await self.admin()).delete_topics(names)
        for _name, code in answer.topic_error_codes:
            self._raise_code(code)

    async def op_create_partitions(self, topic: str, total: int) -> None:
        await (await self.admin()).create_partitions({topic: NewPartitions(total)})

    async def op_list_topics(self) -> list[str]:
        return await (await self.admin()).list_topics()

    async def op_partition_count(self, topic: str) -> int:
        [found] = await (await self.admin()).describe_topics([topic])
        self._raise_code(found["error_code"])
        return len(found["partitions"])

    async def op_describe_config(self, kind: str, name: str) -> Json:
        [answer] = await (await self.admin()).describe_configs([ConfigResource(ConfigResourceType[kind.upper()], name)])
        [(code, message, _kind, _name, entries)] = answer.resources
        self._raise_code(code, message)
        # (name, value, read only, source or is-default, sensitive, …): source 5 is Kafka's default
        return {entry[0]: {"value": entry[1], "default": entry[3] in (5, True)} for entry in entries}

    async def op_alter_config(self, kind: str, name: str, changes: Json) -> None:
        """The older AlterConfigs, which replaces all; so what is to be default is just left out."""
        kept = {key: value for key, value in changes.items() if value is not None}
        answers = await (await self.admin()).alter_configs(
            [ConfigResource(ConfigResourceType[kind.upper()], name, kept)]
        )
        for answer in answers:
            for code, message, _kind, _name in answer.resources:
                self._raise_code(code, message)

    async def op_delete_records(self, topic: str, offsets: list[list[int]]) -> dict[str, int]:
        found = await (await self.admin()).delete_records(
            {aiokafka.TopicPartition(topic, partition): RecordsToDelete(offset) for partition, offset in offsets}
        )
        return {str(place.partition): low for place, low in found.items()}

    async def op_list_groups(self) -> list[str]:
        return [group[0] for group in await (await self.admin()).list_consumer_groups()]

    async def op_describe_group(self, group: str) -> Json:
        [answer] = await (await self.admin()).describe_consumer_groups([group])
        [(code, _name, state, _type, protocol, members, *_)] = answer.groups
        self._raise_code(code)
        return {
            "state": state,
            "protocol": protocol,
            "members": [
                {
                    "client_id": client_id,
                    "instance": None,
                    "assignment": sorted(map(list, ConsumerProtocolMemberAssignment.decode(assignment).partitions())),
                }
                for _id, client_id, _host, _metadata, assignment in members
            ],
        }

    async def op_group_offsets(self, group: str) -> list[list[Any]]:
        found = await (await self.admin()).list_consumer_group_offsets(group)
        return sorted([p.topic, p.partition, f.offset] for p, f in found.items())


if __name__ == "__main__":
    AiokafkaAgent.main()
