"""Topics over HTTP: a list to search and sort, partitions with their offsets, configuration with its changes.

Keeps: a page has at most `LISTED_MAX` rows. A change of the configuration is checked, made and told to the audit log as
one of a Kafka client's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from core.streams.live import Stream
from core.turns import in_turns
from gateway.groups.elsewhere import Bounds
from gateway.http.access import Access
from gateway.http.desk import INT_MAX, LISTED_MAX, TOPIC, ApiSources, Desk, answered, number, problem_of, wanted_by
from gateway.http.lists import Order
from gateway.http.openapi import Endpoint, Parameter
from gateway.http.problems import Problem
from gateway.http.sorting import BY_NAME
from gateway.http.topic_models import (
    ConfigChange,
    ConfigList,
    ConfigRow,
    PartitionList,
    PartitionRow,
    TopicList,
    TopicRow,
)
from gateway.kafka_configs.keys import ResourceType as ConfigResource
from gateway.security.acls import Operation, ResourceType
from gateway.security.audit import clipped

ORDER: Final[Order[TopicRow]] = Order(
    of={
        "name": BY_NAME,
        "partitions": attrgetter("partitions"),
        "segments": attrgetter("segments"),
        "bytes": attrgetter("bytes"),
        "rate_bytes": attrgetter("rate_bytes"),
        "rate_events": attrgetter("rate_events"),
        "retention_ms": lambda row: row.retention_ms if row.retention_ms >= 0 else float("inf"),
        "groups": attrgetter("groups"),
    },
    default="name",
    page=50,
)


class TopicPages:
    """The operations."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def endpoints(self) -> Sequence[Endpoint]:
        partitions = (
            Parameter("offset", "The first partition. Default: 0"),
            Parameter("limit", f"Maximum number of partitions. Default and most: {LISTED_MAX}"),
        )
        list_, of_one = "/api/v1/topics", "/api/v1/topics/{name}"
        numbers, configs = f"{of_one}/partitions", f"{of_one}/configs"
        seen, looked = (400, 403, 404, 503), (403, 404, 503)
        changed = (400, 401, 403, 404, 409, 413, 415, 503)
        told = ("Topics, searched and sorted", "A topic's partitions with their offsets", "A topic's configuration")
        alter = "Change a topic's configuration"
        return (
            Endpoint("GET", list_, told[0], self._list, TopicList, None, ORDER.parameters("topics"), (400, 503)),
            Endpoint("GET", numbers, told[1], self._partitions, PartitionList, None, partitions, seen),
            Endpoint("GET", configs, told[2], self._configs, ConfigList, None, (), looked),
            Endpoint("PATCH", configs, alter, self._configure, ConfigList, ConfigChange, (), changed),
        )

    async def _list(self, request: Request) -> Response:
        asked = ORDER.asked(request)
        sources = self._desk.ready()
        access = self._desk.access(request)
        rows = await sources.topics.rows()
        seen = [row async for row in in_turns(rows) if access.sees(TOPIC, row.name)]
        fitting = [row async for row in in_turns(seen) if asked.fits(row.name)]
        readers = await self._readers(sources, access)
        if asked.order == "groups":
            fitting = [_with_groups(row, readers) async for row in in_turns(fitting)]
        page = await ORDER.page_of(fitting, asked)
        topics = [_with_groups(row, readers) for row in page]
        return answered(TopicList(topics=topics, found=len(fitting), total=len(seen), truncated=False))

    @staticmethod
    async def _readers(sources: ApiSources, access: Access) -> Mapping[str, int]:
        """The number of groups that read a topic, of those that the request may see."""
        counted: Counter[str] = Counter()
        async for group in in_turns(list(await sources.lags.refresh())):
            if access.sees(ResourceType.GROUP, group.name):
                counted.update(group.topics.keys())
        return counted

    async def _partitions(self, request: Request) -> Response:
        sources, stream = self._desk.stream(request, Operation.DESCRIBE)
        first = number(request, "offset", 0, INT_MAX) or 0
        most = number(request, "limit", LISTED_MAX, LISTED_MAX) or 0
        numbers = range(min(first, stream.slot_count), min(first + most, stream.slot_count))
        bounds = await bounds_elsewhere(sources, stream, numbers)
        rows = [_partition(sources, stream, each, bounds) async for each in in_turns(numbers)]
        return answered(PartitionList(topic=stream.name, partitions=rows, total=stream.slot_count))

    async def _configs(self, request: Request) -> Response:
        sources, stream = self._desk.stream(request, Operation.DESCRIBE_CONFIGS)
        return answered(_configs(sources, stream))

    async def _configure(self, request: Request) -> Response:
        self._desk.guard.check_write(request.headers)
        wanted = await wanted_by(request, ConfigChange)
        sources, stream = self._desk.stream(request, Operation.ALTER_CONFIGS)
        if (not wanted.set and not wanted.reset) or wanted.set.keys() & set(wanted.reset):
            raise Problem(400, "Not understood", "name each configuration once, in set or in reset")

        def change(now: Mapping[str, str]) -> Mapping[str, str | None]:
            return {name: text for name, text in now.items() if name not in wanted.reset} | wanted.set

        outcome = (await sources.services.topics.configure({stream.name: change}, wanted.dry_run))[stream.name]
        if outcome is not None:
            raise problem_of(outcome)
        if not wanted.dry_run:
            names = [clipped(name) for name in (*wanted.set, *wanted.reset)]
            self._desk.access(request).tell("configs changed", resource="TOPIC", name=stream.name, configs=names)
        return answered(_configs(sources, stream))


