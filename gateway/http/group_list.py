"""Groups of all kinds over HTTP, as a list to search and to sort.

Keeps: a page has at most `LISTED_MAX` groups, each with at most `TOPICS_MAX` of its topics, and only groups and topics
that the request may see. What is told was counted at most a second ago, whatever the number of requests. A
list that some groups are missing from, as they load, says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from core.turns import in_turns
from gateway.groups.lag import GroupLag
from gateway.http.access import Access
from gateway.http.desk import LISTED_MAX, TOPIC, Desk, answered
from gateway.http.lists import Order
from gateway.http.models import GroupList, GroupTopic, GroupView
from gateway.http.openapi import Endpoint, Parameter
from gateway.http.sorting import BY_NAME, in_order
from gateway.security.acls import ResourceType

TOPICS_MAX: Final = 20
"""Topics of a group that are listed one by one; its lag counts all."""
DEFAULT: Final = "-lag"
ORDER: Final[Order[GroupLag]] = Order(
    of={
        "name": BY_NAME,
        "type": attrgetter("kind"),
        "state": attrgetter("state"),
        "members": attrgetter("members"),
        "topics": lambda group: len(group.topics),
        "lag": attrgetter("lag"),
        "coordinator": lambda _: 0,  # one node tells of those that it coordinates
    },
    default=DEFAULT,
    page=LISTED_MAX,
)
VIEW_ORDER: Final[Order[GroupView]] = Order(
    of={order: attrgetter("topics_total" if order == "topics" else order) for order in ORDER.of},
    default=DEFAULT,
    page=LISTED_MAX,
)
"""The same orders of what several nodes have told."""


class GroupListPage:
    """The operation."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def endpoints(self) -> Sequence[Endpoint]:
        of_topic = Parameter("topic", "Only groups that have come somewhere in this topic", "string")
        asked = (*ORDER.parameters("groups"), of_topic)
        told = "Groups of all kinds with their lag, searched and sorted"
        return (Endpoint("GET", "/api/v1/groups", told, self._list, GroupList, None, asked, (400, 503)),)

    async def _list(self, request: Request) -> Response:
        asked = ORDER.asked(request)
        sources, access = self._desk.ready(), self._desk.access(request)
        topic, lags = request.query_params.get("topic"), sources.lags
        loading = sources.services.groups.are_loading or sources.services.share.coordinators.are_loading
        every = in_turns(list(await lags.refresh()))
        seen = [await _as_seen(group, access) async for group in every if access.sees(ResourceType.GROUP, group.name)]
        fitting = [
            group
            async for group in in_turns(seen)
            if (topic is None or topic in group.topics) and asked.fits(group.name)
        ]
        page = await ORDER.page_of(await in_order(fitting, BY_NAME), asked)
        groups = [_view(group, topic, lags.nodes.me) for group in page]
        told = GroupList(
            groups=groups, found=len(fitting), total=len(seen), measured_ms=lags.measured_ms, loading=loading
        )
        return answered(told)


async def _as_seen(group: GroupLag, access: Access) -> GroupLag:
    """With the topics that the request may see, and the lag in them."""
    every = in_turns(list(group.topics.items()))
    topics = {name: topic async for name, topic in every if access.sees(TOPIC, name)}
    return group if len(topics) == len(group.topics) else replace(group, topics=topics)


def _view(group: GroupLag, topic: str | None, coordinator: int) -> GroupView:
    """With the topics in which it lags most, or one topic alone."""
    topics = sorted(group.topics.items(), key=lambda item: (item[0] != topic, -item[1].lag, item[0]))
    topics = topics[: TOPICS_MAX if topic is None else 1]
    return GroupView(
        name=group.name,
        type=group.kind,
        state=group.state,
        members=group.members,
        lag=group.lag,
        topics=[GroupTopic(topic=name, partitions=topic.partitions, lag=topic.lag) for name, topic in topics],
        topics_total=len(group.topics),
        coordinator=coordinator,
    )
