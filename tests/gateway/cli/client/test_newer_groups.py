"""Questions about groups that kafka-python does not know: the version is one of the broker's, answers are checked."""

from __future__ import annotations

import pytest

from gateway.cli.client.cluster import PartitionId, SharePosition
from gateway.cli.client.newer_groups import SHARE_OFFSETS, Question, positions_in, question_of
from gateway.cli.refused import Refused
from gateway.wire.codec import response_codec

TAGS = b"\0"


def answer(version: int, *groups: dict[str, object]) -> bytes:
    return TAGS + bytes(response_codec(SHARE_OFFSETS, version).encode({"throttle_time": 0, "groups": groups}))


def group(*partitions: dict[str, int]) -> dict[str, object]:
    said = [{"leader_epoch": 0, "error_code": 0, **one} for one in partitions]
    return {"group_id": "g", "topics": [{"topic_name": "t", "topic_id": None, "partitions": said}], "error_code": 0}


@pytest.mark.parametrize(("served", "version"), [((0, 7), 1), ((0, 0), 0)])
def test_version(served: tuple[int, int], version: int) -> None:
    """The newest that both know."""
    assert version == question_of(SHARE_OFFSETS, {}, {SHARE_OFFSETS: served}).API_VERSION


@pytest.mark.parametrize("served", [{}, {SHARE_OFFSETS: (5, 6)}])
def test_not_served(served: dict[int, tuple[int, int]]) -> None:
    """A broker without the API is told of by the API's name."""
    with pytest.raises(Refused, match="does not serve DescribeShareGroupOffsets"):
        question_of(SHARE_OFFSETS, {}, served)


def test_positions() -> None:
    """Partitions that a group has not begun, or that have an error, have none; an older broker knows no lag."""
    places = [
        {"partition_index": 0, "start_offset": 4},
        {"partition_index": 1, "start_offset": -1},
        {"partition_index": 2, "start_offset": 0, "error_code": 3},
    ]
    newer = [one | {"lag": 2} for one in places]

    assert positions_in(Question(SHARE_OFFSETS, 0, {}).group_in(answer(0, group(*places)))) == {
        PartitionId("t", 0): SharePosition(4, -1)
    }
    assert positions_in(Question(SHARE_OFFSETS, 1, {}).group_in(answer(1, group(*newer)))) == {
        PartitionId("t", 0): SharePosition(4, 2)
    }


@pytest.mark.parametrize("told", [answer(1), answer(1, group(), group()), b"\0\0\0"])
def test_nonsense(told: bytes) -> None:
    """An answer that is none, or about other groups than the one, is refused by the API's name."""
    with pytest.raises(Refused, match="DescribeShareGroupOffsets: the"):
        Question(SHARE_OFFSETS, 1, {}).group_in(told)
