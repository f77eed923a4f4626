"""Share groups over the protocol: sessions, acknowledgements that are refused, groups as a whole, the feature."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from kio.schema.errors import ErrorCode

from gateway.groups.lag import AGE_S_MAX
from tests.gateway.forking import serving
from tests.gateway.groups.share.speaking import (
    ACCEPT,
    RECORD_LIMIT,
    RELEASE,
    WHOLE_BATCHES,
    Member,
    acquired,
    configured,
    refused,
    topic,
    write,
)
from tests.gateway.launching import http_get
from tests.likeness.asking import Server
from tests.likeness.questions import CLASSIC_AND_CONSUMER

pytestmark = pytest.mark.slow

WAIT_MS: Final = 60_000
"""The longest wait of a fetch."""


def test_a_session(member: Member) -> None:
    """Records are lent once; what is settled in a fetch, or between, is settled for good."""
    assert acquired(member.fetch(0, most=4)) == [(0, 3, 1)]
    assert acquired(member.fetch(1, (0, 3, ACCEPT), most=4)) == [(4, 7, 1)]
    assert refused(member.settle(2, (4, 5, ACCEPT))) == ErrorCode.none
    assert acquired(member.fetch(3)) == [(8, 9, 1)]
    assert member.settle(-1)["error_code"] == ErrorCode.none
    assert acquired(member.fetch(0)) == [(6, 9, 2)], "the end of a session gave them back"


def test_no_records_are_asked_for(address: str, member: Member) -> None:
    """A member that asks for no records gets none, and no wait: it has come to begin its session, or to settle."""
    with closing(Server(address, own={}, within_s=WAIT_MS / 2_000)) as impatient:
        asking = Member(impatient, member.topic)
        assert acquired(asking.fetch(0, most=0, wait_ms=WAIT_MS)) == []
        assert acquired(asking.fetch(1, most=4)) == [(0, 3, 1)]


def test_a_partition_that_comes_later(server: Server, address: str, member: Member) -> None:
    """Each partition that a session has newly is in the answer once, though it may have no records."""
    empty = topic(address, "empty")
    assert len(acquired(member.fetch(0))) == 1
    late = Member(server, empty)
    (told,) = late.fetch(1)["responses"]
    assert [one["records"] for one in told["partitions"]] == [""]
    assert late.fetch(2)["responses"] == []


def test_whole_batches(member: Member) -> None:
    """A fetch that does not insist on its limit gets the batch in which that is reached whole."""
    assert acquired(member.fetch(0, most=4, mode=RECORD_LIMIT)) == [(0, 3, 1)]
    assert acquired(member.fetch(1, most=4, mode=WHOLE_BATCHES)) == [(4, 9, 1)]


def test_in_the_order_of_keys(server: Server, address: str, member: Member) -> None:
    """Records of a key wait while another member has one, in a compressed batch too; they come in order."""
    configured(server, penstock_share_order_by_key="true")
    member.fetch(0, most=10)
    member.settle(1, (0, 9, ACCEPT))
    write(address, "t", *"abcdef", keys="kkllkm", **{"linger.ms": "200", "compression.type": "lz4"})
    other = member.beside("other")
    assert acquired(member.fetch(2, most=1)) == [(10, 10, 1)]
    assert acquired(other.fetch(0)) == [(12, 13, 1), (15, 15, 1)]
    assert acquired(member.fetch(3, (10, 10, RELEASE))) == [(10, 10, 2), (11, 11, 1), (14, 14, 1)]


def test_what_a_session_refuses(member: Member) -> None:
    """Sessions have an order; a member settles only what it holds, and all of it or nothing."""
    assert member.fetch(5)["error_code"] == ErrorCode.share_session_not_found
    member.fetch(0, most=4)
    assert member.fetch(7)["error_code"] == ErrorCode.invalid_share_session_epoch
    assert member.settle(0)["error_code"] == ErrorCode.invalid_share_session_epoch
    assert member.fetch(0, (0, 1, ACCEPT))["error_code"] == ErrorCode.invalid_request
    assert refused(member.settle(1, (0, 1, ACCEPT), (3, 4, ACCEPT))) == ErrorCode.invalid_record_state
    assert refused(member.settle(2, (0, 1, 9))) == ErrorCode.invalid_request
    assert refused(member.settle(3, (0, 1, 4))) == ErrorCode.invalid_request, "renewals came with version 2"
    assert refused(member.settle(4, (0, 3, ACCEPT))) == ErrorCode.none
    assert refused(member.settle(5, (0, 3, ACCEPT))) == ErrorCode.none, "a member whose answer was lost says it again"
    assert refused(member.fetch(6, (2, 4, ACCEPT)), "acknowledge_error_code") == ErrorCode.invalid_record_state


def test_a_group_as_a_whole(member: Member) -> None:
    """Only a group without members can be deleted, or begin anew; its id is no other protocol's."""
    gone = {"groups_names": ["g"]}
    assert member.ask("DeleteGroups", 2, **gone)["results"][0]["error_code"] == ErrorCode.non_empty_group
    assert member.ask("DeleteShareGroupOffsets", 0)["error_code"] == ErrorCode.non_empty_group
    joining = {"session_timeout": 10_000, "rebalance_timeout": 10_000, "protocol_type": "consumer"}
    protocols = [{"name": "range", "metadata": b""}]
    answer = member.ask("JoinGroup", 4, **joining, protocols=protocols, member_id="")
    assert answer["error_code"] == ErrorCode.inconsistent_group_protocol

    assert member.leave()["error_code"] == ErrorCode.none
    assert member.ask("DeleteGroups", 2, **gone)["results"][0]["error_code"] == ErrorCode.none
    assert member.ask("DeleteShareGroupOffsets", 0)["error_code"] == ErrorCode.group_id_not_found
    assert member.ask("ShareGroupDescribe", 1, group_ids=["g"])["groups"][0]["error_code"] == (
        ErrorCode.group_id_not_found
    )


