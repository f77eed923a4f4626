"""A cluster through kafka-python.

Keeps: the only module that knows kafka-python. Its errors become `Refused` with Kafka's own words; its log lines stay
away from the terminal.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.admin._users import UserScramCredentialDeletion, UserScramCredentialUpsertion
from kafka.errors import KafkaError, KafkaTimeoutError, NoError, for_code
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
    NewRecord,
    Partition,
    PartitionId,
    Quota,
    Record,
    ScramUser,
    SharePosition,
    Topic,
)
from gateway.cli.client.connection import Connection, reach
from gateway.cli.client.newer_groups import DESCRIBES, SHARE_OFFSETS, members_of, positions_in, question_of
from gateway.cli.refused import Refused

if TYPE_CHECKING:
    from gateway.wire.message import Message

REQUEST_MS: Final = 30_000
FETCH_BYTES_MAX: Final = 16 * 1024 * 1024
PENDING_MAX: Final = 10_000
"""Records whose acknowledgement a writer waits for at a time."""
UNKNOWN_TOPIC: Final = 3
_ERROR_HEAD: Final = re.compile(r"^\[Error -?\d+\] \w+: ")
"""Before a broker's words, where kafka-python gives an error as text."""
_SENTINEL: Final = {"start": -2, "end": -1}
P = ParamSpec("P")
T = TypeVar("T")


def _told(method: Callable[P, T]) -> Callable[P, T]:
    """Errors of kafka-python as refusals."""

    @functools.wraps(method)
    def telling(*args: P.args, **kwargs: P.kwargs) -> T:
        with _telling():
            return method(*args, **kwargs)

    return telling


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise Refused(_words(error)) from error
    except (OSError, ValueError, TypeError, AttributeError) as error:  # it says so of what it cannot encode or send
        raise Refused(f"the request could not be made: {str(error)[:500]}") from error


def _words(error: BaseException | type[BaseException], told: str | None = None) -> str:
    """Kafka's name of an error, and the broker's words."""
    kind = error if isinstance(error, type) else type(error)
    name = str(getattr(kind, "message", kind.__name__))
    text = told
    if text is None and not isinstance(error, type):
        text = " ".join(str(part) for part in error.args if part)
    text = (text or getattr(kind, "description", "") or "").removeprefix(f"[Error {getattr(kind, 'errno', '')}] ")
    return f"{name}: {text[:500]}" if text and text != name else name


