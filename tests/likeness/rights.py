"""What a client with few rights is answered: scenes of ACLs, and the questions of one who has no others.

`python -m tests.likeness.rights` starts a Kafka with its StandardAuthorizer and writes `rights.json`. An administrator
comes by SASL, makes what there is, and changes ACLs from scene to scene. The questions come by a listener without
authentication, so as User:ANONYMOUS. They are about what exists and about what does not: to a client without rights
both are alike.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from compat_tests.harness.system import Kafka, free_port
from tests.likeness.asking import Server
from tests.likeness.questions import Question
from tests.likeness.record import written

ANSWERS: Final = Path(__file__).with_name("rights.json")
NOBODY: Final = UUID(int=0x77)
ANONYMOUS: Final = "User:ANONYMOUS"
TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID = 2, 3, 4, 5
ALL, READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, CLUSTER_ACTION = 2, 3, 4, 5, 6, 7, 8, 9
DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE = 10, 11, 12
DENY, ALLOW = 2, 3
ALREADY_THERE: Final = 36
PATIENCE_S: Final = 90.0
PAUSE_S: Final = 0.05
HERE: Final = "kafka-cluster"
Ask = Callable[[str, int, dict[str, Any]], dict[str, Any]]
Right = tuple[int, str, int, int]
"""Type and name of a resource, operation, permission."""


def may(kind: int, name: str, *operations: int, permission: int = ALLOW) -> list[Right]:
    return [(kind, name, operation, permission) for operation in operations]


def acl(kind: int, name: str, operation: int, permission: int = ALLOW) -> dict[str, Any]:
    return {
        "resource_type": kind,
        "resource_name": name,
        "resource_pattern_type": 3,
        "principal": ANONYMOUS,
        "host": "*",
        "operation": operation,
        "permission_type": permission,
    }


ANY_ACL: Final = {
    "resource_type_filter": 1,
    "resource_name_filter": None,
    "pattern_type_filter": 1,
    "principal_filter": None,
    "host_filter": None,
    "operation": 1,
    "permission_type": 1,
}


def _topics(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "partitions": [{"partition_index": 0}]} for name in names]


BOTH: Final = ("known", "unknown")
PRODUCER: Final = {"producer_id": 7, "producer_epoch": 0}

METADATA: Final = [
    Question(
        "topics by name",
        "Metadata",
        {"topics": [{"name": n} for n in BOTH], "allow_auto_topic_creation": False},
        some=("cluster_id",),
    ),
    Question("all topics", "Metadata", {"topics": None}, range(1, 14), ("cluster_id",)),
    Question(
        "operations",
        "Metadata",
        {
            "topics": [{"name": "known"}],
            "include_topic_authorized_operations": True,
            "include_cluster_authorized_operations": True,
        },
        range(8, 11),
        ("cluster_id",),
    ),
    Question(
        "a topic by an unknown id",
        "Metadata",
        {"topics": [{"name": None, "topic_id": NOBODY}]},
        range(12, 14),
        ("cluster_id",),
    ),
    Question("topics page by page", "DescribeTopicPartitions", {"topics": [{"name": n} for n in BOTH]}),
    Question("all topics page by page", "DescribeTopicPartitions", {"topics": []}),
    Question("the cluster", "DescribeCluster", {"include_cluster_authorized_operations": True}, some=("cluster_id",)),
]
OFFSETS: Final = [
    Question(
        "offsets",
        "ListOffsets",
        {"topics": [{"name": n, "partitions": [{"partition_index": 0, "timestamp": -1}]} for n in BOTH]},
        some=("offset",),
    ),
    Question(
        "the end of an epoch",
        "OffsetForLeaderEpoch",
        {
            "replica_id": -1,
            "topics": [
                {"topic": n, "partitions": [{"partition": 0, "current_leader_epoch": -1, "leader_epoch": 99}]}
                for n in BOTH
            ],
        },
    ),
]
RECORDS: Final = [
    Question(
        f"nothing to {name}",
        "Produce",
        {
            "acks": -1,
            "timeout": 1_000,
            "topic_data": [{"name": name, "partition_data": [{"index": 0, "records": b""}]}],
        },
        range(9, 13),
        some=("error_message", "log_start_offset", "base_offset"),
    )
    for name in BOTH
] + [
    Question(
        "records",
        "Fetch",
        {
            "max_wait": 0,
            "min_bytes": 0,
            "max_bytes": 1_000,
            "replica_id": -1,
            "topics": [
                {"topic": n, "partitions": [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1_000}]}
                for n in BOTH
            ],
        },
        range(4, 7),
        some=("log_start_offset", "preferred_read_replica", "last_stable_offset", "aborted_transactions"),
    ),
    Question(
        "records as a replica",
        "Fetch",
        {
            "max_wait": 0,
            "min_bytes": 0,
            "max_bytes": 1_000,
            "replica_id": 2,
            "topics": [
                {"topic": n, "partitions": [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1_000}]}
                for n in BOTH
            ],
        },
        range(4, 7),
        some=("log_start_offset", "last_stable_offset", "aborted_transactions"),
    ),
]
GROUPS: Final = [
    Question(
        "a group's coordinator", "FindCoordinator", {"key": "g", "key_type": 0}, range(1, 4), some=("error_message",)
    ),
    Question(
        "coordinators",
        "FindCoordinator",
        {"key_type": 0, "coordinator_keys": ["g", "none"]},
        range(4, 6),
        some=("error_message",),
    ),
    Question("heartbeat", "Heartbeat", {"group_id": "g", "generation_id": 1, "member_id": "m"}),
    Question("leaving", "LeaveGroup", {"group_id": "g", "member_id": "m", "members": [{"member_id": "m"}]}, range(3)),
    Question(
        "synchronising",
        "SyncGroup",
        {
            "group_id": "g",
            "generation_id": 1,
            "member_id": "m",
            "assignments": [],
            "protocol_type": "consumer",
            "protocol_name": "range",
        },
    ),
    Question(
        "a commit",
        "OffsetCommit",
        {
            "group_id": "g",
            "generation_id_or_member_epoch": -1,
            "member_id": "",
            "topics": [
                {"name": n, "partitions": [{"partition_index": 0, "committed_offset": 3, "committed_metadata": ""}]}
                for n in BOTH
            ],
        },
        range(2, 10),
    ),
    Question(
        "committed offsets",
        "OffsetFetch",
        {"group_id": "g", "topics": [{"name": n, "partition_indexes": [0]} for n in BOTH]},
        range(1, 8),
    ),
    Question("all committed offsets", "OffsetFetch", {"group_id": "g", "topics": None}, range(2, 8)),
    Question(
        "committed offsets of groups",
        "OffsetFetch",
        {
            "groups": [
                {"group_id": g, "topics": [{"name": n, "partition_indexes": [0]} for n in BOTH]} for g in ("g", "none")
            ]
        },
        range(8, 10),
    ),
    Question("groups", "DescribeGroups", {"groups": ["g", "none"], "include_authorized_operations": True}, range(3, 6)),
    Question("all groups", "ListGroups", {}),
    Question("offsets' end", "OffsetDelete", {"group_id": "g", "topics": _topics("unknown")}),
]
TRANSACTIONS: Final = [
    Question(
        "a transaction's coordinator",
        "FindCoordinator",
        {"key": "t", "key_type": 1},
        range(1, 4),
        some=("error_message",),
    ),
    Question(
        "a transactional producer",
        "InitProducerId",
        {"transactional_id": "t", "transaction_timeout": 10_000, "producer_id": -1, "producer_epoch": -1},
        range(5),
        some=("producer_id", "producer_epoch"),
    ),
    Question(
        "an idempotent producer",
        "InitProducerId",
        {"transactional_id": None, "transaction_timeout": 10_000, "producer_id": -1, "producer_epoch": -1},
        range(5),
        some=("producer_id",),
    ),
    Question(
        "partitions",
        "AddPartitionsToTxn",
        {
            "v3_and_below_transactional_id": "t",
            "v3_and_below_producer_id": 7,
            "v3_and_below_producer_epoch": 0,
            "v3_and_below_topics": [{"name": n, "partitions": [0]} for n in BOTH],
        },
        range(4),
    ),
    Question("partitions as a broker", "AddPartitionsToTxn", {"transactions": []}, range(4, 6)),
    Question("a group", "AddOffsetsToTxn", {"transactional_id": "t", "group_id": "g", **PRODUCER}),
    Question("the end", "EndTxn", {"transactional_id": "t", "committed": True, **PRODUCER}, range(5)),
    Question(
        "a group's offsets",
        "TxnOffsetCommit",
        {
            "transactional_id": "t",
            "group_id": "g",
            **PRODUCER,
            "topics": [
                {"name": n, "partitions": [{"partition_index": 0, "committed_offset": 3, "committed_metadata": ""}]}
                for n in BOTH
            ],
        },
        range(4),
    ),
    Question(
        "markers",
        "WriteTxnMarkers",
        {
            "markers": [
                {
                    **PRODUCER,
                    "transaction_result": True,
                    "coordinator_epoch": 0,
                    "topics": [{"name": "unknown", "partition_indexes": [0]}],
                }
            ]
        },
        range(1, 2),
    ),
    Question("transactions", "DescribeTransactions", {"transactional_ids": ["t", "none"]}),
    Question("all transactions", "ListTransactions", {"state_filters": [], "producer_id_filters": []}, range(2)),
    Question(
        "producers",
        "DescribeProducers",
        {"topics": [{"name": n, "partition_indexes": [0]} for n in BOTH]},
        some=("active_producers", "error_message"),
    ),
]
CHANGES: Final = [
    Question(
        "a new topic",
        "CreateTopics",
        {
            "timeout": 1_000,
            "validate_only": True,
            "topics": [{"name": n, "num_partitions": 1, "replication_factor": 1} for n in ("known", "fresh")],
        },
        range(2, 8),
        some=("configs", "topic_id"),
    ),
    Question(
        "a topic's end",
        "DeleteTopics",
        {
            "timeout": 1_000,
            "topic_names": ["unknown"],
            "topics": [{"name": "unknown"}, {"name": None, "topic_id": NOBODY}],
        },
        range(1, 7),
        some=("error_message",),
    ),
    Question(
        "records' end",
        "DeleteRecords",
        {"timeout": 1_000, "topics": [{"name": n, "partitions": [{"partition_index": 0, "offset": 0}]} for n in BOTH]},
    ),
    Question(
        "more partitions",
        "CreatePartitions",
        {
            "timeout": 1_000,
            "validate_only": True,
            "topics": [{"name": n, "count": 5, "assignments": None} for n in BOTH],
        },
        some=("error_message",),
    ),
    Question(
        "configs",
        "DescribeConfigs",
        {
            "resources": [
                {"resource_type": kind, "resource_name": name, "configuration_keys": ["nothing"]}
                for kind, name in ((2, "known"), (2, "unknown"), (4, ""), (8, "1"), (32, "g"))
            ]
        },
        range(1, 5),
    ),
    Question(
        "other configs",
        "AlterConfigs",
        {"validate_only": True, "resources": [{"resource_type": 2, "resource_name": n, "configs": []} for n in BOTH]},
        some=("error_message",),
    ),
    Question(
        "changed configs",
        "IncrementalAlterConfigs",
        {
            "validate_only": True,
            "resources": [
                {"resource_type": kind, "resource_name": name, "configs": []}
                for kind, name in ((2, "known"), (2, "unknown"), (32, "g"))
            ],
        },
        some=("error_message",),
    ),
    Question("names of configs", "ListConfigResources", {"resource_types": [16]}),
]
CLUSTERS: Final = [
    Question(
        "directories",
        "DescribeLogDirs",
        {"topics": [{"topic": "unknown", "partitions": [0]}]},
        some=("total_bytes", "usable_bytes", "log_dir"),
    ),
    Question(
        "moves",
        "AlterReplicaLogDirs",
        {"dirs": [{"path": "/nowhere", "topics": [{"name": "known", "partitions": [0]}]}]},
    ),
    Question(
        "elections",
        "ElectLeaders",
        {"election_type": 0, "timeout": 1_000, "topic_partitions": [{"topic": "known", "partitions": [0]}]},
        some=("error_message",),
    ),
    Question(
        "reassignments",
        "AlterPartitionReassignments",
        {"timeout": 1_000, "topics": [{"name": "unknown", "partitions": [{"partition_index": 0, "replicas": [1]}]}]},
        some=("error_message",),
    ),
    Question(
        "reassignments under way",
        "ListPartitionReassignments",
        {"timeout": 1_000, "topics": None},
        some=("error_message",),
    ),
    Question("quotas", "DescribeClientQuotas", {"components": [], "strict": False}, some=("error_message",)),
    Question(
        "changed quotas",
        "AlterClientQuotas",
        {
            "validate_only": True,
            "entries": [
                {
                    "entity": [{"entity_type": "user", "entity_name": "u"}],
                    "ops": [{"key": "producer_byte_rate", "remove": True}],
                }
            ],
        },
        some=("error_message",),
    ),
    Question(
        "credentials", "DescribeUserScramCredentials", {"users": [{"name": "u"}]}, some=("error_message", "results")
    ),
    Question(
        "changed credentials",
        "AlterUserScramCredentials",
        {"deletions": [{"name": "u", "mechanism": 1}], "upsertions": []},
        some=("error_message",),
    ),
    Question(
        "ACLs", "DescribeAcls", {**ANY_ACL, "principal_filter": "User:nobody"}, range(1, 4), some=("error_message",)
    ),
    Question("a new ACL", "CreateAcls", {"creations": [acl(TOPIC, "other", READ)]}, some=("error_message",)),
    Question(
        "an ACL's end",
        "DeleteAcls",
        {"filters": [{**ANY_ACL, "principal_filter": "User:nobody"}]},
        some=("error_message",),
    ),
    Question(
        "features",
        "UpdateFeatures",
        {"timeout": 1_000, "validate_only": True, "feature_updates": []},
        range(1, 3),
        some=("error_message",),
    ),
]
ACLS: Final = [
    Question(
        name,
        "CreateAcls",
        {"creations": [acl(TOPIC, "other", READ), {**acl(TOPIC, "other", READ), **changes}]},
        range(2, 4),
        some=("error_message",),
    )
    for name, changes in (
        ("the same ACL twice", {}),
        ("an operation that the type does not have", {"operation": CLUSTER_ACTION}),
        ("a host that is no address", {"host": "somewhere"}),
        ("a principal without a type", {"principal": "alice"}),
        ("a principal without a name", {"principal": "User:"}),
        ("another cluster", {"resource_type": CLUSTER, "resource_name": "other"}),
        ("no name", {"resource_name": ""}),
        ("any operation", {"operation": 1}),
        ("an unknown operation", {"operation": 99}),
        ("any permission", {"permission_type": 1}),
        ("an unknown permission", {"permission_type": 99}),
        ("any type", {"resource_type": 1}),
        ("an unknown type", {"resource_type": 99}),
        ("any pattern", {"resource_pattern_type": 1}),
        ("a matching pattern", {"resource_pattern_type": 2}),
        ("an unknown pattern", {"resource_pattern_type": 99}),
    )
] + [
    Question(
        name,
        api,
        {**ANY_ACL, **changes} if api == "DescribeAcls" else {"filters": [{**ANY_ACL, **changes}]},
        range(2, 4),
        some=("error_message",),
    )
    for api in ("DescribeAcls", "DeleteAcls")
    for name, changes in (
        (f"{api} of a name", {"resource_name_filter": "other", "pattern_type_filter": 3}),
        (f"{api} about a name", {"resource_name_filter": "other", "pattern_type_filter": 2}),
        (f"{api} of an unknown type", {"resource_type_filter": 99, "principal_filter": "User:x"}),
        (f"{api} of an unknown operation", {"operation": 99, "principal_filter": "User:x"}),
    )
]
EVERYTHING: Final = [*METADATA, *OFFSETS, *RECORDS, *GROUPS, *TRANSACTIONS, *CHANGES, *CLUSTERS]
SCENES: Final[dict[str, tuple[list[Right], list[Question]]]] = {
    "no right": ([], EVERYTHING),
    "describe": (
        [
            *may(TOPIC, "known", DESCRIBE),
            *may(TOPIC, "unknown", DESCRIBE),
            *may(GROUP, "g", DESCRIBE),
            *may(TRANSACTIONAL_ID, "t", DESCRIBE),
        ],
        [*METADATA, *OFFSETS, *GROUPS, *TRANSACTIONS, *CHANGES],
    ),
    "read": ([*may(TOPIC, "known", READ), *may(GROUP, "g", READ)], [*METADATA, *OFFSETS, *RECORDS, *GROUPS]),
    "write": ([*may(TOPIC, "known", WRITE), *may(TRANSACTIONAL_ID, "t", WRITE)], [*METADATA, *RECORDS]),
    "the cluster alone": (may(CLUSTER, HERE, DESCRIBE, DESCRIBE_CONFIGS), [*METADATA, *CLUSTERS[:1], *GROUPS]),
    "create in the cluster": (may(CLUSTER, HERE, CREATE), CHANGES[:1]),
    "create a topic": (may(TOPIC, "*", CREATE), CHANGES[:1]),
    "delete in the cluster": ([*may(CLUSTER, HERE, DELETE), *may(TOPIC, "*", DELETE, permission=DENY)], CHANGES[1:2]),
    "alter the cluster": (may(CLUSTER, HERE, ALTER), [*ACLS]),
    "write idempotently": (may(CLUSTER, HERE, IDEMPOTENT_WRITE), TRANSACTIONS[1:3]),
    "a denial above": (
        [*may(TOPIC, "known", ALL), *may(TOPIC, "unknown", ALL), *may(TOPIC, "known", READ, permission=DENY)],
        [*METADATA, *RECORDS],
    ),
}


def prepare(ask: Ask) -> None:
    """What the questions are about, made by an administrator."""
    topics = [{"name": "known", "num_partitions": 2, "replication_factor": 1}]
    _until(lambda: ask("CreateTopics", 5, {"timeout": 10_000, "topics": topics}))
    _until(lambda: ask("FindCoordinator", 1, {"key": "g", "key_type": 0}))
    partitions = [{"partition_index": 0, "committed_offset": 1, "committed_metadata": ""}]
    commit = {"group_id": "g", "generation_id_or_member_epoch": -1, "member_id": "", "retention_time": -1}
    _until(lambda: ask("OffsetCommit", 5, {**commit, "topics": [{"name": "known", "partitions": partitions}]}))
    _until(lambda: ask("FindCoordinator", 1, {"key": "t", "key_type": 1}))
    started = {"transactional_id": "t", "transaction_timeout": 600_000, "producer_id": -1, "producer_epoch": -1}
    _until(lambda: ask("InitProducerId", 2, started))


def _until(ask: Callable[[], Any]) -> Any:
    """Ask until there is no error."""
    ends_at = time.monotonic() + PATIENCE_S
    while any(codes(answer := ask())):
        assert time.monotonic() < ends_at, answer
        time.sleep(PAUSE_S)
    return answer


def codes(answer: Any) -> Iterator[int]:
    """Every error code in a plain answer, but "exists already"."""
    if isinstance(answer, dict):
        for name, value in answer.items():
            if name == "error_code" and value != ALREADY_THERE:
                yield value
            yield from codes(value)
    elif isinstance(answer, list):
        for item in answer:
            yield from codes(item)


def set_scene(ask: Ask, rights: list[Right]) -> None:
    """Replace all ACLs, and wait until they are in effect."""
    ask("DeleteAcls", 2, {"filters": [ANY_ACL]})
    if rights:
        results = ask("CreateAcls", 2, {"creations": [acl(*right) for right in rights]})["results"]
        assert not any(result["error_code"] for result in results)
    ends_at = time.monotonic() + PATIENCE_S
    while sum(len(some["acls"]) for some in ask("DescribeAcls", 2, ANY_ACL)["resources"]) != len(rights):
        assert time.monotonic() < ends_at, f"the ACLs {rights} are not in effect"


def answers(administrator: Ask, stranger: Server) -> Iterator[tuple[str, Question, int, Any]]:
    """By scene and question: the answer in each version."""
    prepare(administrator)
    for scene, (rights, questions) in SCENES.items():
        set_scene(administrator, rights)
        for question, version, answer in stranger.answers(questions):
            yield scene, question, version, _in_order(answer)


def _in_order(answer: Any) -> Any:
    """Groups and ACLs in one order: Kafka's is that of its hash tables."""
    if isinstance(answer, dict):
        return {name: _in_order(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return sorted(map(_in_order, answer), key=lambda item: json.dumps(item, sort_keys=True))
    return answer


class Administrator(Server):
    """A client that authenticates by SASL PLAIN."""

    def _connected(self) -> socket.socket:
        self._connection = super()._connected()
        for api, version, body in (
            ("SaslHandshake", 1, {"mechanism": "PLAIN"}),
            ("SaslAuthenticate", 1, {"auth_bytes": b"\0admin\0admin-secret"}),
        ):
            assert self.said(api, version, body)["error_code"] == 0
        return self._connection


def recorded(administrator: Ask, stranger: Server) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for scene, question, version, answer in answers(administrator, stranger):
        alike = found.setdefault(scene, {}).setdefault(f"{question.api}: {question.name}", [])
        if alike and alike[-1]["answer"] == answer:
            alike[-1]["versions"][1] = version
        else:
            alike.append({"versions": [version, version], "answer": answer})
    return found


class KafkaWithRights(Kafka):
    """A Kafka with an authorizer and two listeners: PLAINTEXT, and SASL_PLAINTEXT for its administrator."""

    def __init__(self, directory: Path) -> None:
        self.administrators = f"127.0.0.1:{free_port()}"
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        super().__init__(
            directory,
            {
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:admin",
                "early.start.listeners": "CONTROLLER",
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.admin.plain.sasl.jaas.config": f'{module} required user_admin="admin-secret";',
                "listener.name.controller.plain.sasl.jaas.config": f'{module} required username="admin" '
                'password="admin-secret" user_admin="admin-secret";',
                "sasl.mechanism.controller.protocol": "PLAIN",
                "group.coordinator.rebalance.protocols": "classic",
                "auto.create.topics.enable": "false",
            },
            features=("share.version=0", "streams.version=0"),
        )

    def _configuration(self, controller: str) -> str:
        text = super()._configuration(controller)
        text = text.replace(",CONTROLLER://", f",ADMIN://{self.administrators},CONTROLLER://")
        return (
            text.replace(
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "PLAINTEXT:PLAINTEXT,ADMIN:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
            )
            + "inter.broker.listener.name=PLAINTEXT\n"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        kafka = KafkaWithRights(Path(directory))
        kafka.start()
        try:
            administrator, stranger = Administrator(kafka.administrators, own={}), Server(kafka.address, own={})
            found = recorded(administrator.said, stranger)
            administrator.close()
            stranger.close()
        finally:
            kafka.stop()
    ANSWERS.write_text(written(found))


if __name__ == "__main__":
    main()
