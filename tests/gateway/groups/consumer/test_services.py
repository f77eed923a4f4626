"""Consumer groups on the real store: answers survive a crash, groups change their kind, rows are cleaned up."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from core.applied.tables import Put
from core.clock import ManualClock
from gateway.groups import consumer_groups, regexes
from gateway.groups.classic.group import Group
from gateway.groups.classic.messages import LeavingMember, Protocol
from gateway.groups.classic.states import GroupState
from gateway.groups.consumer import rows as consumer_rows
from gateway.groups.consumer.embedded import Subscription, read_assignment, write_assignment, write_subscription
from gateway.groups.consumer.format import CONSUMER_TABLE, decode_key, encode_key
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.messages import (
    ConsumerState,
    Heartbeat,
    HeartbeatAnswer,
    MemberState,
    RowKey,
    RowKind,
)
from gateway.groups.offsets.service import OffsetCommit
from gateway.groups.persistence import GROUPS_TABLE
from gateway.refusals import Refusal
from tests.gateway.groups.harness import subscription
from tests.gateway.groups.services import Services, run, serving

pytestmark = pytest.mark.slow

WITHIN_S = 60.0
AT_ONCE = "group.consumer.assignment.interval.ms=0"


async def beat(services: Services, member: str, epoch: int, group: str = "g", **said: Any) -> HeartbeatAnswer:
    """One heartbeat; a joining one says all that it must."""
    if epoch == 0:
        said = {"rebalance_timeout_ms": 60_000, "owned": {}, "names": frozenset({"t"})} | said
    return await services.groups.consumer_heartbeat(group, Heartbeat(member_id=member, epoch=epoch, **said))


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110 - nothing sets an event for a test
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), WITHIN_S)


def group_of(services: Services, name: str = "g") -> ConsumerGroup:
    group = services.groups.get(name)
    assert isinstance(group, ConsumerGroup)
    return group


def rows(services: Services) -> int:
    return len(services.store.home.table(CONSUMER_TABLE))


async def assert_refused(services: Services, code: ErrorCode, member: str, epoch: int, **said: Any) -> None:
    with pytest.raises(Refusal) as refused:
        await beat(services, member, epoch, **said)
    assert refused.value.code is code


def test_survives_a_crash_in_each_state(tmp_path: Path) -> None:
    """Stable, with partitions to give up, waiting for them: after a crash each member is where it was told to be."""

    async def test() -> None:
        clock = ManualClock()
        async with serving(tmp_path, AT_ONCE, clock=clock, clean=False) as services:
            await services.create("t")
            first = await beat(services, "m", 0)
        async with serving(tmp_path, AT_ONCE, clock=clock, clean=False) as services:
            assert group_of(services).state is ConsumerState.STABLE
            assert (await beat(services, "m", first.epoch)).assignment is None
            await beat(services, "n", 0)
            kept = (await beat(services, "m", first.epoch)).assignment
            assert kept is not None
        async with serving(tmp_path, AT_ONCE, clock=clock, clean=False) as services:
            states = {m.member_id: m.state for m in group_of(services).members.values()}
            assert states == {"m": MemberState.UNREVOKED_PARTITIONS, "n": MemberState.UNRELEASED_PARTITIONS}
            await beat(services, "m", first.epoch, owned=kept)
        async with serving(tmp_path, AT_ONCE, clock=clock) as services:
            given = (await beat(services, "n", group_of(services).epoch)).assignment
            assert given is not None
            held = [p for partitions in (*kept.values(), *given.values()) for p in partitions]
            assert sorted(held) == [0, 1, 2, 3]

    run(test())


def test_sessions_go_on_after_a_crash(tmp_path: Path) -> None:
    """A member that does not come back after a crash is removed when its session ends."""

    async def test() -> None:
        clock = ManualClock()
        async with serving(tmp_path, clock=clock, clean=False) as services:
            await services.create("t")
            await beat(services, "m", 0)
        async with serving(tmp_path, clock=clock) as services:
            clock.advance(46)
            services.groups.consumer.expire_due()
            assert group_of(services).is_empty
            await assert_refused(services, ErrorCode.unknown_member_id, "m", 2)

    run(test())


def test_topics_that_came_while_nobody_looked(tmp_path: Path) -> None:
    """Topics that came, by name or by expression, are assigned without a further request; so are new partitions."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE) as services:
            await services.create("t")
            await beat(services, "m", 0, names=None, regex="t|later")
            await beat(services, "n", 0, group="h", names=frozenset({"later"}))
            await services.create("later", partitions=2)
            await until(lambda: len(group_of(services).target_of("m")) == 2)
            await until(lambda: len(group_of(services, "h").target_of("n")) == 1)
            await services.topics.grow({"t": 6})
            await until(lambda: sum(map(len, group_of(services).target_of("m").values())) == 8)

    run(test())


