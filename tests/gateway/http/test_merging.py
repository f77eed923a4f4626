"""Answers of several workers become one: the order of the workers does not matter, and one alone is as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http import merging
from gateway.http.health_models import (
    DiskView,
    FailedRequests,
    HealthReport,
    LogHealth,
    ThroughputHistory,
    WarningList,
    WarningView,
)
from gateway.http.models import (
    EpochView,
    EventList,
    GroupList,
    GroupView,
    HeatHistory,
    LimitView,
    MapSegment,
    Overview,
    ScaleEventView,
    Scaling,
    SegmentHeat,
    SegmentView,
    StreamList,
    StreamMap,
    StreamSummary,
    StreamView,
    Tiers,
)
from gateway.http.node_models import ContainerView, NodeList, NodeView, State
from gateway.http.topic_models import PartitionList, PartitionRow, TopicList, TopicRow

pytestmark = pytest.mark.slow

COUNTS = st.integers(0, 1_000)
RATES = st.floats(0, 1e9)
NAMES = st.sampled_from(["audit", "orders", "views"])
SCALING = st.builds(Scaling, policy=st.just("fixed"), target_rate=RATES, factor=COUNTS, min_segments=COUNTS)
TIERS = st.builds(Tiers, log=COUNTS, chunks=COUNTS)
FEW = {"max_size": 4}


def ordered(
    values: st.SearchStrategy[Any], key: Callable[[Any], Any], of: Callable[[Any], Any] | None = None
) -> st.SearchStrategy[list[Any]]:
    """A few of them in the order in which a worker lists them; `of`: what each of them is alone in."""
    return st.lists(values, unique_by=of or key, **FEW).map(lambda found: sorted(found, key=key))


def decided(of: type[StreamSummary], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        of,
        name=NAMES,
        state=st.sampled_from(["open", "sealed"]),
        slots=COUNTS,
        epoch=st.integers(0, 3),
        segments=COUNTS,
        appended_bytes=COUNTS,
        appended_events=COUNTS,
        tiers=TIERS,
        rate_bytes=RATES,
        rate_events=RATES,
        **more,
    )


SENTENCES = st.lists(st.text(max_size=4), unique=True, **FEW)
BOUNDS = st.tuples(st.floats(0, 1), st.floats(0, 1))
MEASURED = {"bytes": COUNTS, "rate_bytes": RATES, "rate_events": RATES, "key_range": BOUNDS}
SEGMENTS = st.builds(SegmentView, id=st.integers(0, 3), slots=st.just([0]), **MEASURED)
EPOCHS = st.builds(EpochView, epoch=st.integers(0, 3), segments=ordered(SEGMENTS, lambda one: one.id))
VIEWS = decided(StreamView, scaling=SCALING, limits=SENTENCES, epochs=ordered(EPOCHS, lambda one: one.epoch))
RECTANGLES = st.builds(MapSegment, id=st.integers(0, 3), node=st.none() | st.integers(1, 3), **MEASURED)
HEAT = st.builds(
    HeatHistory,
    name=NAMES,
    policy=st.just("bytes"),
    period_ms=st.just(20_000),
    end_ms=st.integers(0, 3).map(lambda periods: 1_000_000 + 20_000 * periods),
    segments=ordered(
        st.builds(SegmentHeat, id=st.integers(0, 3), loads=st.lists(st.none() | COUNTS, max_size=4)),
        lambda one: one.id,
    ),
)
MAPS = st.builds(
    StreamMap,
    name=NAMES,
    epoch=st.integers(0, 3),
    scaling=SCALING,
    limits=SENTENCES,
    segments=ordered(RECTANGLES, lambda one: one.id),
)
STREAMS = st.builds(StreamList, streams=ordered(decided(StreamSummary), lambda one: one.name), total=COUNTS)
GROUPS = st.builds(
    GroupList,
    groups=ordered(
        st.builds(GroupView, name=st.text(max_size=3), lag=COUNTS, topics=st.just([])), lambda one: one.name
    ),
    total=COUNTS,
    measured_ms=COUNTS,
)
EVENTS = st.builds(
    EventList,
    events=ordered(
        st.builds(ScaleEventView, time_ms=COUNTS, stream=NAMES, epoch=st.integers(0, 3)),
        lambda one: (-one.time_ms, one.stream, -one.epoch),
    ),
    limits=ordered(st.builds(LimitView, stream=NAMES, segment=COUNTS), lambda one: (one.stream, one.segment)),
)
TOPICS = st.builds(
    TopicList,
    topics=ordered(
        st.builds(TopicRow, name=NAMES, bytes=COUNTS, groups=COUNTS, rate_bytes=RATES, rate_events=RATES),
        lambda one: one.name,
    ),
)
PARTITIONS = st.builds(
    PartitionList, partitions=ordered(st.builds(PartitionRow, partition=st.integers(0, 3)), lambda one: one.partition)
)
LOGS = st.builds(LogHealth, container=st.integers(0, 3), held_up_s=RATES, snapshot_age_s=RATES, pins=st.just([]))
HEALTH = st.builds(
    HealthReport,
    concerns=ordered(st.text(max_size=4), lambda line: line),
    logs=ordered(LOGS, lambda one: one.container),
    disks=ordered(st.builds(DiskView, path=NAMES), lambda one: one.path),
    failed_requests=ordered(
        st.builds(FailedRequests, api=COUNTS, count=COUNTS), lambda one: (-one.count, one.api), lambda one: one.api
    ),
)
WARNINGS = st.builds(
    WarningList,
    warnings=ordered(
        st.builds(WarningView, time_ms=COUNTS, level=st.just("warning"), text=st.text(max_size=3)),
        lambda one: (-one.time_ms, one.level, one.text),
    ),
)
HISTORIES = st.builds(
    ThroughputHistory, **{name: st.lists(COUNTS, **FEW) for name in ("bytes_in", "bytes_out", "records_in")}
)
OVERVIEWS = st.builds(Overview, phase=st.sampled_from(["serving", "stopping", "recovering"]))

Merge = Callable[[Sequence[Any]], Any]
CASES: dict[str, tuple[st.SearchStrategy[Any], Merge]] = {
    "overview": (OVERVIEWS, merging.overview),
    "streams": (STREAMS, lambda answers: merging.streams(answers, 100)),
    "stream": (VIEWS, merging.stream),
    "health": (HEALTH, merging.health),
    "history": (HISTORIES, merging.history),
    "warnings": (WARNINGS, lambda answers: merging.warnings(answers, 100)),
    "topics": (TOPICS, merging.topics),
    "partitions": (PARTITIONS, merging.partitions),
    "map": (MAPS, merging.stream_map),
    "heat": (HEAT, merging.heat),
    "groups": (GROUPS, merging.groups),
    "events": (EVENTS, lambda answers: merging.events(answers, 100)),
}


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_the_order_of_the_workers(case: str, data: st.DataObject) -> None:
    """Whichever worker answers first, the whole is the same."""
    answers, merge = CASES[case]
    told = data.draw(st.lists(answers, min_size=2, max_size=4))
    shuffled = data.draw(st.permutations(told))
    assert merge(told).model_dump_json() == merge(shuffled).model_dump_json()


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_one_alone(case: str, data: st.DataObject) -> None:
    """A single worker's answer passes as it is."""
    answers, merge = CASES[case]
    answer = data.draw(answers)
    assert merge([answer]) == answer


