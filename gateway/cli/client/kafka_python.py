"""A cluster through kafka-python.

Keeps: with those beside it, for records, rights and errors, the only module that knows kafka-python. Its errors become
`Refused` with Kafka's own words; its log lines stay away from the terminal.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.admin._configs import ConfigSourceType
from kafka.admin._users import UserScramCredentialDeletion, UserScramCredentialUpsertion
from kafka.errors import KafkaTimeoutError, NoError, for_code
from kafka.protocol.admin import DescribeConfigsRequest
from kafka.protocol.admin.client_quotas import AlterClientQuotasRequest, DescribeClientQuotasRequest
from kafka.structs import OffsetAndMetadata

from gateway.cli.client.cluster import (
    Acl,
    Broker,
    ClusterInfo,
    ConfigEntry,
    ConfigKind,
    Edge,
    GroupSummary,
    Member,
    Partition,
    PartitionId,
    Quota,
    ScramUser,
    SharePosition,
    Topic,
)
from gateway.cli.client.connection import Connection, check_authorities, reach
from gateway.cli.client.kafka_python_errors import check, refusals, refusing, words_of
from gateway.cli.client.kafka_python_records import KafkaPythonReader, KafkaPythonWriter
from gateway.cli.client.kafka_python_rights import addition, deleted_in, deletion, found_in, question
from gateway.cli.client.newer_groups import DESCRIBES, SHARE_OFFSETS, members_of, positions_in, question_of
from gateway.cli.refused import Refused

if TYPE_CHECKING:
    from gateway.wire.message import Message

REQUEST_MS: Final = 30_000
FETCH_BYTES_MAX: Final = 16 * 1024 * 1024
TOPIC_MS: Final = 15_000
"""How long a writer waits for its topic, which the cluster may have to make."""
RESOURCES_AT_ONCE: Final = 200
"""Topics whose configs one request asks for."""
UNKNOWN_TOPIC: Final = 3
_ERROR_HEAD: Final = re.compile(r"^\[Error -?\d+\] \w+: ")
"""Before a broker's words, where kafka-python gives an error as text."""
_RESOURCES: Final = {
    "topic": ConfigResourceType.TOPIC,
    "broker": ConfigResourceType.BROKER,
    "group": ConfigResourceType.GROUP,
    "client-metrics": ConfigResourceType.CLIENT_METRICS,
}
_SENTINEL: Final = {"start": -2, "end": -1}


