"""Groups that kafka-python does not know: of the consumer (KIP-848), share (KIP-932) and streams protocol (KIP-1071).

A question about them travels over kafka-python's connections, which ask of a request no more than `Question` has; the
gateway's own codec writes it and reads the answer.

Keeps: no client library is known here; what a broker answers is decoded within the codec's bounds. The codec, with all
of Kafka's schemas, is imported when there is a question.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from gateway.cli.client.cluster import Member, PartitionId, SharePosition
from gateway.cli.refused import Refused

if TYPE_CHECKING:
    from gateway.wire.message import Message

DESCRIBES: Final = {"consumer": 69, "share": 77, "streams": 89}
"""The API that describes groups of a kind."""
SHARE_OFFSETS: Final = 90
VERSIONS: Final = {69: range(2), 77: range(1, 2), 89: range(1), 90: range(2)}
NAMES: Final = {
    69: "ConsumerGroupDescribe",
    77: "ShareGroupDescribe",
    89: "StreamsGroupDescribe",
    90: "DescribeShareGroupOffsets",
}
TAGS_SIZE: Final = 1
"""Of the header of an answer, in bytes: no broker has tags there."""


class _Readable(Protocol):
    def read(self, size: int = -1) -> bytes: ...


class _AnswerHeader(NamedTuple):
    correlation_id: int


class _Unread:
    """The form of an answer that whoever asked decodes."""

    @staticmethod
    def parse_header(answer: _Readable) -> _AnswerHeader:
        return _AnswerHeader(*struct.unpack(">i", answer.read(4)))

    @staticmethod
    def decode(answer: _Readable) -> bytes:
        return bytes(answer.read())


class _Header(NamedTuple):
    correlation_id: int

    def get_response_class(self) -> type[_Unread]:
        return _Unread


class Question:
    """A request as kafka-python sends it; its names are kafka-python's."""

    def __init__(self, key: int, version: int, body: Mapping[str, Any]) -> None:
        self.API_KEY = key
        self.API_VERSION = version
        self.header = _Header(0)
        self._body = body
        self._client_id = ""

    def __repr__(self) -> str:
        return f"<Question {NAMES[self.API_KEY]} v{self.API_VERSION}>"

    def expect_response(self) -> bool:
        return True

    def with_header(self, correlation_id: int, client_id: str) -> None:
        self.header = _Header(correlation_id)
        self._client_id = client_id

    def encode(self, *, framed: bool, header: bool) -> bytes:
        """The whole frame, which is all that is ever asked for."""
        from gateway.wire.codec import request_codec
        from gateway.wire.headers import RequestHeader, encode_request_header

        if not (framed and header):
            raise ValueError("a question is sent as a frame with its header")
        codec = request_codec(self.API_KEY, self.API_VERSION)
        head = RequestHeader(self.API_KEY, self.API_VERSION, self.header.correlation_id, self._client_id)
        frame = encode_request_header(head, codec.flexible) + bytes(codec.encode(self._body))
        return struct.pack(">i", len(frame)) + frame

    def group_in(self, answer: bytes) -> Message:
        """What is said of the one group that was asked for. Raises Refused."""
        from gateway.wire.codec import response_codec
        from gateway.wire.errors import MalformedRequest

        try:
            groups: Sequence[Message] = response_codec(self.API_KEY, self.API_VERSION).decode(answer, TAGS_SIZE).groups
        except MalformedRequest as error:
            raise Refused(f"{NAMES[self.API_KEY]}: the answer cannot be read: {str(error)[:200]}") from error
        if len(groups) != 1:
            raise Refused(f"{NAMES[self.API_KEY]}: the broker answers with {len(groups)} groups where 1 was asked for")
        return groups[0]


def question_of(key: int, body: Mapping[str, Any], served: Mapping[int, tuple[int, int]]) -> Question:
    """A question in the newest version that a broker serves too. Raises Refused."""
    least, most = served.get(key, (0, -1))
    versions = [version for version in VERSIONS[key] if least <= version <= most]
    if not versions:
        raise Refused(f"this cluster does not serve {NAMES[key]} in a version that is known here")
    return Question(key, versions[-1], body)


def members_of(described: Message) -> list[Member]:
    """The members of a described group."""
    return [
        Member(one.member_id, one.client_id, one.client_host, _partitions(one.assignment), _tasks(one.assignment))
        for one in described.members
    ]


def _partitions(assignment: Message) -> tuple[PartitionId, ...]:
    topics = getattr(assignment, "topic_partitions", ())
    return tuple(sorted(PartitionId(topic.topic_name, number) for topic in topics for number in topic.partitions))


def _tasks(assignment: Message) -> dict[str, tuple[str, ...]]:
    """A streams member's tasks by their role, named as Kafka Streams does."""
    found = {}
    for role in ("active", "standby", "warmup"):
        tasks = getattr(assignment, f"{role}_tasks", ())
        if tasks:
            found[role] = tuple(f"{one.subtopology_id}_{number}" for one in tasks for number in sorted(one.partitions))
    return found


def positions_in(told: Message) -> dict[PartitionId, SharePosition]:
    """A share group's positions; partitions that it has not begun, or that have an error, are left out."""
    return {
        PartitionId(topic.topic_name, one.partition_index): SharePosition(one.start_offset, getattr(one, "lag", -1))
        for topic in told.topics
        for one in topic.partitions
        if not one.error_code and one.start_offset >= 0
    }