def _with_groups(row: TopicRow, readers: Mapping[str, int]) -> TopicRow:
    return row.model_copy(update={"groups": readers.get(row.name, 0)})


async def bounds_elsewhere(
    sources: ApiSources, stream: Stream, numbers: Sequence[int]
) -> Mapping[tuple[str, int], Bounds]:
    """The bounds of those partitions that lie in containers of other processes."""
    wanted: dict[int, list[tuple[str, int]]] = {}
    async for each in in_turns(numbers):
        container_id = stream.state.container_of_slot(each)
        if container_id not in sources.store.containers:
            wanted.setdefault(container_id, []).append((stream.name, each))
    found: dict[tuple[str, int], Bounds] = {}
    for container_id, places in wanted.items():
        found |= await sources.services.elsewhere.bounds(container_id, places)
    return found


def _partition(
    sources: ApiSources, stream: Stream, number: int, bounds: Mapping[tuple[str, int], Bounds]
) -> PartitionRow:
    segment = None if stream.is_sealed else stream.segment_id_of(number)
    if stream.state.container_of_slot(number) not in sources.store.containers:
        known = bounds.get((stream.name, number))
        start, end = (None, None) if known is None else known
        return PartitionRow(
            partition=number, segment=segment, start_offset=start, end_offset=end, stable_offset=None,
            bytes=None, chunk_bytes=None, here=False,
        )  # fmt: skip
    slot = stream.known_slot(number)  # one that was never written is none, and takes no memory
    return PartitionRow(
        partition=number,
        segment=segment,
        start_offset=0 if slot is None else slot.start,
        end_offset=0 if slot is None else slot.durable_end,
        stable_offset=0 if slot is None else slot.stable_end,
        bytes=0 if slot is None else slot.untiered_bytes + slot.tier_bytes,
        chunk_bytes=0 if slot is None else slot.tier_bytes,
        here=True,
    )


def _configs(sources: ApiSources, stream: Stream) -> ConfigList:
    configs = sources.services.topics.configs
    rows = [
        ConfigRow(
            name=config.name,
            value=config.value,
            inherited=configs.default_of(ConfigResource.TOPIC, config.name),
            source=config.source.name.lower(),
            type=config.type.name.lower(),
            doc=config.doc,
        )
        for config in configs.describe_topic(stream.config)
    ]
    return ConfigList(topic=stream.name, configs=rows)
