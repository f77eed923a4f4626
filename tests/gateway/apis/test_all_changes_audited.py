"""Every API that is served either changes nothing that an administrator answers for, or is heard by the audit log.

An API that is new belongs into one of the tables below, or the test fails.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from gateway.apis import discover
from gateway.apis.metadata import API as METADATA
from tests.gateway.apis.harness import NOW, WAIT_SECONDS_MAX, Admin, admin_of
from tests.gateway.apis.test_sasl import upsertion
from tests.gateway.security.harness import STANDARD

READING: Final = frozenset(
    (
        *("ApiVersions", "FindCoordinator", "Fetch", "ListOffsets", "OffsetFetch", "OffsetForLeaderEpoch"),
        *("DescribeAcls", "DescribeClientQuotas", "DescribeCluster", "DescribeConfigs", "DescribeDelegationToken"),
        *("DescribeGroups", "DescribeLogDirs", "DescribeProducers", "DescribeQuorum", "DescribeShareGroupOffsets"),
        *("DescribeTopicPartitions", "DescribeTransactions", "DescribeUserScramCredentials", "ConsumerGroupDescribe"),
        *("ShareGroupDescribe", "StreamsGroupDescribe", "ListConfigResources", "ListGroups", "ListTransactions"),
        *("ListPartitionReassignments", "GetTelemetrySubscriptions"),
    )
)
OF_CLIENTS: Final = frozenset(
    (
        *("Produce", "InitProducerId", "AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn"),
        *("JoinGroup", "SyncGroup", "Heartbeat", "LeaveGroup", "OffsetCommit", "ConsumerGroupHeartbeat"),
        *("ShareGroupHeartbeat", "ShareFetch", "ShareAcknowledge", "StreamsGroupHeartbeat", "PushTelemetry"),
    )
)
"""What producers and consumers do all the time: the audit log hears only of their denials."""
REFUSING: Final = frozenset(
    (
        *("AddRaftVoter", "RemoveRaftVoter", "ElectLeaders"),
        *("AlterPartitionReassignments", "AlterReplicaLogDirs"),
    )
)
"""What changes nothing here, whatever is asked."""
AUTHENTICATING: Final = frozenset(("SaslHandshake", "SaslAuthenticate"))
"""Heard by `gateway.dispatch.authentication`; tests/gateway/security/test_audit.py."""
BY_TOKENS: Final = frozenset(("CreateDelegationToken", "RenewDelegationToken", "ExpireDelegationToken"))
"""Heard; they need a connection that is authenticated: tests/gateway/apis/test_delegation_tokens.py."""
IN_A_CLUSTER: Final = frozenset(("UnregisterBroker",))
"""Heard; it needs a node that has gone: tests/gateway/cluster/test_machines.py."""


class Change(NamedTuple):
    """A request that changes something, and the audit log's event."""

    api: str
    version: int
    request: dict[str, Any]
    event: str


def configs(**more: Any) -> list[dict[str, Any]]:
    config = {"name": "retention.ms", "value": "1234567", **more}
    return [{"resource_type": 2, "resource_name": "t", "configs": [config]}]