class KafkaPythonCluster:
    """Satisfies `Cluster`. Connects at once; raises Refused if no broker answers."""

    def __init__(self, connection: Connection) -> None:
        _quiet()
        self._connection = connection
        self._settings = _settings(connection)
        if connection.ca is not None:
            check_authorities(connection.ca)
        reach(connection)
        with refusals(), _saying_why(connection):
            self._admin = KafkaAdminClient(
                **self._settings, bootstrap_timeout_ms=10_000, request_timeout_ms=REQUEST_MS, client_id="penstock"
            )

    def close(self) -> None:
        self._admin.close()

    # The cluster and its topics

    @refusing
    def info(self) -> ClusterInfo:
        told = self._admin.describe_cluster()
        brokers = [
            Broker(one["broker_id"], one["host"], one["port"], one.get("rack"), bool(one.get("is_fenced")))
            for one in told["brokers"]
        ]
        return ClusterInfo(told.get("cluster_id") or "", told["controller_id"], tuple(sorted(brokers, key=_by_id)))

    def topics(self, names: Sequence[str] | None = None) -> list[Topic]:
        topics, refused = self.find_topics(names)
        for why in refused.values():
            raise Refused(why)
        return topics

    @refusing
    def find_topics(self, names: Sequence[str] | None) -> tuple[list[Topic], dict[str, str]]:
        topics: list[Topic] = []
        refused: dict[str, str] = {}
        for told in self._admin.describe_topics(None if names is None else list(names)):
            name, code = told["name"], told["error_code"]
            if code == UNKNOWN_TOPIC:
                refused[name] = f"there is no topic {name!r}; `penstock topics list` names those that are"
            elif code:
                refused[name] = f"topic {name!r}: {words_of(for_code(code))}"
            if code:
                continue
            partitions = [
                Partition(
                    one["partition_index"], one["leader_id"], tuple(one["replica_nodes"]), tuple(one["isr_nodes"])
                )
                for one in told["partitions"]
            ]
            topics.append(Topic(name, bool(told["is_internal"]), tuple(sorted(partitions, key=_by_id))))
        return sorted(topics, key=lambda topic: topic.name), refused

    @refusing
    def sizes(self) -> dict[PartitionId, int]:
        sizes: dict[PartitionId, int] = {}
        for broker in self._admin.describe_log_dirs():
            for directory in broker["log_dirs"]:
                if directory["error_code"]:
                    raise Refused(f"sizes: {words_of(for_code(directory['error_code']))}")
                for topic in directory["topics"]:
                    for one in topic["partitions"]:
                        partition = PartitionId(topic["name"], one["partition_index"])
                        sizes[partition] = max(sizes.get(partition, 0), one["partition_size"])
        return sizes

    @refusing
    def offsets(self, partitions: Sequence[PartitionId], at: Edge | int) -> dict[PartitionId, int]:
        if not partitions:
            return {}
        timestamp = at if isinstance(at, int) else _SENTINEL[at]
        found = self._admin.list_partition_offsets({TopicPartition(*one): timestamp for one in partitions})
        return {PartitionId(one.topic, one.partition): told.offset for one, told in found.items()}

    @refusing
    def create_topic(
        self, name: str, partitions: int, replication: int, configs: Mapping[str, str], *, dry_run: bool
    ) -> None:
        wanted = {"num_partitions": partitions, "replication_factor": replication, "configs": dict(configs)}
        told = self._admin.create_topics({name: wanted}, validate_only=dry_run, raise_errors=False)
        for topic in told["topics"]:
            check(topic["error_code"], topic.get("error_message"), f"topic {name!r}")

    @refusing
    def delete_topics(self, names: Sequence[str]) -> dict[str, str]:
        told = self._admin.delete_topics(list(names), raise_errors=False)
        return {
            one["name"]: f"topic {one['name']!r}: {words_of(for_code(one['error_code']), one.get('error_message'))}"
            for one in told["topics"]
            if one["error_code"]
        }

    @refusing
    def grow_topic(self, name: str, partitions: int) -> None:
        told = self._admin.create_partitions({name: partitions}, raise_errors=False)
        for topic in told["results"] if isinstance(told, dict) else told.results:
            one = topic if isinstance(topic, dict) else topic.to_dict()
            check(one["error_code"], one.get("error_message"), f"topic {name!r}")

    # Configs

    @refusing
    def configs(self, kind: ConfigKind, name: str) -> list[ConfigEntry]:
        return self.configs_of(kind, [name])[name]

    @refusing
    def configs_of(self, kind: ConfigKind, names: Sequence[str]) -> dict[str, list[ConfigEntry]]:
        # kafka-python's own method leaves out errors: whoever may not look would see a resource without configs.
        found: dict[str, list[ConfigEntry]] = {}
        at_once = 1 if kind == "broker" else RESOURCES_AT_ONCE
        for some in (names[at : at + at_once] for at in range(0, len(names), at_once)):
            resources = [(_RESOURCES[kind], name, None) for name in some]
            request = DescribeConfigsRequest(resources=resources, min_version=1)
            for told in self._send(request, int(some[0]) if kind == "broker" else None)["results"]:
                check(told["error_code"], told["error_message"], f"{kind} {told['resource_name']!r}")
                found[told["resource_name"]] = sorted(map(_entry, told["configs"]), key=lambda entry: entry.key)
        return found

    @refusing
    def alter_configs(self, kind: ConfigKind, name: str, changes: Mapping[str, str | None], *, dry_run: bool) -> None:
        wanted = {key: ("DELETE" if value is None else "SET", value) for key, value in changes.items()}
        resource = ConfigResource(_RESOURCES[kind], name, wanted)
        told = self._admin.alter_configs([resource], validate_only=dry_run, raise_on_unknown=False)
        for results in told.values():
            for result in results.values():
                if result != "OK":
                    raise Refused(f"{kind} {name!r}: {_ERROR_HEAD.sub('', result)[:1000]}")

    # Groups

    @refusing
    def groups(self) -> list[GroupSummary]:
        told = self._admin.list_groups()
        found = [
            GroupSummary(one["group_id"], one.get("group_state") or "", one.get("group_type") or one["protocol_type"])
            for one in told
        ]
        return sorted(found, key=lambda group: group.name)

    @refusing
    def members(self, group: GroupSummary) -> list[Member]:
        if (key := DESCRIBES.get(group.kind.lower())) is not None:
            return members_of(self._said_of(group.name, key, {"group_ids": [group.name]}))
        told = self._admin.describe_groups([group.name])[group.name]
        members = []
        for one in told.get("members", ()):
            assignment = one.get("member_assignment")
            topics = assignment.get("assigned_partitions", ()) if isinstance(assignment, dict) else ()
            partitions = [PartitionId(topic["topic"], number) for topic in topics for number in topic["partitions"]]
            members.append(Member(one["member_id"], one["client_id"], one["client_host"], tuple(sorted(partitions))))
        return members

    @refusing
    def group_offsets(self, group: str) -> dict[PartitionId, int]:
        told = self._admin.list_group_offsets([group]).get(group, {})
        return {PartitionId(one.topic, one.partition): at.offset for one, at in told.items() if at.offset >= 0}

    @refusing
    def share_positions(self, group: str) -> dict[PartitionId, SharePosition]:
        asked = {"groups": [{"group_id": group, "topics": None}]}
        return positions_in(self._said_of(group, SHARE_OFFSETS, asked))

    def _said_of(self, group: str, key: int, body: Mapping[str, Any]) -> Message:
        """What the group's coordinator says of it. Raises Refused."""
        manager = self._admin._manager
        question = question_of(key, body, manager.broker_version_data.api_versions or {})
        coordinator = manager.run(self._admin._find_coordinator_id, group)
        told = question.group_in(manager.run(manager.send, question, coordinator))
        check(told.error_code, told.error_message, f"group {group!r}")
        return told

    @refusing
    def set_group_offsets(self, group: str, offsets: Mapping[PartitionId, int]) -> dict[PartitionId, str]:
        wanted = {TopicPartition(*one): OffsetAndMetadata(offset, "", -1) for one, offset in offsets.items()}
        refused: dict[PartitionId, str] = {}
        for at, error in self._admin.alter_group_offsets(group, wanted).items():
            if error is not NoError:
                running = " (its members must stop first)" if "MEMBER" in words_of(error).upper() else ""
                why = f"group {group!r}, {at.topic}-{at.partition}: {words_of(error)}{running}"
                refused[PartitionId(at.topic, at.partition)] = why
        return refused

    @refusing
    def delete_groups(self, names: Sequence[str]) -> dict[str, str]:
        refused: dict[str, str] = {}
        for name in names:  # one by one: what is wrong with one, or with its coordinator, is not told of all
            try:
                with refusals():
                    why = self._admin.delete_groups([name])[name]
            except Refused as error:
                why = str(error)
            if why != "OK":
                refused[name] = f"group {name!r}: {why}"
        return refused

    # Rights and users: kafka-python's own methods leave out the broker's words, and what it could not delete

    @refusing
    def acls(self, matching: Acl) -> list[Acl]:
        return found_in(self._send(question(matching)))

    @refusing
    def add_acl(self, acl: Acl) -> None:
        for told in self._send(addition(acl))["results"]:
            check(told["error_code"], told["error_message"], "rights")

    @refusing
    def delete_acls(self, matching: Acl) -> tuple[list[Acl], dict[Acl, str]]:
        return deleted_in(self._send(deletion(matching)))

    @refusing
    def users(self) -> list[ScramUser]:
        told = self._admin.describe_user_scram_credentials()
        return [
            ScramUser(
                name, {one["mechanism"].name.replace("_", "-"): one["iterations"] for one in user["credential_infos"]}
            )
            for name, user in sorted(told.items())
        ]

    @refusing
    def set_user(self, name: str, mechanism: str, password: str, iterations: int) -> None:
        self._alter_user(name, UserScramCredentialUpsertion(name, mechanism, password, iterations=iterations))

    @refusing
    def delete_user(self, name: str, mechanism: str) -> None:
        self._alter_user(name, UserScramCredentialDeletion(name, mechanism))

    def _alter_user(self, name: str, change: object) -> None:
        for told in self._admin.alter_user_scram_credentials([change]).values():
            if told is not None:
                raise Refused(f"user {name!r}: {told}")

    # Quotas: kafka-python knows the requests and has no method for them

    @refusing
    def quotas(self) -> list[Quota]:
        answer = self._send(DescribeClientQuotasRequest(components=[], strict=False))
        check(answer["error_code"], answer.get("error_message"), "quotas")
        return [
            Quota(
                {part["entity_type"]: part["entity_name"] for part in entry["entity"]},
                {value["key"]: value["value"] for value in entry["values"]},
            )
            for entry in answer["entries"] or ()
        ]

    @refusing
    def set_quotas(self, entity: Mapping[str, str | None], values: Mapping[str, float | None]) -> None:
        entry = AlterClientQuotasRequest.EntryData(
            entity=[
                AlterClientQuotasRequest.EntryData.EntityData(entity_type=kind, entity_name=name)
                for kind, name in entity.items()
            ],
            ops=[
                AlterClientQuotasRequest.EntryData.OpData(key=key, value=value or 0.0, remove=value is None)
                for key, value in values.items()
            ],
        )
        for told in self._send(AlterClientQuotasRequest(entries=[entry], validate_only=False))["entries"]:
            check(told["error_code"], told.get("error_message"), "quotas")

    def _send(self, request: object, node: int | None = None) -> dict[str, Any]:
        """The answer of a broker, of whichever if none is named."""
        manager = self._admin._manager
        answer: dict[str, Any] = manager.run(manager.send, request, node).to_dict()
        return answer

    # Records

    @refusing
    def writer(self, topic: str, *, compression: str | None, acks: str) -> KafkaPythonWriter:
        producer = KafkaProducer(
            **self._settings,
            acks=acks if acks == "all" else int(acks),
            compression_type=compression,
            linger_ms=5,
            max_block_ms=TOPIC_MS,
            client_id="penstock",
        )
        return KafkaPythonWriter(producer, topic)

    @refusing
    def reader(self, positions: Mapping[PartitionId, int], *, committed: bool) -> KafkaPythonReader:
        consumer = self._consumer(committed=committed, group_id=None)
        consumer.assign([TopicPartition(*one) for one in positions])
        for one, offset in positions.items():
            consumer.seek(TopicPartition(*one), offset)
        return KafkaPythonReader(consumer)

    @refusing
    def group_reader(
        self, topics: Sequence[str], group: str, *, committed: bool, from_start: bool
    ) -> KafkaPythonReader:
        reset = "earliest" if from_start else "latest"
        consumer = self._consumer(committed=committed, group_id=group, auto_offset_reset=reset)
        consumer.subscribe(list(topics))
        return KafkaPythonReader(consumer)

    def _consumer(self, *, committed: bool, **settings: Any) -> KafkaConsumer:
        return KafkaConsumer(
            **self._settings,
            **settings,
            isolation_level="read_committed" if committed else "read_uncommitted",
            enable_auto_commit=False,
            fetch_max_bytes=FETCH_BYTES_MAX,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            client_id="penstock",
        )