class KafkaPythonCluster:
    """Satisfies `Cluster`. Connects at once; raises Refused if no broker answers."""

    def __init__(self, connection: Connection) -> None:
        _quiet()
        self._connection = connection
        self._settings = _settings(connection)
        reach(connection)
        with _telling(), _saying_why(connection):
            self._admin = KafkaAdminClient(
                **self._settings, bootstrap_timeout_ms=10_000, request_timeout_ms=REQUEST_MS, client_id="penstock"
            )

    def close(self) -> None:
        self._admin.close()

    # The cluster and its topics

    @_told
    def info(self) -> ClusterInfo:
        told = self._admin.describe_cluster()
        brokers = [Broker(one["broker_id"], one["host"], one["port"], one.get("rack")) for one in told["brokers"]]
        return ClusterInfo(told.get("cluster_id") or "", told["controller_id"], tuple(sorted(brokers, key=_by_id)))

    @_told
    def topics(self, names: Sequence[str] | None = None) -> list[Topic]:
        topics = []
        for told in self._admin.describe_topics(None if names is None else list(names)):
            if told["error_code"] == UNKNOWN_TOPIC:
                raise Refused(f"there is no topic {told['name']!r}; `penstock topics list` names those that are")
            if told["error_code"]:
                raise Refused(f"topic {told['name']!r}: {_words(for_code(told['error_code']))}")
            partitions = [
                Partition(
                    one["partition_index"], one["leader_id"], tuple(one["replica_nodes"]), tuple(one["isr_nodes"])
                )
                for one in told["partitions"]
            ]
            topics.append(Topic(told["name"], bool(told["is_internal"]), tuple(sorted(partitions, key=_by_id))))
        return sorted(topics, key=lambda topic: topic.name)

    @_told
    def sizes(self) -> dict[PartitionId, int]:
        sizes: dict[PartitionId, int] = {}
        for broker in self._admin.describe_log_dirs():
            for directory in broker["log_dirs"]:
                if directory["error_code"]:
                    raise Refused(f"sizes: {_words(for_code(directory['error_code']))}")
                for topic in directory["topics"]:
                    for one in topic["partitions"]:
                        partition = PartitionId(topic["name"], one["partition_index"])
                        sizes[partition] = max(sizes.get(partition, 0), one["partition_size"])
        return sizes

    @_told
    def offsets(self, partitions: Sequence[PartitionId], at: Edge | int) -> dict[PartitionId, int]:
        if not partitions:
            return {}
        timestamp = at if isinstance(at, int) else _SENTINEL[at]
        found = self._admin.list_partition_offsets({TopicPartition(*one): timestamp for one in partitions})
        return {PartitionId(one.topic, one.partition): told.offset for one, told in found.items()}

    @_told
    def create_topic(
        self, name: str, partitions: int, replication: int, configs: Mapping[str, str], *, dry_run: bool
    ) -> None:
        wanted = {"num_partitions": partitions, "replication_factor": replication, "configs": dict(configs)}
        told = self._admin.create_topics({name: wanted}, validate_only=dry_run, raise_errors=False)
        for topic in told["topics"]:
            _check(topic["error_code"], topic.get("error_message"), f"topic {name!r}")

    @_told
    def delete_topics(self, names: Sequence[str]) -> None:
        told = self._admin.delete_topics(list(names), raise_errors=False)
        for topic in told["topics"]:
            _check(topic["error_code"], topic.get("error_message"), f"topic {topic['name']!r}")

    @_told
    def grow_topic(self, name: str, partitions: int) -> None:
        told = self._admin.create_partitions({name: partitions}, raise_errors=False)
        for topic in told["results"] if isinstance(told, dict) else told.results:
            one = topic if isinstance(topic, dict) else topic.to_dict()
            _check(one["error_code"], one.get("error_message"), f"topic {name!r}")

    # Configs

    @_told
    def configs(self, kind: ConfigKind, name: str) -> list[ConfigEntry]:
        resource = ConfigResource(ConfigResourceType[kind.upper()], name)
        told = self._admin.describe_configs([resource], config_filter="all").get(kind, {}).get(name, {})
        return [
            ConfigEntry(key, one["value"], one["config_source"], one["read_only"], one["is_sensitive"])
            for key, one in sorted(told.items())
        ]

    @_told
    def alter_configs(self, kind: ConfigKind, name: str, changes: Mapping[str, str | None], *, dry_run: bool) -> None:
        wanted = {key: ("DELETE" if value is None else "SET", value) for key, value in changes.items()}
        resource = ConfigResource(ConfigResourceType[kind.upper()], name, wanted)
        told = self._admin.alter_configs([resource], validate_only=dry_run, raise_on_unknown=False)
        for result in told.get(kind, {}).values():
            if result != "OK":
                raise Refused(f"{kind} {name!r}: {_ERROR_HEAD.sub('', result)[:1000]}")

    # Groups

    @_told
    def groups(self) -> list[GroupSummary]:
        told = self._admin.list_groups()
        found = [
            GroupSummary(one["group_id"], one.get("group_state") or "", one.get("group_type") or one["protocol_type"])
            for one in told
        ]
        return sorted(found, key=lambda group: group.name)

    @_told
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

    @_told
    def group_offsets(self, group: str) -> dict[PartitionId, int]:
        told = self._admin.list_group_offsets([group]).get(group, {})
        return {PartitionId(one.topic, one.partition): at.offset for one, at in told.items() if at.offset >= 0}

    @_told
    def share_positions(self, group: str) -> dict[PartitionId, SharePosition]:
        asked = {"groups": [{"group_id": group, "topics": None}]}
        return positions_in(self._said_of(group, SHARE_OFFSETS, asked))

    def _said_of(self, group: str, key: int, body: Mapping[str, Any]) -> Message:
        """What the group's coordinator says of it. Raises Refused."""
        manager = self._admin._manager
        question = question_of(key, body, manager.broker_version_data.api_versions or {})
        coordinator = manager.run(self._admin._find_coordinator_id, group)
        told = question.group_in(manager.run(manager.send, question, coordinator))
        _check(told.error_code, told.error_message, f"group {group!r}")
        return told

    @_told
    def set_group_offsets(self, group: str, offsets: Mapping[PartitionId, int]) -> None:
        wanted = {TopicPartition(*one): OffsetAndMetadata(offset, "", -1) for one, offset in offsets.items()}
        for partition, error in self._admin.alter_group_offsets(group, wanted).items():
            if error is not NoError:
                running = " (its members must stop first)" if "MEMBER" in _words(error).upper() else ""
                raise Refused(f"group {group!r}, {partition.topic}-{partition.partition}: {_words(error)}{running}")

    @_told
    def delete_groups(self, names: Sequence[str]) -> None:
        for name, told in self._admin.delete_groups(list(names)).items():
            if told != "OK":
                raise Refused(f"group {name!r}: {told}")

    # Rights and users

    @_told
    def acls(self, matching: Acl) -> list[Acl]:
        found, _ = self._admin.describe_acls(_acl_filter(matching))
        return [_acl(one) for one in found]

    @_told
    def add_acl(self, acl: Acl) -> None:
        pattern = ResourcePattern(
            ResourceType[acl.resource.upper()], acl.name, ACLResourcePatternType[acl.pattern.upper()]
        )
        wanted = ACL(
            acl.principal, acl.host, _operation(acl.operation), ACLPermissionType[acl.permission.upper()], pattern
        )
        failed = self._admin.create_acls([wanted])["failed"]
        if failed:
            raise Refused(_words(failed[0]))

    @_told
    def delete_acls(self, matching: Acl) -> list[Acl]:
        deleted = []
        for _, found, error in self._admin.delete_acls([_acl_filter(matching)]):
            if error is not NoError:
                raise Refused(_words(error))
            deleted += [_acl(one) for one in found]
        return deleted

    @_told
    def users(self) -> list[ScramUser]:
        told = self._admin.describe_user_scram_credentials()
        return [
            ScramUser(
                name, {one["mechanism"].name.replace("_", "-"): one["iterations"] for one in user["credential_infos"]}
            )
            for name, user in sorted(told.items())
        ]

    @_told
    def set_user(self, name: str, mechanism: str, password: str, iterations: int) -> None:
        self._alter_user(name, UserScramCredentialUpsertion(name, mechanism, password, iterations=iterations))

    @_told
    def delete_user(self, name: str, mechanism: str) -> None:
        self._alter_user(name, UserScramCredentialDeletion(name, mechanism))

    def _alter_user(self, name: str, change: object) -> None:
        for told in self._admin.alter_user_scram_credentials([change]).values():
            if told is not None:
                raise Refused(f"user {name!r}: {told}")

    # Quotas: kafka-python knows the requests and has no method for them

    @_told
    def quotas(self) -> list[Quota]:
        answer = self._send(DescribeClientQuotasRequest(components=[], strict=False))
        _check(answer["error_code"], answer.get("error_message"), "quotas")
        return [
            Quota(
                {part["entity_type"]: part["entity_name"] for part in entry["entity"]},
                {value["key"]: value["value"] for value in entry["values"]},
            )
            for entry in answer["entries"] or ()
        ]

    @_told
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
            _check(told["error_code"], told.get("error_message"), "quotas")

    def _send(self, request: object) -> dict[str, Any]:
        manager = self._admin._manager
        answer: dict[str, Any] = manager.run(manager.send, request).to_dict()
        return answer

    # Records

    @_told
    def writer(self, topic: str, *, compression: str | None, acks: str) -> _Writer:
        producer = KafkaProducer(
            **self._settings,
            acks=acks if acks == "all" else int(acks),
            compression_type=compression,
            linger_ms=5,
            client_id="penstock",
        )
        return _Writer(producer, topic)

    @_told
    def reader(self, positions: Mapping[PartitionId, int], *, committed: bool) -> _Reader:
        consumer = self._consumer(committed=committed, group_id=None)
        consumer.assign([TopicPartition(*one) for one in positions])
        for one, offset in positions.items():
            consumer.seek(TopicPartition(*one), offset)
        return _Reader(consumer)

    @_told
    def group_reader(self, topics: Sequence[str], group: str, *, committed: bool, from_start: bool) -> _Reader:
        reset = "earliest" if from_start else "latest"
        consumer = self._consumer(committed=committed, group_id=group, auto_offset_reset=reset)
        consumer.subscribe(list(topics))
        return _Reader(consumer)

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


