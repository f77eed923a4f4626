"""ApiVersions beside the list of everything that a client of Kafka 4.2 can send."""

from __future__ import annotations

from typing import Final

from tests.gateway.apis.harness import Admin

KAFKA_4_2: Final = {
    0: ("Produce", 0, 13),
    1: ("Fetch", 4, 18),
    2: ("ListOffsets", 1, 11),
    3: ("Metadata", 0, 13),
    8: ("OffsetCommit", 2, 10),
    9: ("OffsetFetch", 1, 10),
    10: ("FindCoordinator", 0, 6),
    11: ("JoinGroup", 0, 9),
    12: ("Heartbeat", 0, 4),
    13: ("LeaveGroup", 0, 5),
    14: ("SyncGroup", 0, 5),
    15: ("DescribeGroups", 0, 6),
    16: ("ListGroups", 0, 5),
    42: ("DeleteGroups", 0, 2),
    47: ("OffsetDelete", 0, 0),
    21: ("DeleteRecords", 0, 2),
    23: ("OffsetForLeaderEpoch", 2, 4),
    17: ("SaslHandshake", 0, 1),
    18: ("ApiVersions", 0, 4),
    36: ("SaslAuthenticate", 0, 2),
    19: ("CreateTopics", 2, 7),
    20: ("DeleteTopics", 1, 6),
    37: ("CreatePartitions", 0, 3),
    22: ("InitProducerId", 0, 5),
    24: ("AddPartitionsToTxn", 0, 5),
    25: ("AddOffsetsToTxn", 0, 4),
    26: ("EndTxn", 0, 5),
    27: ("WriteTxnMarkers", 1, 2),
    28: ("TxnOffsetCommit", 0, 5),
    61: ("DescribeProducers", 0, 0),
    65: ("DescribeTransactions", 0, 0),
    66: ("ListTransactions", 0, 2),
    29: ("DescribeAcls", 1, 3),
    30: ("CreateAcls", 1, 3),
    31: ("DeleteAcls", 1, 3),
    32: ("DescribeConfigs", 1, 4),
    33: ("AlterConfigs", 0, 2),
    44: ("IncrementalAlterConfigs", 0, 1),
    34: ("AlterReplicaLogDirs", 1, 2),
    35: ("DescribeLogDirs", 1, 4),
    43: ("ElectLeaders", 0, 2),
    38: ("CreateDelegationToken", 1, 3),
    39: ("RenewDelegationToken", 1, 2),
    40: ("ExpireDelegationToken", 1, 2),
    41: ("DescribeDelegationToken", 1, 3),
    45: ("AlterPartitionReassignments", 0, 1),
    46: ("ListPartitionReassignments", 0, 0),
    48: ("DescribeClientQuotas", 0, 1),
    49: ("AlterClientQuotas", 0, 1),
    50: ("DescribeUserScramCredentials", 0, 0),
    51: ("AlterUserScramCredentials", 0, 0),
    55: ("DescribeQuorum", 0, 2),
    57: ("UpdateFeatures", 0, 2),
    60: ("DescribeCluster", 0, 2),
    64: ("UnregisterBroker", 0, 0),
    80: ("AddRaftVoter", 0, 1),
    81: ("RemoveRaftVoter", 0, 0),
    68: ("ConsumerGroupHeartbeat", 0, 1),
    69: ("ConsumerGroupDescribe", 0, 1),
    71: ("GetTelemetrySubscriptions", 0, 0),
    72: ("PushTelemetry", 0, 0),
    74: ("ListConfigResources", 0, 1),
    75: ("DescribeTopicPartitions", 0, 0),
    76: ("ShareGroupHeartbeat", 1, 1),
    77: ("ShareGroupDescribe", 1, 1),
    78: ("ShareFetch", 1, 2),
    79: ("ShareAcknowledge", 1, 2),
    88: ("StreamsGroupHeartbeat", 0, 0),
    89: ("StreamsGroupDescribe", 0, 0),
    90: ("DescribeShareGroupOffsets", 0, 1),
    91: ("AlterShareGroupOffsets", 0, 0),
    92: ("DeleteShareGroupOffsets", 0, 0),
}
"""Name, lowest and highest version by key, of every API that Kafka 4.2 serves to clients."""

WITHOUT_EFFECT: Final = {
    "there is one broker, which runs and cannot be taken out, and whose voters are fixed": {64, 80, 81},
}
"""Rows that are answered, in every version, with an error of Kafka's, and why."""


def test_every_row_is_served(admin: Admin) -> None:
    """Each API of Kafka 4.2 is served from its lowest version to its highest, and nothing beside them is advertised."""
    asked = {"client_software_name": "x", "client_software_version": "1"}
    shown = {api.api_key: (api.min_version, api.max_version) for api in admin.ask("ApiVersions", 4, **asked).api_keys}

    for key, (name, lowest, highest) in KAFKA_4_2.items():
        assert key in shown, name
        assert shown[key][0] <= lowest, name
        assert shown[key][1] >= highest, name
    assert shown.keys() == KAFKA_4_2.keys()


def test_rows_without_effect_are_rows() -> None:
    """A reason names APIs of the list, each once."""
    named = [key for keys in WITHOUT_EFFECT.values() for key in keys]

    assert len(named) == len(set(named))
    assert set(named) <= KAFKA_4_2.keys()