def test_topics_that_change_while_groups_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often, one time after the other, groups are told of them: as where topics are created without an end."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE) as services:
            await services.create("t")
            await beat(services, "m", 0)
            stream, groups = services.topics.get("t"), services.groups.consumer
            assert stream is not None
            left, tell = 2 * sys.getrecursionlimit(), groups._tell_of_topics

            async def told(group: ConsumerGroup, changed: set[str] | None) -> None:
                nonlocal left
                if left:
                    left -= 1
                    groups.topic_changed(stream)
                await tell(group, changed)

            monkeypatch.setattr(consumer_groups, "TOPICS_SETTLE_S", 0)
            monkeypatch.setattr(groups, "_tell_of_topics", told)
            groups.topic_changed(stream)
            await until(lambda: not left)

    run(test())


class HeldMatching:
    """Regular expressions are held against topics in a thread, whose first pass begins when it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self._goes_on = threading.Event(), threading.Event()
        self._matching = regexes.matching
        monkeypatch.setattr(regexes, "NAMES_AT_ONCE", 0)
        monkeypatch.setattr(regexes, "matching", self._held)

    def _held(self, pattern: str, names: Iterable[str]) -> frozenset[str]:
        known = list(names)
        self.begun.set()
        assert self._goes_on.wait(WITHIN_S)
        return self._matching(pattern, known)

    def let_go(self) -> None:
        self._goes_on.set()


@pytest.mark.parametrize("change", ["comes", "goes"])
def test_a_topic_changes_while_a_regular_expression_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """It comes or goes when the names are taken and the outcome is not known yet: the group hears of it."""
    held = HeldMatching(monkeypatch)

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE) as services:
            await services.create("t")
            if change == "goes":
                await services.create("later")
            joining = asyncio.create_task(beat(services, "m", 0, names=None, regex="t|later"))
            await until(held.begun.is_set)
            if change == "comes":
                await services.create("later")
            else:
                await services.topics.delete([services.topics.existing("later")])
            await until(lambda: not services.groups.consumer._changed_topics)  # it is being looked at
            held.let_go()
            await joining
            count = 2 if change == "comes" else 1
            await until(lambda: len(group_of(services).target_of("m")) == count)
            await until(lambda: len(group_of(services).subscriptions.resolved["t|later"]) == count)

    run(test())


def test_one_group_keeps_no_news_of_topics_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be told of a topic, by a fault of ours, is passed over."""
    topics_changed = ConsumerGroup.topics_changed

    def refused(group: ConsumerGroup, *args: Any) -> None:
        if group.group_id == "faulty":
            raise RuntimeError("it cannot")
        topics_changed(group, *args)

    monkeypatch.setattr(ConsumerGroup, "topics_changed", refused)

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE) as services:
            await services.create("t")
            for group in ("faulty", "g"):
                await beat(services, "m", 0, group=group, names=frozenset({"t", "later"}))
            await services.create("later")
            await until(lambda: len(group_of(services).target_of("m")) == 2)
            await services.create("last")
            await beat(services, "m", 0, names=frozenset({"last"}))
            await until(lambda: len(group_of(services).target_of("m")) == 1)

    run(test())


def test_large_group_leaves_the_loop(tmp_path: Path) -> None:
    """A large group's first target is computed in a thread; the member's first answer has it all the same."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE) as services:
            await services.create("t", partitions=3_000)
            answer = await beat(services, "m", 0)
            assert answer.epoch == 2
            assert answer.assignment is not None
            assert [len(partitions) for partitions in answer.assignment.values()] == [3_000]

    run(test())


def test_many_rows(tmp_path: Path) -> None:
    """A target with more rows than one record of the log may have is stored, and read after a crash."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE, clean=False) as services:
            await services.create("t", partitions=1_500)
            await asyncio.gather(*(beat(services, f"m{n}", 0) for n in range(1_200)))
            group = group_of(services)
            await until(lambda: group.target_epoch == group.epoch and not group.changed)
            assert await services.groups.consumer.stored(group) is ErrorCode.none
            targets = dict(group.targets)
        async with serving(tmp_path, AT_ONCE) as services:
            assert group_of(services).targets == targets
            assert group_of(services).target_epoch == group_of(services).epoch

    run(test())