class _Writer:
    """Satisfies `Writer`."""

    def __init__(self, producer: KafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self._pending: list[Any] = []

    @_told
    def write(self, record: NewRecord) -> None:
        if len(self._pending) >= PENDING_MAX:
            self._settle()
        self._pending.append(
            self._producer.send(
                self._topic,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                partition=record.partition,
                timestamp_ms=record.timestamp_ms,
            )
        )

    @_told
    def flush(self) -> None:
        self._settle()

    def _settle(self) -> None:
        self._producer.flush()
        pending, self._pending = self._pending, []
        for one in pending:
            one.get(timeout=REQUEST_MS / 1000)

    def close(self) -> None:
        with contextlib.suppress(KafkaError):
            self._producer.close(timeout=1)


class _Reader:
    """Satisfies `Reader`."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    @_told
    def poll(self, timeout_ms: int) -> list[Record]:
        found = self._consumer.poll(timeout_ms=timeout_ms)
        return [
            Record(one.topic, one.partition, one.offset, one.timestamp, one.key, one.value, one.headers)
            for records in found.values()
            for one in records
        ]

    @_told
    def position(self, partition: PartitionId) -> int:
        return int(self._consumer.position(TopicPartition(*partition)))

    @_told
    def pause(self, partition: PartitionId) -> None:
        self._consumer.pause(TopicPartition(*partition))

    @_told
    def commit(self, offsets: Mapping[PartitionId, int]) -> None:
        self._consumer.commit(
            {TopicPartition(*one): OffsetAndMetadata(offset, "", -1) for one, offset in offsets.items()}
        )

    def close(self) -> None:
        with contextlib.suppress(KafkaError):
            self._consumer.close(autocommit=False, timeout_ms=3_000)


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
        why, protocol = _words(failures.last), connection.security_protocol
        raise Refused(f"no connection with {protocol} to {connection.bootstrap}: {why}") from error
    finally:
        log.removeHandler(failures)


def _quiet() -> None:
    log = logging.getLogger("kafka")
    log.addHandler(logging.NullHandler())
    log.propagate = False


def _check(code: int, message: str | None, what: str) -> None:
    if code:
        raise Refused(f"{what}: {_words(for_code(code), message)}")


def _by_id(one: Broker | Partition) -> int:
    return one.id


def _operation(name: str) -> ACLOperation:
    return ACLOperation[name.upper()]


def _acl_filter(acl: Acl) -> ACLFilter:
    pattern = ResourcePatternFilter(
        ResourceType[acl.resource.upper()], acl.name, ACLResourcePatternType[acl.pattern.upper()]
    )
    permission = ACLPermissionType[acl.permission.upper()]
    return ACLFilter(acl.principal, acl.host, _operation(acl.operation), permission, pattern)


def _acl(acl: ACL) -> Acl:
    pattern = acl.resource_pattern
    return Acl(
        acl.principal,
        acl.host,
        acl.operation.name.lower(),
        acl.permission_type.name.lower(),
        pattern.resource_type.name.lower(),
        pattern.resource_name,
        pattern.pattern_type.name.lower(),
    )
