"""Answers that name other leaders are the plain ones, with tagged fields."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.codec import response_codec
from gateway.wire.leader_hints import Hints, encode_fetch_with_hints, encode_produce_with_hints
from gateway.wire.responses import FetchedPartition, encode_fetch_response, encode_produce_response

pytestmark = pytest.mark.slow

NO_HINTS = Hints({}, [])
ID = UUID(int=7)
NUMBERS = st.integers(-1, 2**40)
PRODUCED = st.tuples(st.integers(0, 9), st.integers(0, 99), NUMBERS, st.just(-1), NUMBERS) | st.tuples(
    st.integers(0, 9),
    st.integers(0, 99),
    NUMBERS,
    st.just(-1),
    NUMBERS,
    st.lists(st.tuples(st.integers(0, 9), st.text(max_size=9) | st.none()), max_size=3),
    st.text(max_size=20) | st.none(),
)


@pytest.mark.parametrize("version", range(10, 14))
@given(partitions=st.lists(PRODUCED, max_size=4), throttle=st.integers(0, 1000))
def test_produce_without_hints_is_the_plain_answer(version: int, partitions: list, throttle: int) -> None:  # type: ignore[type-arg]
    """Byte for byte the same, if no partition has a hint."""
    topics = [("t" if version < 13 else ID, partitions)]
    assert encode_produce_with_hints(version, topics, NO_HINTS, throttle) == encode_produce_response(
        version, topics, throttle
    )


@pytest.mark.parametrize("version", range(16, 19))
@given(
    told=st.lists(
        st.builds(
            lambda index, code, end, aborted, records: FetchedPartition(
                index, code, end, end, 0, aborted, (records,) if records else (), len(records)
            ),
            st.integers(0, 9),
            st.integers(0, 99),
            NUMBERS,
            st.none() | st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2),
            st.binary(max_size=20),
        ),
        max_size=4,
    )
)
def test_fetch_without_hints_is_the_plain_answer(version: int, told: list[FetchedPartition]) -> None:
    """Byte for byte the same, if no partition has a hint."""
    topics = [(ID, told)]
    assert encode_fetch_with_hints(version, topics, NO_HINTS, 3) == b"".join(
        encode_fetch_response(version, topics, session_id=3)
    )


def test_a_hint_names_leader_and_address() -> None:
    """The partition that another node leads has its id and epoch, and the answer that node's address."""
    hints = Hints({(ID, 1): (101, 4)}, [(101, "localhost", 9093)])
    topics = [(ID, [(0, 0, 5, -1, 0), (1, 6, -1, -1, -1)])]
    answer = response_codec(0, 13).decode(encode_produce_with_hints(13, topics, hints))
    first, second = answer.responses[0].partition_responses
    assert first.current_leader.leader_id == -1
    assert (second.current_leader.leader_id, second.current_leader.leader_epoch) == (101, 4)
    assert [(node.node_id, node.host, node.port) for node in answer.node_endpoints] == [(101, "localhost", 9093)]

    fetched = [(ID, [FetchedPartition(1, 6)])]
    answer = response_codec(1, 16).decode(encode_fetch_with_hints(16, fetched, hints, 0))
    (partition,) = answer.responses[0].partitions
    assert (partition.current_leader.leader_id, partition.current_leader.leader_epoch) == (101, 4)
    assert answer.node_endpoints[0].port == 9093
