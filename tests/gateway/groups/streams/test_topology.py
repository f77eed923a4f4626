"""What a topology asks of topics: how many partitions internal ones get, which are missing, which do not fit."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from gateway.groups.streams.statuses import StatusCode
from gateway.groups.streams.topology import Shape, Topology, shape_of
from gateway.refusals import Refusal
from tests.gateway.groups.streams.harness import COUNT, repartition, subtopology, topology


def shape(of: Topology, /, **topics: int) -> Shape:
    return shape_of(of, {name.replace("_", "-"): count for name, count in topics.items()}.get)


def problem(of: Topology, /, **topics: int) -> tuple[StatusCode, str]:
    found = shape(of, **topics).problem
    assert found is not None
    return found.code, found.detail


def invalid(of: Topology, /, **topics: int) -> str:
    with pytest.raises(Refusal) as refused:
        shape(of, **topics)
    assert refused.value.code is ErrorCode.streams_invalid_topology
    return str(refused.value)


def test_internal_topics_are_as_large_as_what_feeds_them() -> None:
    """A repartition topic has the partitions of the largest topic before it, a changelog those of its inputs."""
    found = shape(COUNT, **{"in": 6})
    assert {topic.name: topic.partitions for topic in found.missing} == {"app-by-word": 6, "app-count": 6}
    assert found.problem == (
        StatusCode.MISSING_INTERNAL_TOPICS,
        "Internal topics are missing: app-by-word, app-count",
    )
    assert not found.is_ready


def test_what_the_application_says_of_an_internal_topic_is_kept() -> None:
    """Its configs, its replicas, and its partitions if it names them."""
    wanted = topology(
        subtopology("0", "in", writes=("mid",)),
        subtopology("1", reads=(repartition("mid", 3),), keeps=("log",)),
    )
    missing = {topic.name: topic for topic in shape(wanted, **{"in": 6}).missing}
    assert (missing["mid"].partitions, missing["log"].partitions) == (3, 3)
    assert missing["mid"].configs == (("cleanup.policy", "delete"),)
    assert missing["log"].configs == (("cleanup.policy", "compact"),)


def test_tasks_of_a_subtopology_are_the_partitions_of_its_largest_input() -> None:
    """When all topics exist, there is nothing to complain of."""
    found = shape(COUNT, **{"in": 6, "app_by_word": 6, "app_count": 6})
    assert found.is_ready
    assert found.tasks == {"0": 6, "1": 6}
    assert shape(topology(subtopology("0", "a", "b")), a=2, b=5).tasks == {"0": 5}


def test_repartition_topics_in_a_row() -> None:
    """One feeds the next, in whatever order the subtopologies are told."""
    row = topology(
        subtopology("2", reads=(repartition("second"),)),
        subtopology("1", reads=(repartition("first"),), writes=("second",)),
        subtopology("0", "in", writes=("first",)),
    )
    assert {t.name: t.partitions for t in shape(row, **{"in": 7}).missing} == {"first": 7, "second": 7}


def test_missing_sources_are_named() -> None:
    """The application's own topics are never made for it; of many the first are named."""
    code, detail = problem(topology(subtopology("0", "b", "a"), subtopology("1", "c")), c=1)
    assert (code, detail) == (StatusCode.MISSING_SOURCE_TOPICS, "Source topics a, b are missing.")
    many = topology(subtopology("0", *(f"t{number:02}" for number in range(12))))
    assert problem(many)[1].endswith("t08, t09, and 2 more are missing.")


def test_topics_that_are_read_together_must_be_alike() -> None:
    """Topics of the application itself are compared; repartition topics follow them."""
    joined = topology(
        subtopology("0", "up", writes=("mid",)),
        subtopology("1", "side", reads=(repartition("mid"),), together=(frozenset({"side", "mid"}),)),
    )
    assert {t.name: t.partitions for t in shape(joined, up=8, side=2).missing} == {"mid": 2}
    apart = topology(subtopology("0", "a", "b", together=(frozenset({"a", "b"}),)))
    assert problem(apart, a=2, b=3) == (
        StatusCode.INCORRECTLY_PARTITIONED_TOPICS,
        "Following topics do not have the same number of partitions: [{a=2, b=3}]",
    )


def test_a_fixed_repartition_topic_must_fit() -> None:
    """One with a number of its own that is read beside another topic must have that topic's number."""
    fixed = topology(
        subtopology("0", "up", writes=("mid",)),
        subtopology("1", "side", reads=(repartition("mid", 4),), together=(frozenset({"side", "mid"}),)),
    )
    assert problem(fixed, up=8, side=2) == (
        StatusCode.INCORRECTLY_PARTITIONED_TOPICS,
        "Number of partitions [4] of repartition topic [mid] doesn't match number of partitions [2] of the source "
        "topic.",
    )


def test_repartition_topics_alone_follow_the_largest() -> None:
    """Or the one with a number of its own."""

    def two(partitions: int) -> Topology:
        return topology(
            subtopology("0", "a", writes=("x",)),
            subtopology("1", "b", writes=("y",)),
            subtopology("2", reads=(repartition("x", partitions), repartition("y")), together=(frozenset({"x", "y"}),)),
        )

    assert {t.partitions for t in shape(two(0), a=3, b=5).missing} == {5}
    assert {t.partitions for t in shape(two(2), a=3, b=5).missing} == {2}


def test_an_internal_topic_of_another_size() -> None:
    """Somebody made it by hand, or the source has grown since."""
    assert problem(COUNT, **{"in": 6, "app_by_word": 6, "app_count": 4}) == (
        StatusCode.INCORRECTLY_PARTITIONED_TOPICS,
        "Existing topic app-count has different number of partitions: expected 6, found 4",
    )


def test_a_changelog_that_is_a_source() -> None:
    """It exists already, and is not made."""
    assert shape(topology(subtopology("0", "in", keeps=("in",))), **{"in": 2}).is_ready


def test_topologies_that_no_topics_could_satisfy_are_refused() -> None:
    """Loops without a source, repartition topics that nobody writes, subtopologies that read nothing."""
    loop = topology(subtopology("0", reads=(repartition("a"),), writes=("a",)))
    assert "There may be loops in the topology" in invalid(loop)
    unwritten = topology(subtopology("0", "in"), subtopology("1", reads=(repartition("a"),)))
    assert "never used as a sink topic" in invalid(unwritten, **{"in": 1})
    assert invalid(topology(subtopology("0"))) == "No source topics found for subtopology 0"
    alien = topology(subtopology("0", "in", together=(frozenset({"other"}),)))
    assert invalid(alien, **{"in": 1}) == "Number of partitions is not set for topic: other"