def test_deletion(tmp_path: Path) -> None:
    """A group is deleted when it is empty, with all rows and offsets; nothing of it comes back."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE) as services:
            await services.create("t")
            await beat(services, "m", 0)
            assert await services.groups.delete_group("g") is ErrorCode.non_empty_group
            await beat(services, "m", -1)
            await services.commit("g", "t", 0, 5)
            assert await services.groups.delete_group("g") is ErrorCode.none
            assert services.groups.get("g") is None
            assert rows(services) == 0
        async with serving(tmp_path, AT_ONCE) as services:
            assert services.groups.get("g") is None
            assert services.offsets("g") == {}

    run(test())


def test_unused_groups_go(tmp_path: Path) -> None:
    """A group without members and offsets is forgotten by the next sweep; a refused first heartbeat leaves none."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE) as services:
            await services.create("t")
            await beat(services, "m", 0)
            await beat(services, "m", -1)
            await services.groups.sweep()
            await until(lambda: services.groups.get("g") is None)
            await assert_refused(services, ErrorCode.invalid_regular_expression, "m", 0, names=None, regex="a(")
            assert services.groups.get("g") is None
            assert rows(services) == 0

    run(test())


def test_offsets_of_other_topics_expire(tmp_path: Path) -> None:
    """An offset of a topic that the group has left expires by the time of its commit; one of its topics never does."""

    async def test() -> None:
        clock = ManualClock()
        async with serving(tmp_path, AT_ONCE, "offsets.retention.minutes=1", clock=clock) as services:
            await services.create("t", "u")
            await services.commit("g", "t", 0, 5)
            await services.commit("g", "u", 0, 5)
            await beat(services, "m", 0)
            for _ in range(4):
                clock.advance(20)
                await beat(services, "m", 2)
            await services.groups.sweep()
            assert services.offsets("g") == {("t", 0): 5}

    run(test())


@pytest.mark.parametrize(
    ("member", "epoch", "places", "code"),
    [
        ("m", 3, (0,), ErrorCode.none),
        ("m", 2, (0,), ErrorCode.none),  # it had this one in that epoch already
        ("n", 2, (2,), ErrorCode.stale_member_epoch),  # and not this one
        ("m", 2, (0, 2), ErrorCode.stale_member_epoch),
        ("m", 4, (0,), ErrorCode.stale_member_epoch),
        ("x", 3, (0,), ErrorCode.unknown_member_id),
        ("", -1, (0,), ErrorCode.unknown_member_id),
    ],
)
def test_commits(tmp_path: Path, member: str, epoch: int, places: tuple[int, ...], code: ErrorCode) -> None:
    """A member commits with its epoch; with an earlier one only for partitions that it has had since."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE) as services:
            await services.create("t")
            await beat(services, "m", 0)
            await beat(services, "n", 0)
            kept = (await beat(services, "m", 2)).assignment
            assert kept is not None
            await beat(services, "m", 2, owned=kept)
            await beat(services, "n", 3)
            stream = services.topics.get("t")
            assert stream is not None
            wanted = [(stream.uuid, partition) for partition in places]
            assert services.groups.admission.commit("g", member, None, epoch, wanted) is code

    run(test())


# Groups that change their kind

JOIN = {"protocols": (Protocol("range", subscription("t")),)}


def test_upgrade_and_downgrade(tmp_path: Path) -> None:
    """A classic group takes in a member of the consumer protocol, and is classic again when that has left.

    The classic member keeps its partitions until the other needs some, and gets them back; a crash in between is
    noticed by nobody.
    """

    async def test() -> None:
        clock = ManualClock()
        everything = write_assignment(1, {"t": (0, 1, 2, 3)})
        async with serving(tmp_path, AT_ONCE, clock=clock, clean=False) as services:
            await services.create("t")
            joined = await services.join("g", **JOIN)
            classic = joined.member_id
            await services.sync("g", classic, joined.generation, {classic: everything})
            assert services.groups.admission.commit("g", classic, None, joined.generation) is ErrorCode.none
            await services.groups.offsets.commit("g", [OffsetCommit("t", 0, 3, -1, "")])
            await beat(services, "m", 0)
            assert services.store.home.table(GROUPS_TABLE).get(b"g") is None
        async with serving(tmp_path, AT_ONCE, clock=clock, clean=False) as services:
            error = services.groups.heartbeat("g", classic, None, joined.generation)
            assert error is ErrorCode.rebalance_in_progress
            again = await services.join("g", classic, protocols=(Protocol("range", owning("t", 0, 1, 2, 3)),))
            told = await services.sync("g", classic, again.generation)
            kept = read_assignment(told.assignment).partitions["t"]
            assert len(kept) == 2
            again = await services.join("g", classic, protocols=(Protocol("range", owning("t", *kept)),))
            assert again.generation == group_of(services).epoch
            given = (await beat(services, "m", group_of(services).epoch)).assignment
            assert given is not None
            assert sorted([*kept, *next(iter(given.values()))]) == [0, 1, 2, 3]
            await beat(services, "m", -1)
            await until(lambda: isinstance(services.groups.get("g"), Group))
            group = services.groups.get("g")
            assert isinstance(group, Group)
            assert group.state is GroupState.PREPARING_REBALANCE
            assert services.offsets("g") == {("t", 0): 3}
            await until(lambda: not rows(services))
        async with serving(tmp_path, AT_ONCE, clock=clock) as services:
            assert isinstance(services.groups.get("g"), Group)
            assert rows(services) == 0

    run(test())


@pytest.mark.parametrize(
    ("policy", "join", "is_upgraded"),
    [
        ("bidirectional", {}, True),
        ("upgrade", {}, True),
        ("downgrade", {}, False),
        ("disabled", {}, False),
        ("bidirectional", {"protocol_type": "connect"}, False),
        ("bidirectional", {"protocols": (Protocol("range", b"what?"),)}, False),
    ],
)
def test_policy(tmp_path: Path, policy: str, join: dict[str, Any], is_upgraded: bool) -> None:
    """A living classic group is upgraded if the policy allows it, and if its members are consumers."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE, f"group.consumer.migration.policy={policy}") as services:
            await services.create("t")
            joined = await services.join("g", **(JOIN | join))
            await services.sync("g", joined.member_id, joined.generation, {joined.member_id: b""})
            if is_upgraded:
                assert (await beat(services, "m", 0)).epoch > joined.generation
            else:
                await assert_refused(services, ErrorCode.group_id_not_found, "m", 0)
                assert services.groups.heartbeat("g", joined.member_id, None, joined.generation) is ErrorCode.none

    run(test())