PLACE: Final = [{"name": "t", "partitions": [{"partition_index": 0}]}]
ACL: Final = {
    "resource_type": 2,
    "resource_name": "t",
    "resource_pattern_type": 3,
    "principal": "User:a",
    "host": "*",
    "operation": 3,
    "permission_type": 3,
}
ANY_OF_A: Final = {
    "resource_type_filter": 1,
    "resource_name_filter": None,
    "pattern_type_filter": 1,
    "principal_filter": "User:a",
    "host_filter": None,
    "operation": 1,
    "permission_type": 1,
}
MARKER: Final = {
    "producer_id": 7,
    "producer_epoch": 0,
    "transaction_result": False,
    "topics": [{"name": "t", "partition_indexes": [0]}],
    "coordinator_epoch": 0,
    "transaction_version": 0,
}
QUOTA: Final = {
    "entity": [{"entity_type": "user", "entity_name": "a"}],
    "ops": [{"key": "producer_byte_rate", "value": 1_000.0, "remove": False}],
}
LOWER: Final = {"feature": "transaction.version", "max_version_level": 1, "upgrade_type": 2}
SHARED: Final = {
    "group_id": "s",
    "topics": [{"topic_name": "t", "partitions": [{"partition_index": 0, "start_offset": 0}]}],
}
CHANGES: Final = (
    Change(
        "CreateTopics",
        5,
        {"timeout": 10_000, "topics": [{"name": "t", "num_partitions": 1, "replication_factor": 1}]},
        "topic created",
    ),
    Change("Metadata", 12, {"topics": [{"name": "used"}], "allow_auto_topic_creation": True}, "topic created"),
    Change(
        "CreatePartitions",
        3,
        {"topics": [{"name": "t", "count": 2, "assignments": None}], "timeout": 10_000},
        "partitions added",
    ),
    Change("AlterConfigs", 1, {"resources": configs()}, "configs changed"),
    Change("IncrementalAlterConfigs", 1, {"resources": configs(config_operation=0)}, "configs changed"),
    Change("AlterClientQuotas", 1, {"entries": [QUOTA]}, "quota changed"),
    Change(
        "AlterUserScramCredentials", 0, {"deletions": [], "upsertions": [upsertion("a", "secret")]}, "credential set"
    ),
    Change("CreateAcls", 2, {"creations": [ACL]}, "ACL created"),
    Change("DeleteAcls", 2, {"filters": [ANY_OF_A]}, "ACL deleted"),
    Change("UpdateFeatures", 2, {"timeout": 1_000, "feature_updates": [LOWER]}, "features changed"),
    Change("WriteTxnMarkers", 1, {"markers": [MARKER]}, "transaction aborted"),
    Change("AlterShareGroupOffsets", 0, SHARED, "share offsets changed"),
    Change("DeleteShareGroupOffsets", 0, {"group_id": "s", "topics": [{"topic_name": "t"}]}, "share offsets deleted"),
    Change("OffsetDelete", 0, {"group_id": "g", "topics": PLACE}, "offsets deleted"),
    Change("DeleteGroups", 2, {"groups_names": ["h"]}, "group deleted"),
    Change(
        "DeleteRecords",
        2,
        {"topics": [{"name": "t", "partitions": [{"partition_index": 0, "offset": 1}]}], "timeout": 10_000},
        "records deleted",
    ),
    Change("DeleteTopics", 5, {"topic_names": ["t"], "timeout": 10_000}, "topic deleted"),
)
"""In an order in which each finds what it changes."""


def prepare(admin: Admin, before: str) -> None:
    """What a change finds."""
    if before == "AlterShareGroupOffsets":
        joined = {"group_id": "s", "member_id": "m", "subscribed_topic_names": ["t"]}
        assert admin.ask("ShareGroupHeartbeat", 1, member_epoch=0, **joined).error_code == 0
        assert admin.ask("ShareGroupHeartbeat", 1, member_epoch=-1, **joined).error_code == 0
    elif before == "OffsetDelete":
        admin.produce("t", NOW)
        offsets = [{"partition_index": 0, "committed_offset": 1, "committed_metadata": ""}]
        topics = [{"name": "t", "partitions": offsets}]
        outside = {"generation_id_or_member_epoch": -1, "member_id": "", "retention_time": -1}
        for group_id in ("g", "h"):
            (topic,) = admin.ask("OffsetCommit", 5, group_id=group_id, topics=topics, **outside).topics
            assert topic.partitions[0].error_code == 0


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The events of each change."""
    directory = tmp_path_factory.mktemp("audited")
    path = directory / "audit.log"
    settings = (STANDARD, "super.users=User:ANONYMOUS", f"audit.log={path}", "num.partitions=1")
    events: dict[str, list[str]] = {}
    with admin_of(directory / "data", *settings) as admin:
        seen = 0
        for change in CHANGES:
            prepare(admin, change.api)
            admin.ask(change.api, change.version, **change.request)
            lines = _written(admin, path)
            deadline = time.monotonic() + WAIT_SECONDS_MAX
            while change.api == METADATA.name and len(lines) == seen and time.monotonic() < deadline:
                admin.ask("Metadata", 1, topics=[])  # the topic is being created
                lines = _written(admin, path)
            events[change.api] = [json.loads(line)["event"] for line in lines[seen:]]
            seen = len(lines)
    return events


def _written(admin: Admin, path: Path) -> list[str]:
    assert admin.broker.authorizer is not None
    admin.broker.authorizer.audit.close()
    return path.read_text().splitlines() if path.exists() else []


def test_every_api_has_its_place() -> None:
    """Each API is in exactly one of the tables."""
    tables = (
        READING,
        OF_CLIENTS,
        REFUSING,
        AUTHENTICATING,
        BY_TOKENS,
        IN_A_CLUSTER,
        {change.api for change in CHANGES},
    )
    assert sorted(name for table in tables for name in table) == sorted(api.name for api in discover())


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.api)
def test_heard(heard: dict[str, list[str]], change: Change) -> None:
    """The audit log hears of the change, once."""
    assert heard[change.api] == [change.event]