def test_a_group_begins_where_an_operator_says(server: Server, address: str, member: Member) -> None:
    """Before its first member, too: setting offsets makes the group, as in Kafka. With a member they stand."""
    places = [{"topic_name": "t", "partitions": [{"partition_index": 0, "start_offset": 7}]}]
    assert member.ask("AlterShareGroupOffsets", 0, topics=places)["error_code"] == ErrorCode.non_empty_group
    member.leave()
    member.ask("DeleteGroups", 2, groups_names=["g"])

    told = member.ask("AlterShareGroupOffsets", 0, topics=places)
    assert [p["error_code"] for t in told["responses"] for p in t["partitions"]] == [ErrorCode.none]
    (group,) = member.ask("ShareGroupDescribe", 1, group_ids=["g"])["groups"]
    assert (group["error_code"], group["group_state"], group["members"]) == (ErrorCode.none, "Empty", [])
    member.join()
    assert acquired(member.fetch(0)) == [(7, 9, 1)]


def test_lag_is_a_metric(tmp_path: Path) -> None:
    """What a share group has not settled stands in /metrics, beside the letters that were written for it."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--set", "log.file.bytes=4194304") as gateway:
        ready = gateway.ready()
        server = Server(ready["kafka"][0], own={})
        member = Member(server, topic(ready["kafka"][0], "t"))
        write(ready["kafka"][0], "t", *map(str, range(10)))
        configured(server, share_auto_offset_reset="earliest")
        member.join()
        member.fetch(0, most=7)
        member.settle(1, (0, 3, ACCEPT))
        time.sleep(AGE_S_MAX)  # lags may have been counted just before, and that counts for so long
        status, told = http_get(ready["http"], "/metrics")
        server.close()

    assert status == 200
    assert 'penstock_group_lag{group="g",topic="t"} 6.0' in told
    assert "penstock_share_dead_letters_total 0.0" in told


def test_lowered_feature(server: Server, member: Member) -> None:
    """At share.version 0 members are refused."""
    assert server.ask(CLASSIC_AND_CONSUMER, 1)["error_code"] == ErrorCode.none
    assert member.join()["error_code"] == ErrorCode.unsupported_version
    assert member.fetch(0)["error_code"] == ErrorCode.unsupported_version