@given(st.lists(STREAMS, min_size=1, max_size=4), st.integers(0, 3))
def test_bytes_add_up(answers: list[StreamList], limit: int) -> None:
    """Each stream is listed once, with the bytes of all workers; no more are listed than were asked for."""
    whole = merging.streams(answers, limit)
    names = sorted({one.name for answer in answers for one in answer.streams})
    assert [one.name for one in whole.streams] == names[:limit]
    for summed in whole.streams:
        same = [one for answer in answers for one in answer.streams if one.name == summed.name]
        assert summed.appended_bytes == sum(one.appended_bytes for one in same)
        assert summed.epoch == max(one.epoch for one in same)


def test_samples_of_the_same_time_meet() -> None:
    """Of a segment that moved, each worker remembers its part; one that sampled earlier, or never, hides nothing."""

    def told(end_ms: int, **loads: list[int | None]) -> HeatHistory:
        segments = [SegmentHeat(id=int(name[1:]), loads=known) for name, known in loads.items()]
        return HeatHistory(name="t", policy="bytes", period_ms=20_000, end_ms=end_ms, segments=segments)

    whole = merging.heat([told(1_740_000, s1=[7, 8]), told(1_760_000, s1=[None, 9], s2=[5]), told(0)])

    assert whole == told(1_760_000, s1=[7, 8, 9], s2=[5])
    assert merging.heat([told(0, s1=[1]), told(2**50)]).segments == [SegmentHeat(id=1, loads=[None] * 1_080)]


