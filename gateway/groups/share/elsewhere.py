"""Share groups' positions in partitions of other workers, which keep them beside the records.

A group's coordinator asks for them as an administrative client would, by DescribeShareGroupOffsets v1,
AlterShareGroupOffsets v0 and DeleteShareGroupOffsets v0; a worker that is asked by another answers for its own
partitions, whether or not it knows the group.

Keeps: an answer that does not come is an error of its partitions, never a success; all that is asked may be repeated.
Before a group is deleted, all of its containers have answered, and are where they were when the first was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kio.schema.errors import ErrorCode

from gateway.cluster.nodes import NOBODY, Nodes
from gateway.cluster.peer import Peer, PeerAway
from gateway.wire.message import Message

DESCRIBE: Final = (90, 1)
ALTER: Final = (91, 0)
DELETE: Final = (92, 0)
ANSWER_S: Final = 10.0
"""Longest wait for an answer, which may wait for a sync of the other worker's disk."""
AWAY: Final = ErrorCode.not_leader_or_follower
"""Of partitions whose worker does not answer: a client asks again."""


class Place(NamedTuple):
    """A partition by its topic's name."""

    topic: str
    number: int


class Position(NamedTuple):
    """How far a group is in a partition; the start is -1 where it has not begun."""

    start: int
    leader_epoch: int
    lag: int
    error: int


class ShareElsewhere:
    """See the module. `peer_of` gives the node that has a container which is not here, if one has."""

    def __init__(self, nodes: Nodes, peer_of: Callable[[int], Peer | None], container_ids: Sequence[int]) -> None:
        """`container_ids`: all that there are."""
        self._nodes = nodes
        self._peer_of = peer_of
        self._container_ids = container_ids

    def __repr__(self) -> str:
        return f"<ShareElsewhere {len(self._nodes.others)} other workers>"

    async def positions(self, group_id: str, places: Mapping[Place, int]) -> dict[Place, Position]:
        """How far a group is in partitions; `places` has the container of each."""
        found = dict.fromkeys(places, Position(-1, -1, -1, AWAY))
        for container_id, some in _by_container(places).items():
            topics = [{"topic_name": name, "partitions": numbers} for name, numbers in _by_topic(some).items()]
            asked = {"groups": [{"group_id": group_id, "topics": topics}]}
            found |= _told(await self._ask(self._peer_of(container_id), DESCRIBE, asked))
        return found

    async def begun(self, group_id: str) -> dict[Place, Position]:
        """The partitions of all other workers that a group has begun, as far as these answer."""
        return {place: told for answer in await self._all_begun(group_id) for place, told in _told(answer).items()}

    async def topics_begun(self, group_id: str) -> set[str] | None:
        """The topics of these partitions; None if a worker does not answer, which may have more."""
        answers = await self._all_begun(group_id)
        return None if None in answers else {place.topic for answer in answers for place in _told(answer)}

    async def _all_begun(self, group_id: str) -> list[Message | None]:
        asked = {"groups": [{"group_id": group_id, "topics": None}]}
        return await asyncio.gather(*(self._ask(peer, DESCRIBE, asked) for peer in self._others()))

    def placement(self) -> Sequence[tuple[int, int]] | None:
        """Which worker has each container, in which epoch; None if nobody has one, of whose rows nobody can tell."""
        found = [(self._nodes.leader(one), self._nodes.epoch(one)) for one in self._container_ids]
        return None if any(node == NOBODY for node, _ in found) else found

    async def begin_at(
        self, group_id: str, starts: Mapping[Place, int], places: Mapping[Place, int]
    ) -> dict[Place, int]:
        """Set where a group begins; the error code of each partition."""
        found: dict[Place, int] = dict.fromkeys(places, AWAY)
        for container_id, some in _by_container(places).items():
            topics = [
                {
                    "topic_name": name,
                    "partitions": [
                        {"partition_index": number, "start_offset": starts[Place(name, number)]} for number in numbers
                    ],
                }
                for name, numbers in _by_topic(some).items()
            ]
            answer = await self._ask(self._peer_of(container_id), ALTER, {"group_id": group_id, "topics": topics})
            for topic in () if answer is None else answer.responses:
                for told in topic.partitions:
                    found[Place(topic.topic_name, told.partition_index)] = told.error_code
        return found

    async def forget(self, group_id: str, names: Iterable[str]) -> dict[str, int]:
        """Have the other workers forget a group's positions in topics; the error code of each topic."""
        found: dict[str, int] = dict.fromkeys(names, ErrorCode.none)
        if not found:
            return found
        asked = {"group_id": group_id, "topics": [{"topic_name": name} for name in found]}
        for answer in await asyncio.gather(*(self._ask(peer, DELETE, asked) for peer in self._others())):
            codes = {} if answer is None else {topic.topic_name: topic.error_code for topic in answer.responses}
            for name in found:
                found[name] = found[name] or codes.get(name, AWAY)
        return found

    def _others(self) -> list[Peer | None]:
        """The other workers that have containers."""
        return [self._peer_of(min(node.containers)) for node in self._nodes.others.values() if node.containers]

    async def _ask(self, peer: Peer | None, api: tuple[int, int], values: Mapping[str, Any]) -> Message | None:
        """None where nobody answers."""
        if peer is None:
            return None
        try:
            return await peer.ask(*api, values, ANSWER_S)
        except PeerAway:
            return None


def _by_container(places: Mapping[Place, int]) -> dict[int, list[Place]]:
    found: dict[int, list[Place]] = {}
    for place, container_id in places.items():
        found.setdefault(container_id, []).append(place)
    return found


def _by_topic(places: Iterable[Place]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, number in places:
        found.setdefault(name, []).append(number)
    return found


def _told(answer: Message | None) -> dict[Place, Position]:
    return {
        Place(topic.topic_name, told.partition_index): Position(
            told.start_offset, told.leader_epoch, told.lag, told.error_code
        )
        for group in (() if answer is None else answer.groups)
        for topic in group.topics
        for told in topic.partitions
    }