def test_empty_groups_change_at_once(tmp_path: Path) -> None:
    """An empty group becomes of the kind that its next member asks for, whatever the policy; its offsets stay."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE, "group.consumer.migration.policy=disabled") as services:
            await services.create("t")
            await services.commit("g", "t", 0, 7)
            await beat(services, "m", 0)
            assert services.offsets("g") == {("t", 0): 7}
            await beat(services, "m", -1)
            joined = await services.join("g", **JOIN)
            assert joined.error is ErrorCode.none
            assert isinstance(services.groups.get("g"), Group)
            assert services.offsets("g") == {("t", 0): 7}
            services.groups.leave("g", [LeavingMember(joined.member_id, None, None)])
            await beat(services, "m", 0)
            assert isinstance(services.groups.get("g"), ConsumerGroup)

    run(test())


def test_a_conversion_that_did_not_end(tmp_path: Path) -> None:
    """The end came when some rows of the new group were stored: the group is classic, with all its members."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE, clean=False) as services:
            await services.create("t")
            member = await services.stable_member("g", **JOIN)
            await beat(services, "half", 0, group="made")
            made = group_of(services, "made")
            keys = [RowKey(kind, "half") for kind in (RowKind.MEMBER, RowKind.CURRENT)]
            half = {key: row for key in keys if (row := consumer_rows.row(made, key)) is not None}
            values = {key: row.encode() for key, row in half.items()}
            values[ConsumerGroup.head_key] = consumer_rows.unfinished_head(made)
            await services.store.home.update(
                *(Put(CONSUMER_TABLE, encode_key("g", key), value) for key, value in values.items())
            )
        async with serving(tmp_path, AT_ONCE) as services:
            group = services.groups.get("g")
            assert isinstance(group, Group)
            assert [each.member_id for each in group.roster] == [member]
            await services.groups._journal.settle()
            keys_left = [decode_key(key) for key, _ in services.store.home.table(CONSUMER_TABLE).items()]
            assert {name for name, _ in keys_left} == {"made"}

    run(test())


def owning(topic: str, *partitions: int) -> bytes:
    """A subscription that says what the member has."""
    return write_subscription(Subscription(1, (topic,), None, {topic: partitions}))


def test_upgrade_of_many(tmp_path: Path) -> None:
    """A large classic group is taken over in turns; a member that leaves meanwhile is not in the new group."""

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE, "group.initial.rebalance.delay.ms=200") as services:
            await services.create("t")
            joins = [asyncio.create_task(services.join("g", **JOIN)) for _ in range(800)]
            await asyncio.sleep(0)
            while not all(each.done() for each in joins):
                services.clock.advance(0.2)
                services.groups.expire_due()
                await asyncio.sleep(0)
            joined = [each.result() for each in joins]
            leader = joined[0].leader
            everything = {leader: write_assignment(1, {"t": (0, 1, 2, 3, 99, -1)})}
            syncs = [
                services.sync("g", each.member_id, 1, everything if each.member_id == leader else {}) for each in joined
            ]
            await asyncio.gather(*syncs)
            upgrade = asyncio.create_task(beat(services, "m", 0))
            await asyncio.sleep(0)
            gone = joined[-1].member_id
            services.groups.leave("g", [LeavingMember(gone, None, None)])
            await upgrade
            group = group_of(services)
            assert group.member_count == 800
            assert gone not in group.members
            assert {p for held in group.members[leader].assigned.values() for p in held} <= {0, 1, 2, 3}

    run(test())