def _settings(connection: Connection) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "bootstrap_servers": (connection.bootstrap or "").split(","),
        "security_protocol": connection.security_protocol,
        "ssl_cafile": connection.ca,
        "ssl_certfile": connection.cert,
        "ssl_keyfile": connection.key,
    }
    if connection.sasl_mechanism is not None:
        settings |= {
            "sasl_mechanism": connection.sasl_mechanism,
            "sasl_plain_username": connection.user,
            "sasl_plain_password": connection.password(),
        }
    return settings


class _Failures(logging.Handler):
    """The last error that the library logged of a connection, which its own error leaves out."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        for one in arguments:
            if isinstance(one, BaseException) and not isinstance(one, KafkaTimeoutError):
                self.last = one


@contextlib.contextmanager
def _saying_why(connection: Connection) -> Iterator[None]:
    """Raises Refused with the reason, a wrong password for one, where no broker lets this client in."""
    failures, log = _Failures(), logging.getLogger("kafka")
    log.addHandler(failures)
    try:
        yield
    except KafkaTimeoutError as error:
        if failures.last is None:
            raise
        why, protocol = words_of(failures.last), connection.security_protocol
        raise Refused(f"no connection with {protocol} to {connection.bootstrap}: {why}") from error
    finally:
        log.removeHandler(failures)


def _quiet() -> None:
    log = logging.getLogger("kafka")
    log.addHandler(logging.NullHandler())
    log.propagate = False


def _entry(told: Mapping[str, Any]) -> ConfigEntry:
    source = _source(told["config_source"])
    return ConfigEntry(told["name"], told["value"], source, told["read_only"], told["is_sensitive"])


def _source(number: int) -> str:
    """Kafka's name of a config's source; one that kafka-python does not know has a number."""
    try:
        return str(ConfigSourceType(number).name)
    except ValueError:
        return f"SOURCE_{number}"


def _by_id(one: Broker | Partition) -> int:
    return one.id
