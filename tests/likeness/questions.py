"""The questions to both: APIs for which a Kafka without security has nothing to do, and those of new group protocols.

The questions of one group are asked in their order, each in every version, on one broker; groups do not meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

ZERO: Final = UUID(int=0)
SOME_ID: Final = UUID(int=0x1234)
LOG_DIR: Final = "LOG_DIR"
"""Stands for the directory in which the server keeps its data."""
MEMBER: Final = "Vt6s1sXCQ0eb8gs-CVVWZQ"


@dataclass(frozen=True, slots=True)
class Question:
    """One request, of which only these versions are asked, where they are named."""

    name: str
    api: str
    body: dict[str, Any] = field(default_factory=dict)
    versions: range | None = None
    some: tuple[str, ...] = ()
    """Fields of the answer of which only the type counts."""


def _acl(**changes: Any) -> dict[str, Any]:
    return {
        "resource_type": 2,
        "resource_name": "known",
        "resource_pattern_type": 3,
        "principal": "User:alice",
        "host": "*",
        "operation": 3,
        "permission_type": 3,
    } | changes


def _filter(**changes: Any) -> dict[str, Any]:
    return {
        "resource_type_filter": 1,
        "resource_name_filter": None,
        "pattern_type_filter": 1,
        "principal_filter": None,
        "host_filter": None,
        "operation": 1,
        "permission_type": 1,
    } | changes


def _user(name: str | None, kind: str = "user") -> dict[str, Any]:
    return {"entity_type": kind, "entity_name": name}


def _quota(*entity: dict[str, Any], ops: list[dict[str, Any]]) -> dict[str, Any]:
    return {"entity": list(entity), "ops": ops}


def _reassign(topic: str, partition: int, replicas: list[int] | None, **more: Any) -> dict[str, Any]:
    partitions = [{"partition_index": partition, "replicas": replicas}]
    return {"timeout": 10_000, "topics": [{"name": topic, "partitions": partitions}]} | more


def _quorum(topic: str, *partitions: int) -> dict[str, Any]:
    return {"topics": [{"topic_name": topic, "partitions": [{"partition_index": p} for p in partitions]}]}


def _update(feature: str, level: int, upgrade_type: int = 1) -> dict[str, Any]:
    return {"feature": feature, "max_version_level": level, "upgrade_type": upgrade_type}


def _resource(kind: int, name: str, *keys: str) -> dict[str, Any]:
    return {"resource_type": kind, "resource_name": name, "configuration_keys": list(keys) or None}


def _described(kind: int, name: str, *keys: str) -> dict[str, Any]:
    return {"resources": [_resource(kind, name, *keys)], "include_synonyms": True}


def _alter(kind: int, name: str, *changes: tuple[str, int, str | None], validate_only: bool = False) -> dict[str, Any]:
    configs = [{"name": key, "config_operation": operation, "value": value} for key, operation, value in changes]
    resources = [{"resource_type": kind, "resource_name": name, "configs": configs}]
    return {"resources": resources, "validate_only": validate_only}


SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3
CLIENT_METRICS, GROUP = 16, 32

SECURITY: Final = [
    Question("all ACLs", "DescribeAcls", _filter()),
    Question("ACLs of a topic", "DescribeAcls", _filter(resource_type_filter=2, resource_name_filter="known")),
    Question("an ACL", "CreateAcls", {"creations": [_acl()]}),
    Question("two ACLs, one of them wrong", "CreateAcls", {"creations": [_acl(), _acl(principal="nobody")]}),
    Question("no ACL", "CreateAcls", {"creations": []}),
    Question("ACLs to delete", "DeleteAcls", {"filters": [_filter(), _filter(resource_type_filter=2)]}),
    Question("no ACLs to delete", "DeleteAcls", {"filters": []}),
    Question("a mechanism", "SaslHandshake", {"mechanism": "PLAIN"}),
    Question("an unknown mechanism", "SaslHandshake", {"mechanism": "x"}),
    Question("a password", "SaslAuthenticate", {"auth_bytes": b"\0alice\0secret"}),
    Question("nothing to authenticate by", "SaslAuthenticate", {"auth_bytes": b""}),
]
TOKENS: Final = [
    Question("a token", "CreateDelegationToken", {"renewers": [], "max_lifetime": -1}),
    Question(
        "a token with a renewer",
        "CreateDelegationToken",
        {"renewers": [{"principal_type": "User", "principal_name": "bob"}], "max_lifetime": 1},
    ),
    Question(
        "a token for another",
        "CreateDelegationToken",
        {"renewers": [], "owner_principal_type": "User", "owner_principal_name": "bob"},
        range(3, 4),
    ),
    Question("a token's renewal", "RenewDelegationToken", {"hmac": b"x", "renew_period": -1}),
    Question("a token's end", "ExpireDelegationToken", {"hmac": b"x", "expiry_time_period": -1}),
    Question("all tokens", "DescribeDelegationToken", {"owners": None}),
    Question("nobody's tokens", "DescribeDelegationToken", {"owners": []}),
    Question(
        "somebody's tokens",
        "DescribeDelegationToken",
        {"owners": [{"principal_type": "User", "principal_name": "bob"}]},
    ),
]
BYTE_RATE: Final = {"key": "consumer_byte_rate", "value": 1e6, "remove": False}
NO_RATE: Final = BYTE_RATE | {"remove": True}
QUOTAS: Final = [
    Question("all quotas", "DescribeClientQuotas", {"components": [], "strict": False}),
    Question("all quotas strictly", "DescribeClientQuotas", {"components": [], "strict": True}),
    *(
        Question(name, "DescribeClientQuotas", {"components": components, "strict": False})
        for name, components in {
            "a user's quotas": [{"entity_type": "user", "match_type": 0, "match": "alice"}],
            "the default user's quotas": [{"entity_type": "user", "match_type": 1, "match": None}],
            "an address's quotas": [{"entity_type": "ip", "match_type": 0, "match": "127.0.0.1"}],
            "quotas of what has none": [{"entity_type": "host", "match_type": 0, "match": "a"}],
            "quotas of an entity without a type": [{"entity_type": "", "match_type": 0, "match": "a"}],
            "quotas by an unknown match": [{"entity_type": "user", "match_type": 9, "match": "alice"}],
            "quotas by a negative match": [{"entity_type": "user", "match_type": -1, "match": "alice"}],
            "quotas by a match without a name": [{"entity_type": "user", "match_type": 0, "match": None}],
            "quotas by a default with a name": [{"entity_type": "user", "match_type": 1, "match": "alice"}],
            "quotas by any with a name": [{"entity_type": "user", "match_type": 2, "match": "alice"}],
            "quotas of an entity asked twice": [{"entity_type": "user", "match_type": 2, "match": None}] * 2,
            "quotas of address and user": [
                {"entity_type": "ip", "match_type": 2, "match": None},
                {"entity_type": "user", "match_type": 2, "match": None},
            ],
        }.items()
    ),
    *(
        Question(name, "AlterClientQuotas", {"entries": entries, "validate_only": False})
        for name, entries in {
            "no quota": [],
            "a quota taken away that is not there": [_quota(_user("alice"), ops=[NO_RATE])],
            "an unknown quota": [_quota(_user("alice"), ops=[BYTE_RATE | {"key": "speed"}])],
            "an unknown quota taken away": [_quota(_user("alice"), ops=[NO_RATE | {"key": "speed"}])],
            "a negative quota": [_quota(_user("alice"), ops=[BYTE_RATE | {"value": -1.0}])],
            "a quota of zero": [_quota(_user("alice"), ops=[BYTE_RATE | {"value": 0.0}])],
            "a quota that is half a byte": [_quota(_user("alice"), ops=[BYTE_RATE | {"value": 0.5}])],
            "a negative quota that is half a byte": [_quota(_user("alice"), ops=[BYTE_RATE | {"value": -0.5}])],
            "a quota over all numbers": [_quota(_user("alice"), ops=[BYTE_RATE | {"value": 1e19}])],
            "connections over all numbers": [
                _quota(_user("127.0.0.1", "ip"), ops=[BYTE_RATE | {"key": "connection_creation_rate", "value": 3e9}])
            ],
            "half a connection": [
                _quota(_user("127.0.0.1", "ip"), ops=[BYTE_RATE | {"key": "connection_creation_rate", "value": 0.5}])
            ],
            "a quota that is too much beside one taken away": [
                _quota(_user("alice"), ops=[BYTE_RATE | {"value": 0.0}, NO_RATE | {"key": "producer_byte_rate"}])
            ],
            "the default user's unknown quota": [_quota(_user(None), ops=[BYTE_RATE | {"key": "speed"}])],
            "a client's unknown quota": [
                _quota(_user("c", "client-id"), _user("alice"), ops=[BYTE_RATE | {"key": "speed"}])
            ],
            "a user and client twice": [_quota(_user("c", "client-id"), _user(None), ops=[NO_RATE])] * 2,
            "a user's connections": [
                _quota(_user("alice"), ops=[BYTE_RATE | {"key": "connection_creation_rate", "value": 1.0}])
            ],
            "an address's bytes": [_quota(_user("127.0.0.1", "ip"), ops=[BYTE_RATE])],
            "an address and a user": [_quota(_user("127.0.0.1", "ip"), _user("alice"), ops=[NO_RATE])],
            "an unknown entity": [_quota(_user("a", "host"), ops=[BYTE_RATE])],
            "an empty entity": [_quota(ops=[BYTE_RATE])],
            "an entity with an empty name": [_quota(_user(""), ops=[NO_RATE])],
            "an entity's type twice": [_quota(_user("alice"), _user("bob"), ops=[NO_RATE])],
            "a quota without changes": [_quota(_user("alice"), ops=[])],
            "a quota twice in one change": [_quota(_user("alice"), ops=[NO_RATE, NO_RATE])],
            "an entity twice": [_quota(_user("alice"), ops=[NO_RATE])] * 2,
        }.items()
    ),
]


def _scram(name: str, mechanism: int = 1, iterations: int = 4096) -> dict[str, Any]:
    return {
        "name": name,
        "mechanism": mechanism,
        "iterations": iterations,
        "salt": b"salt",
        "salted_password": b"x" * 32,
    }


SCRAM: Final = [
    Question("all credentials", "DescribeUserScramCredentials", {"users": None}),
    Question("nobody's credentials", "DescribeUserScramCredentials", {"users": []}),
    Question("a user's credentials", "DescribeUserScramCredentials", {"users": [{"name": "alice"}]}),
    Question("credentials of no name", "DescribeUserScramCredentials", {"users": [{"name": ""}, {"name": "bob"}]}),
    Question("a user's credentials twice", "DescribeUserScramCredentials", {"users": [{"name": "alice"}] * 2}),
    *(
        Question(name, "AlterUserScramCredentials", {"deletions": deletions, "upsertions": upsertions})
        for name, deletions, upsertions in (
            ("no credential", [], []),
            ("a credential deleted that is not there", [{"name": "alice", "mechanism": 1}], []),
            ("a credential deleted twice", [{"name": "alice", "mechanism": 1}] * 2, []),
            ("a credential deleted without a name", [{"name": "", "mechanism": 1}], []),
            ("a credential deleted of no mechanism", [{"name": "alice", "mechanism": 0}], []),
            ("a credential without a name", [], [_scram("")]),
            ("a credential with few iterations", [], [_scram("alice", iterations=4095)]),
            ("a credential with many iterations", [], [_scram("alice", iterations=16_385)]),
            ("a credential of no mechanism", [], [_scram("alice", mechanism=0)]),
            ("a credential of an unknown mechanism", [], [_scram("alice", mechanism=9)]),
            ("a credential changed and deleted", [{"name": "alice", "mechanism": 1}], [_scram("alice")]),
            ("a credential twice", [], [_scram("alice"), _scram("alice")]),
            ("two faults", [{"name": "bob", "mechanism": 2}], [_scram("alice", iterations=1)]),
        )
    ),
]
CLUSTER: Final = [
    Question(
        "the topic",
        "CreateTopics",
        {"topics": [{"name": "known", "num_partitions": 2, "replication_factor": 1}], "timeout": 10_000},
        range(2, 3),
    ),
    Question("the quorum", "DescribeQuorum", _quorum("__cluster_metadata", 0)),
    Question("no quorum", "DescribeQuorum", {"topics": []}),
    Question("another topic's quorum", "DescribeQuorum", _quorum("known", 0)),
    Question("another partition's quorum", "DescribeQuorum", _quorum("__cluster_metadata", 1)),
    Question("the quorum, asked twice", "DescribeQuorum", _quorum("__cluster_metadata", 0, 1)),
    Question("a replica that is there", "AlterPartitionReassignments", _reassign("known", 0, [1])),
    Question("a replica too many", "AlterPartitionReassignments", _reassign("known", 0, [1, 2])),
    Question("another broker", "AlterPartitionReassignments", _reassign("known", 0, [2])),
    Question("a replica twice", "AlterPartitionReassignments", _reassign("known", 0, [1, 1])),
    Question("no replica", "AlterPartitionReassignments", _reassign("known", 0, [])),
    Question("a negative replica", "AlterPartitionReassignments", _reassign("known", 0, [-1])),
    Question("an end of none", "AlterPartitionReassignments", _reassign("known", 1, None)),
    Question("no topic to move", "AlterPartitionReassignments", _reassign("unknown", 0, [1])),
    Question("no partition to move", "AlterPartitionReassignments", _reassign("known", 7, [1])),
    Question("no end where nothing is", "AlterPartitionReassignments", _reassign("unknown", 0, None)),
    Question("nothing to move", "AlterPartitionReassignments", {"timeout": 10_000, "topics": []}),
    Question(
        "a replica that stays",
        "AlterPartitionReassignments",
        _reassign("known", 0, [1], allow_replication_factor_change=False),
    ),
    Question(
        "as many replicas",
        "AlterPartitionReassignments",
        _reassign("known", 0, [1, 2], allow_replication_factor_change=False),
    ),
    Question("all moves", "ListPartitionReassignments", {"timeout": 10_000, "topics": None}),
    Question(
        "a topic's moves",
        "ListPartitionReassignments",
        {"timeout": 10_000, "topics": [{"name": "known", "partition_indexes": [0]}]},
    ),
    Question(
        "nobody's moves",
        "ListPartitionReassignments",
        {"timeout": 10_000, "topics": [{"name": "unknown", "partition_indexes": [0]}]},
    ),
    *(
        Question(name, "UpdateFeatures", {"timeout": 10_000, "feature_updates": updates, "validate_only": False})
        for name, updates in (
            ("no feature", []),
            ("an unknown feature", [_update("magic.version", 1)]),
            ("a feature as it is", [_update("transaction.version", 2)]),
            ("a feature too high", [_update("transaction.version", 3)]),
            ("a feature lowered unasked", [_update("transaction.version", 1)]),
            ("a feature below nothing", [_update("transaction.version", -1)]),
            ("a feature without a name", [_update("", 1)]),
            ("two features", [_update("transaction.version", 2), _update("magic.version", 1)]),
        )
    ),
    Question(
        "a feature by an unknown way",
        "UpdateFeatures",
        {"timeout": 10_000, "feature_updates": [_update("transaction.version", 2, 9)]},
        range(1, 3),
    ),
    *(
        Question(name, "AlterReplicaLogDirs", {"dirs": [{"path": path, "topics": topics}]})
        for name, path, topics in (
            ("another directory", "/nowhere", [{"name": "known", "partitions": [0, 1]}]),
            ("another directory for nothing", "/nowhere", []),
            ("another directory for no topic", "/nowhere", [{"name": "unknown", "partitions": [0]}]),
            ("the directory", LOG_DIR, [{"name": "known", "partitions": [0, 1]}]),
            ("the directory for no topic", LOG_DIR, [{"name": "unknown", "partitions": [0]}]),
            ("the directory for no partition", LOG_DIR, [{"name": "known", "partitions": [0, 7, -1]}]),
            ("a relative directory", "nowhere", [{"name": "known", "partitions": [0]}]),
        )
    ),
    Question("no directory", "AlterReplicaLogDirs", {"dirs": []}),
    Question(
        "a leader that leads",
        "ElectLeaders",
        {"topic_partitions": [{"topic": "known", "partitions": [0, 1]}], "timeout": 10_000, "election_type": 0},
    ),
    Question(
        "no leader",
        "ElectLeaders",
        {"topic_partitions": [{"topic": "unknown", "partitions": [0]}], "timeout": 10_000, "election_type": 0},
    ),
    Question("an unknown broker", "UnregisterBroker", {"broker_id": 99}),
    Question("a negative broker", "UnregisterBroker", {"broker_id": -1}),
    Question(
        "a voter",
        "AddRaftVoter",
        {
            "cluster_id": None,
            "timeout": 1000,
            "voter_id": 2,
            "voter_directory_id": SOME_ID,
            "listeners": [{"name": "CONTROLLER", "host": "localhost", "port": 1}],
        },
    ),
    Question(
        "a voter of another cluster",
        "AddRaftVoter",
        {"cluster_id": "another", "timeout": 1000, "voter_id": 2, "voter_directory_id": SOME_ID, "listeners": []},
    ),
    Question("a voter's end", "RemoveRaftVoter", {"cluster_id": None, "voter_id": 2, "voter_directory_id": SOME_ID}),
    Question(
        "another cluster's voter's end",
        "RemoveRaftVoter",
        {"cluster_id": "another", "voter_id": 2, "voter_directory_id": SOME_ID},
    ),
    Question("what a client should measure", "GetTelemetrySubscriptions", {"client_instance_id": ZERO}),
    Question(
        "what a client measured",
        "PushTelemetry",
        {"client_instance_id": SOME_ID, "subscription_id": 1, "metrics": b"x"},
    ),
]
FEATURES: Final = [
    *(
        Question(
            name,
            "UpdateFeatures",
            {"timeout": 10_000, "feature_updates": updates, "validate_only": only},
            range(2, 3),
        )
        for name, only, updates in (
            ("a feature lowered safely, only checked", True, [_update("transaction.version", 1, 2)]),
            ("a feature raised as a downgrade", False, [_update("transaction.version", 3, 2)]),
            ("a feature lowered safely", False, [_update("transaction.version", 1, 2)]),
            ("a feature raised safely, as a downgrade", False, [_update("transaction.version", 2, 2)]),
            ("one good and one bad", False, [_update("transaction.version", 2), _update("magic.version", 1)]),
            ("a feature twice", False, [_update("transaction.version", 1), _update("transaction.version", 2)]),
            ("a feature lowered unsafely", False, [_update("transaction.version", 1, 3)]),
        )
    ),
    Question(
        "a feature off", "UpdateFeatures", {"feature_updates": [_update("transaction.version", 0, 2)]}, range(2, 3)
    ),
    Question(
        "a feature raised", "UpdateFeatures", {"feature_updates": [_update("transaction.version", 2)]}, range(2, 3)
    ),
]
OFFSETS_SINCE: Final = {-1: 1, -2: 1, -3: 7, -4: 8, -5: 9, -7: 11, 0: 1}
OBSERVED: Final = [
    Question(
        "the topic",
        "CreateTopics",
        {"topics": [{"name": "seen", "num_partitions": 2, "replication_factor": 1}], "timeout": 10_000},
        range(2, 3),
    ),
    *(
        Question(
            f"the offset at {timestamp}",
            "ListOffsets",
            {
                "replica_id": -1,
                "topics": [{"name": "seen", "partitions": [{"partition_index": 0, "timestamp": timestamp}]}],
                "timeout": 1_000,
            },
            range(since, 12),
        )
        for timestamp, since in OFFSETS_SINCE.items()
    ),
    *(
        Question(f"transactions by {pattern!r}", "ListTransactions", {"transactional_id_pattern": pattern}, range(2, 3))
        for pattern in ("", "a.*", "[", "(?=a)")
    ),
    Question("transactions in an unknown state", "ListTransactions", {"state_filters": ["Dancing"]}),
    Question("a transaction without a name", "DescribeTransactions", {"transactional_ids": [""]}),
    *(
        Question(f"the cluster's endpoints of kind {kind}", "DescribeCluster", {"endpoint_type": kind}, range(1, 3))
        for kind in (1, 2, 3)
    ),
    Question("the cluster, fenced brokers too", "DescribeCluster", {"include_fenced_brokers": True}, range(2, 3)),
    Question("directories of a topic", "DescribeLogDirs", {"topics": [{"topic": "seen", "partitions": [0, 7]}]}),
    Question("directories of none", "DescribeLogDirs", {"topics": [{"topic": "unseen", "partitions": [0]}]}),
    *(
        Question(
            f"a marker of version {version} with epoch {epoch}",
            "WriteTxnMarkers",
            {
                "markers": [
                    {
                        "producer_id": 77,
                        "producer_epoch": epoch,
                        "transaction_result": True,
                        "topics": [
                            {"name": "seen", "partition_indexes": [1]},
                            {"name": "unseen", "partition_indexes": [0]},
                        ],
                        "coordinator_epoch": 0,
                        "transaction_version": version,
                    }
                ]
            },
            range(2, 3),
        )
        for version, epoch in ((0, 1), (2, 1), (2, 2))
    ),
    Question(
        "an epoch of the future",
        "ListOffsets",
        {
            "replica_id": -1,
            "topics": [
                {"name": "seen", "partitions": [{"partition_index": 0, "timestamp": -1, "current_leader_epoch": 99}]}
            ],
            "timeout": 1_000,
        },
        range(4, 12),
    ),
]
CLASSIC_AND_CONSUMER: Final = Question(
    "turning share and streams groups off",
    "UpdateFeatures",
    {
        "feature_updates": [
            {"feature": feature, "max_version_level": 0, "upgrade_type": 2}
            for feature in ("share.version", "streams.version")
        ]
    },
)
"""What Kafka was recorded without."""

NEW_GROUPS: Final = [
    Question(
        "a consumer's joining",
        "ConsumerGroupHeartbeat",
        {
            "group_id": "g",
            "member_id": MEMBER,
            "member_epoch": 0,
            "rebalance_timeout": 5000,
            "subscribed_topic_names": ["known"],
            "topic_partitions": [],
        },
    ),
    Question(
        "a consumer's leaving",
        "ConsumerGroupHeartbeat",
        {"group_id": "g", "member_id": MEMBER, "member_epoch": -1, "topic_partitions": None},
    ),
    Question("a consumer without a group", "ConsumerGroupHeartbeat", {"group_id": "", "topic_partitions": None}),
    Question("a consumer group", "ConsumerGroupDescribe", {"group_ids": ["g"], "include_authorized_operations": True}),
    Question("groups", "ConsumerGroupDescribe", {"group_ids": ["g", "", "h"]}),
    Question("no group", "ConsumerGroupDescribe", {"group_ids": []}),
    Question(
        "a sharer's joining",
        "ShareGroupHeartbeat",
        {"group_id": "s", "member_id": MEMBER, "member_epoch": 0, "subscribed_topic_names": ["known"]},
    ),
    Question("a sharer's leaving", "ShareGroupHeartbeat", {"group_id": "s", "member_id": MEMBER, "member_epoch": -1}),
    Question("a share group", "ShareGroupDescribe", {"group_ids": ["s", "t"]}),
    Question(
        "a shared fetch",
        "ShareFetch",
        {
            "group_id": "s",
            "member_id": MEMBER,
            "share_session_epoch": 0,
            "max_wait": 100,
            "topics": [{"topic_id": SOME_ID, "partitions": [{"partition_index": 0}]}],
        },
    ),
    Question(
        "a shared acknowledgement",
        "ShareAcknowledge",
        {"group_id": "s", "member_id": MEMBER, "share_session_epoch": 1, "topics": []},
    ),
    Question(
        "a stream's joining",
        "StreamsGroupHeartbeat",
        {
            "group_id": "st",
            "member_id": MEMBER,
            "member_epoch": 0,
            "rebalance_timeout": 5000,
            "topology": {"epoch": 0, "subtopologies": []},
            "active_tasks": [],
            "standby_tasks": [],
            "warmup_tasks": [],
            "process_id": "p",
            "client_tags": [],
        },
    ),
    Question(
        "a stream's leaving",
        "StreamsGroupHeartbeat",
        {
            "group_id": "st",
            "member_id": MEMBER,
            "member_epoch": -1,
            "topology": None,
            "active_tasks": None,
            "standby_tasks": None,
            "warmup_tasks": None,
            "client_tags": None,
        },
    ),
    Question("a streams group", "StreamsGroupDescribe", {"group_ids": ["st", "su"]}),
    Question(
        "a share group's offsets",
        "DescribeShareGroupOffsets",
        {"groups": [{"group_id": "s", "topics": [{"topic_name": "known", "partitions": [0]}]}]},
    ),
    Question(
        "share groups' offsets",
        "DescribeShareGroupOffsets",
        {"groups": [{"group_id": "s", "topics": None}, {"group_id": "t", "topics": []}]},
    ),
    Question("no share group's offsets", "DescribeShareGroupOffsets", {"groups": []}),
    Question(
        "a share group's new offset",
        "AlterShareGroupOffsets",
        {
            "group_id": "s",
            "topics": [{"topic_name": "known", "partitions": [{"partition_index": 0, "start_offset": 0}]}],
        },
    ),
    Question(
        "a share group without offsets",
        "DeleteShareGroupOffsets",
        {"group_id": "s", "topics": [{"topic_name": "known"}, {"topic_name": "unknown"}]},
    ),
    Question(
        "a share coordinator", "FindCoordinator", {"key_type": 2, "coordinator_keys": [f"s:{SOME_ID}:0"]}, range(4, 7)
    ),
    Question("an old share coordinator", "FindCoordinator", {"key_type": 2, "key": f"s:{SOME_ID}:0"}, range(1, 4)),
    Question(
        "no topic's producers",
        "DescribeProducers",
        {"topics": [{"name": "unknown", "partition_indexes": [0]}, {"name": "known", "partition_indexes": [7]}]},
    ),
    Question("groups of a new kind", "ListGroups", {"types_filter": ["consumer"]}, range(5, 6)),
    Question("groups of an unknown kind", "ListGroups", {"types_filter": ["club"]}, range(5, 6)),
    Question("groups in an unknown state", "ListGroups", {"states_filter": ["dancing"]}, range(4, 6)),
]
BROKER: Final = 4
SAME_EVERYWHERE: Final = (
    *("alter.config.policy.class.name", "authorizer.class.name", "broker.rack", "connections.max.reauth.ms"),
    *("create.topic.policy.class.name", "delegation.token.secret.key", "inter.broker.listener.name"),
    *("metadata.log.dir", "offsets.topic.compression.codec", "offsets.topic.segment.bytes", "replica.fetch.max.bytes"),
    *("replica.lag.time.max.ms", "replica.selector.class", "remote.log.storage.system.enable"),
    *("security.inter.broker.protocol", "transaction.two.phase.commit.enable"),
    *("group.consumer.session.timeout.ms", "group.streams.initial.rebalance.delay.ms"),
    *("group.share.partition.max.record.locks", "group.share.delivery.count.limit"),
)
"""Broker keys with the same value, or none, on a fresh Kafka."""
ITS_OWN: Final = (
    *("advertised.listeners", "auto.leader.rebalance.enable", "broker.id", "controller.listener.names", "listeners"),
    *("controller.quorum.voters", "group.coordinator.rebalance.protocols", "listener.security.protocol.map", "log.dir"),
    *("log.dirs", "max.connections.per.ip.overrides", "offsets.topic.num.partitions", "node.id", "process.roles"),
    *("offsets.topic.replication.factor", "sasl.enabled.mechanisms", "ssl.client.auth", "num.partitions"),
    *("transaction.state.log.min.isr", "transaction.state.log.num.partitions", "min.insync.replicas"),
    *("transaction.state.log.replication.factor", "transaction.partition.verification.enable"),
)
"""Broker keys of which each server has a value of its own, or its own way to change it."""
RESOURCES: Final = [
    Question("what tools read", "DescribeConfigs", _described(BROKER, "1", *SAME_EVERYWHERE)),
    Question(
        "what tools read of a server",
        "DescribeConfigs",
        _described(BROKER, "1", *ITS_OWN),
        some=("value", "config_source", "synonyms", "read_only"),
    ),
    *(
        Question(f"resources of kind {kind}", "ListConfigResources", {"resource_types": [kind]})
        for kind in (0, 1, 3, 4, 8, 16, 32, 64, 99)
    ),
    Question("a group's configs", "DescribeConfigs", _described(GROUP, "g")),
    Question("a group's config", "DescribeConfigs", _described(GROUP, "g", "consumer.session.timeout.ms", "nothing")),
    Question("no group's configs", "DescribeConfigs", _described(GROUP, "")),
    Question("a subscription's configs", "DescribeConfigs", _described(CLIENT_METRICS, "m")),
    Question("no subscription's configs", "DescribeConfigs", _described(CLIENT_METRICS, "")),
    *(
        Question(name, "IncrementalAlterConfigs", _alter(GROUP, group, *changes, validate_only=only))
        for name, group, only, changes in (
            ("a group's time-out, only checked", "g", True, [("consumer.session.timeout.ms", SET, "50000")]),
            ("a group's time-out", "g", False, [("consumer.session.timeout.ms", SET, "50000")]),
            ("a group's short time-out", "g", False, [("consumer.session.timeout.ms", SET, "1")]),
            ("a group's long time-out", "g", False, [("consumer.session.timeout.ms", SET, "61000")]),
            ("a group's time-out in words", "g", False, [("consumer.session.timeout.ms", SET, "soon")]),
            ("a group's heartbeat over its time-out", "g", False, [("consumer.heartbeat.interval.ms", SET, "50000")]),
            ("a group's unknown config", "g", False, [("nothing", SET, "1")]),
            ("a group's unknown config taken away", "g", False, [("nothing", DELETE, None)]),
            ("a group's time-out appended to", "g", False, [("consumer.session.timeout.ms", APPEND, "1")]),
            ("a group's offset reset", "g", False, [("share.auto.offset.reset", SET, "earliest")]),
            ("a group's wrong offset reset", "g", False, [("share.auto.offset.reset", SET, "sometime")]),
            ("a config of no group", "", False, [("consumer.session.timeout.ms", SET, "50000")]),
            ("a group's null", "g", False, [("consumer.session.timeout.ms", SET, None)]),
        )
    ),
    Question(
        "the changed group's config",
        "DescribeConfigs",
        _described(GROUP, "g", "consumer.session.timeout.ms", "share.auto.offset.reset"),
    ),
    Question("the groups with configs", "ListConfigResources", {"resource_types": [GROUP]}, range(1, 2)),
    Question(
        "a group's configs taken away",
        "IncrementalAlterConfigs",
        _alter(GROUP, "g", ("consumer.session.timeout.ms", DELETE, None), ("share.auto.offset.reset", DELETE, None)),
    ),
    Question("the group's config again", "DescribeConfigs", _described(GROUP, "g", "consumer.session.timeout.ms")),
    Question("the groups with configs again", "ListConfigResources", {"resource_types": [GROUP]}, range(1, 2)),
    *(
        Question(name, "IncrementalAlterConfigs", _alter(CLIENT_METRICS, subscription, *changes))
        for name, subscription, changes in (
            (
                "a subscription",
                "m",
                [("interval.ms", SET, "1000"), ("metrics", SET, "org.apache"), ("match", SET, "client_id=a.*")],
            ),
            ("a subscription's second metric", "m", [("metrics", APPEND, "org.b")]),
            ("a subscription's lost metric", "m", [("metrics", SUBTRACT, "org.apache")]),
            ("a subscription's second match", "m", [("match", APPEND, "client_software_name=b")]),
            ("a subscription that is too fast", "m", [("interval.ms", SET, "99")]),
            ("a subscription that is too slow", "m", [("interval.ms", SET, "3600001")]),
            ("a subscription's interval in words", "m", [("interval.ms", SET, "often")]),
            ("a subscription's unknown config", "m", [("nothing", SET, "1")]),
            ("a subscription by an unknown property", "m", [("match", SET, "age=7")]),
            ("a subscription by no pattern", "m", [("match", SET, "client_id")]),
            ("a subscription by a bad pattern", "m", [("match", SET, "client_id=(")]),
            ("a subscription without a name", "", [("interval.ms", SET, "1000")]),
        )
    ),
    Question("the subscription's configs", "DescribeConfigs", _described(CLIENT_METRICS, "m")),
    Question("the subscriptions", "ListConfigResources", {"resource_types": [CLIENT_METRICS]}),
    Question(
        "a subscription taken away",
        "IncrementalAlterConfigs",
        _alter(CLIENT_METRICS, "m", ("interval.ms", DELETE, None), ("metrics", DELETE, None), ("match", DELETE, None)),
    ),
    Question("the subscriptions again", "ListConfigResources", {"resource_types": [CLIENT_METRICS]}),
    Question("the subscription's configs again", "DescribeConfigs", _described(CLIENT_METRICS, "m")),
    *(
        Question(
            name,
            "AlterConfigs",
            {"resources": [{"resource_type": kind, "resource_name": "x", "configs": configs}], "validate_only": False},
        )
        for name, kind, configs in (
            ("a group's configs replaced", GROUP, [{"name": "consumer.session.timeout.ms", "value": "50000"}]),
            ("a group's configs replaced by none", GROUP, []),
            ("a subscription replaced", CLIENT_METRICS, [{"name": "interval.ms", "value": "1000"}]),
            ("a subscription replaced by none", CLIENT_METRICS, []),
            ("a resource of an unknown kind replaced", 64, []),
        )
    ),
]

GROUPS: Final = {
    "security": SECURITY,
    "tokens": TOKENS,
    "quotas": QUOTAS,
    "scram": SCRAM,
    "cluster": CLUSTER,
    "features": FEATURES,
    "observed": OBSERVED,
    "new groups": NEW_GROUPS,
    "resources": RESOURCES,
}