@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_an_event_is_told_once(answers: list[EventList]) -> None:
    """What two workers tell alike is one event, and the newest are first."""
    whole = merging.events([*answers, *answers], 100)
    assert whole == merging.events(answers, 100)
    times = [event.time_ms for event in whole.events]
    assert times == sorted(times, reverse=True)


def test_the_remedy_is_last() -> None:
    """Sentences of several workers about a stream's hot segments end with the remedy, which is told once."""
    assert merging._limits([["Segment 1.", "Add slots."], [], ["Segment 2.", "Add slots."]]) == [
        "Segment 1.",
        "Segment 2.",
        "Add slots.",
    ]


def node_list(time_ms: int, states: dict[int, State], *, certain: bool = True, owner: int = 1) -> NodeList:
    nodes = [
        NodeView(id=number, state=state, concerns=[], connections=None, gone_s=9.0 if state == "gone" else None)
        for number, state in states.items()
    ]
    containers = [ContainerView(id=0, node=owner, epoch=3, stage="serving", going_to=-1)]
    return NodeList(time_ms=time_ms, certain=certain, nodes=nodes, containers=containers)


def test_each_node_tells_of_itself() -> None:
    """One that has answered is as it says; one that has not is silent, and one that others saw go is gone."""
    one = node_list(10, {1: "serving", 2: "silent", 3: "silent", 4: "gone"})
    two = node_list(20, {1: "silent", 2: "draining", 3: "silent", 5: "stopped"})
    for answers in ([one, two], [two, one]):
        merged = merging.nodes(answers)
        told = {node.id: node.state for node in merged.nodes}
        assert (told[1], told[2], told[3], merged.time_ms) == ("serving", "draining", "silent", 20)


def test_a_node_without_a_lease_is_not_believed_about_owners() -> None:
    """It woke from a long sleep, and its clock is ahead: what it sees of others is of before."""
    awake, woken = (
        node_list(10, {1: "serving", 2: "silent"}),
        node_list(99, {1: "silent", 2: "not ready"}, certain=False, owner=2),
    )
    merged = merging.nodes([woken, awake])
    assert merged.certain
    assert merged.containers[0].node == 1
    assert [node.state for node in merged.nodes] == ["serving", "not ready"]
    assert not merging.nodes([woken]).certain


def test_troubles_and_disks_of_machines_have_their_names() -> None:
    """Disks of the same path on two machines are two; whoever has not answered is a trouble."""
    report = HealthReport(
        time_ms=1,
        concerns=["it is full"],
        logs=[],
        disks=[DiskView(path="/data", size_bytes=10, free_bytes=1)],
        failed_requests=[],
    )
    merged = merging.health_of_machines({"node 1": report, "node 2": report}, ["node 3"])
    assert [disk.path for disk in merged.disks] == ["node 1: /data", "node 2: /data"]
    assert merged.concerns[0].startswith("node 3 does not answer")
    assert merged.concerns[1:] == ["node 1: it is full", "node 2: it is full"]
