"""Consumer groups: who reads what, where the next one goes on, and what happens as members come, leave and die."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Final

from compat_tests.harness.client import Client, Consumer
from compat_tests.harness.records import Partition, Record, Refused, Stored
from compat_tests.harness.waiting import until
from compat_tests.scenarios import (
    FENCED_INSTANCE_ID,
    GROUP_ID_NOT_FOUND,
    GROUP_SUBSCRIBED_TO_TOPIC,
    NON_EMPTY_GROUP,
    World,
    assert_log,
    numbered,
    offsets,
    refused,
    scenario,
)

IS_NO_MEMBER: Final = frozenset({"CommitFailedException", "CommitFailedError"})
"""A commit's error in the library's own words, once a heartbeat in the background was refused. Its next poll has the
server's."""


def poll_all(consumers: list[Consumer]) -> list[list[Stored]]:
    """Poll all members at the same time, as members in processes of their own do."""
    for consumer in consumers:
        consumer.begin_poll(100)
    return [consumer.finish_poll() for consumer in consumers]


def settled(consumers: list[Consumer], topic: str, partitions: int, within_s: float = 25) -> bool:
    """Poll all members until every partition has exactly one reader and nobody is idle."""
    everything = {(topic, p) for p in range(partitions)}

    def shared() -> bool:
        poll_all(consumers)
        held = [consumer.assignment() for consumer in consumers]
        return all(held) and sum(map(len, held)) == partitions and set.union(*held) == everything

    return until(shared, within_s=within_s, what=f"{partitions} partitions shared out", every_s=0)


@scenario()
def committing_and_resuming(world: World) -> None:
    """The next member of a group goes on exactly where the last commit says."""
    topic, group = world.topic(), world.name("group")
    world.client.write(topic, *numbered(100))
    first = world.client.consumer(topic, group=group)
    first.take(100)
    first.commit({(topic, 0): 60})
    first.close()

    second = world.client.consumer(topic, group=group)
    received = second.take(40)
    second.close()

    assert_log(received, numbered(40, start=60), start=60)


@scenario()
def committing_the_position(world: World) -> None:
    """A commit without offsets commits what was consumed; committed() and the admin client see it."""
    topic, group = world.topic(partitions=2), world.name("group")
    world.client.write(topic, *numbered(9, partition=0), *numbered(4, partition=1))
    consumer = world.client.consumer(topic, group=group)
    consumer.take(13)

    consumer.commit()
    seen = [consumer.committed(topic, 0), consumer.committed(topic, 1)]
    consumer.close()

    assert seen == [9, 4]
    assert world.client.group_offsets(group) == {(topic, 0): 9, (topic, 1): 4}


@scenario("notes")
def a_note_with_a_commit(world: World) -> None:
    """The metadata that goes with a commit comes back to the letter."""
    topic, group = world.topic(), world.name("group")
    world.client.write(topic, *numbered(3))
    consumer = world.client.consumer(topic, group=group)
    consumer.take(3)

    consumer.commit({(topic, 0): 2}, note="рука на пульсе")
    note = consumer.committed_note(topic, 0)
    consumer.close()

    assert note == "рука на пульсе"


@scenario()
def nothing_committed_yet(world: World) -> None:
    """A new group has no committed offset, and that is not an error."""
    topic = world.topic()
    consumer = world.client.consumer(topic, group=world.name("group"))
    settled([consumer], topic, 1)

    committed = consumer.committed(topic, 0)
    consumer.close()

    assert committed is None


@scenario()
def two_groups_side_by_side(world: World) -> None:
    """Each group reads everything and commits for itself."""
    topic, one, two = world.topic(), world.name("group"), world.name("group")
    world.client.write(topic, *numbered(20))
    first = world.client.consumer(topic, group=one)
    second = world.client.consumer(topic, group=two)

    received = [first.take(20), second.take(20)]
    first.commit({(topic, 0): 5})
    second.commit({(topic, 0): 15})
    first.close()
    second.close()

    for part in received:
        assert_log(part, numbered(20))
    assert world.client.group_offsets(one) == {(topic, 0): 5}
    assert world.client.group_offsets(two) == {(topic, 0): 15}


@scenario()
def members_join_and_leave(world: World) -> None:
    """One member has all, two share, three share, and a leaving one hands over: never a gap, never a double."""
    topic, group = world.topic(partitions=6), world.name("group")
    first = world.client.consumer(topic, group=group)
    settled([first], topic, 6)

    second = world.fellow(1).consumer(topic, group=group)
    settled([first, second], topic, 6)
    third = world.fellow(2).consumer(topic, group=group)
    settled([first, second, third], topic, 6)
    assert {len(c.assignment()) for c in (first, second, third)} == {2}

    second.close()
    settled([first, third], topic, 6)
    first.close()
    settled([third], topic, 6)
    third.close()


@scenario()
def every_record_once_through_rebalances(world: World) -> None:
    """With commits before each change of membership, the group as a whole reads each record once."""
    topic, group = world.topic(partitions=4), world.name("group")
    producer = world.client.producer()
    seen: list[Stored] = []

    def round_of(consumers: list[Consumer], number: int) -> None:
        batch = [Record(value=b"%d-%d" % (number, n), partition=n % 4) for n in range(40)]
        producer.send(topic, *batch)
        want = len(seen) + 40

        def all_read() -> bool:
            for consumer, new in zip(consumers, poll_all(consumers), strict=True):
                seen.extend(new)
                if new:
                    ends = {(topic, r.partition): r.offset + 1 for r in new}
                    consumer.commit(ends)
            return len(seen) >= want

        until(all_read, within_s=20, what=f"round {number} read", every_s=0)

    first = world.client.consumer(topic, group=group)
    settled([first], topic, 4)
    round_of([first], 1)
    second = world.fellow(1).consumer(topic, group=group)
    settled([first, second], topic, 4)
    round_of([first, second], 2)
    first.close()
    settled([second], topic, 4)
    round_of([second], 3)
    second.close()
    producer.close()

    assert len(seen) == 120
    assert {(r.partition, r.offset) for r in seen} == {(p, o) for p in range(4) for o in range(30)}


@scenario()
def a_member_dies(world: World) -> None:
    """A member that was killed loses its partitions after the session timeout; its commits stand."""
    topic, group = world.topic(partitions=4), world.name("group")
    sent = [Record(value=b"%d" % n, partition=n % 4) for n in range(40)]
    world.client.write(topic, *sent)
    doomed_process = world.another_process()
    doomed = doomed_process.consumer(topic, group=group, session_ms=3_000)
    doomed.take(40)
    doomed.commit({(topic, p): 6 for p in range(4)})

    doomed_process.agent.kill()
    survivor = world.client.consumer(topic, group=group)
    received = survivor.take(16, within_s=40)
    survivor.close()

    assert sorted((r.partition, r.offset) for r in received) == [(p, o) for p in range(4) for o in (6, 7, 8, 9)]


@scenario("range")
def range_assignment(world: World) -> None:
    """The range assignor gives neighbouring partitions to one member."""
    topic, group = world.topic(partitions=6), world.name("group")
    processes = (world.client, world.fellow(1))
    consumers = [process.consumer(topic, group=group, assignor="range") for process in processes]
    settled(consumers, topic, 6)

    held = sorted(sorted(p for _, p in consumer.assignment()) for consumer in consumers)
    for consumer in consumers:
        consumer.close()

    assert held == [[0, 1, 2], [3, 4, 5]]


@scenario("sticky")
def sticky_assignment(world: World) -> None:
    """With the sticky assignor a member keeps what it may keep when another one comes."""
    topic, group = world.topic(partitions=6), world.name("group")
    first = world.client.consumer(topic, group=group, assignor="sticky")
    settled([first], topic, 6)
    second = world.fellow(1).consumer(topic, group=group, assignor="sticky")
    settled([first, second], topic, 6)
    kept, taken = first.assignment(), second.assignment()

    second.close()
    settled([first], topic, 6)
    after = first.assignment()
    first.close()

    assert (len(kept), len(taken)) == (3, 3)
    assert after == kept | taken


@scenario("cooperative")
def cooperative_rebalancing(world: World) -> None:
    """Cooperative-sticky: only partitions that move are revoked, and the others are read on throughout."""
    topic, group = world.topic(partitions=6), world.name("group")
    member = functools.partial(world.client.consumer, topic, group=group, assignor="cooperative-sticky")
    first = member()
    settled([first], topic, 6)

    second = member()
    settled([first, second], topic, 6)
    kept, moved = first.assignment(), second.assignment()
    revoked: set[Partition] = set()
    for kind, partitions in first.events():
        assert kind != "lost"
        if kind == "revoked":
            revoked |= partitions
    second.close()
    settled([first], topic, 6)
    first.close()

    assert revoked == moved
    assert (len(kept), len(moved)) == (3, 3)


@scenario("static members")
def a_static_member_comes_back(world: World) -> None:
    """A static member that restarts gets its partitions back, and nobody else notices."""
    topic, group = world.topic(partitions=4), world.name("group")
    join = functools.partial(Client.consumer, group=group, session_ms=20_000, assignor="range", metadata_ms=60_000)
    stays = join(world.client, topic, instance="stays")
    leaver = world.another_process()
    returns = join(leaver, topic, instance="returns")

    def both_settled() -> bool:
        poll_all([stays, returns])
        return len(stays.assignment()) == len(returns.assignment()) == 2

    until(both_settled, within_s=25, what="two and two", every_s=0)
    kept, back = stays.assignment(), returns.assignment()
    noticed = len(stays.events())

    leaver.agent.kill()
    returned = join(world.another_process(), topic, instance="returns")

    def returned_settled() -> bool:
        poll_all([stays, returned])
        return len(returned.assignment()) == 2

    until(returned_settled, within_s=25, what="the member is back", every_s=0)

    assert returned.assignment() == back
    assert stays.assignment() == kept
    assert len(stays.events()) == noticed
    stays.close()


@scenario("static members")
def a_static_members_double_is_fenced(world: World) -> None:
    """A member that takes a live member's instance id takes its place: the first one is fenced, not both served.

    aiokafka's heartbeats say no instance id: told that it is no member, the first one takes its place back. It stands
    still meanwhile, or the other one is fenced in the middle of its join (as UnknownError: aiokafka does not know the
    code).
    """
    topic, group = world.topic(partitions=2), world.name("group")
    world.client.write(topic, *numbered(3))
    other = world.another_process()
    old = other.consumer(topic, group=group, instance="same", session_ms=20_000)
    settled([old], topic, 2)

    with nullcontext() if world.client.can("instance everywhere") else other.agent.standing_still():
        new = world.client.consumer(topic, group=group, instance="same", session_ms=20_000)
        settled([new], topic, 2)

    told = world.vague(FENCED_INSTANCE_ID)
    with refused(*told):
        for _ in range(50):
            old.poll(50)
            try:
                old.commit({(topic, 0): 1})
            except Refused as refusal:
                if refusal.code in told or refusal.name not in IS_NO_MEMBER:
                    raise
    assert len(world.client.describe_group(group)["members"]) == 1
    new.close()


@scenario()
def looking_at_a_group(world: World) -> None:
    """A group is listed, described with its members and what they hold, and is Empty after they left."""
    topic, group = world.topic(partitions=4), world.name("group")
    processes = (world.client, world.fellow(1))
    consumers = [process.consumer(topic, group=group) for process in processes]
    settled(consumers, topic, 4)

    described = world.client.describe_group(group)
    listed = world.client.groups()
    held = [sorted(map(list, consumer.assignment())) for consumer in consumers]
    for consumer in consumers:
        consumer.close()
    until(
        lambda: world.client.describe_group(group)["state"] == "Empty",
        within_s=30,
        what="the group is Empty",
    )

    assert group in listed
    assert described["state"] == "Stable"
    assert described["protocol"].lower().startswith("roundrobin")
    assert sorted(m["assignment"] for m in described["members"]) == sorted(held)


@scenario("delete groups")
def deleting_a_group(world: World) -> None:
    """A group with members cannot be deleted; an empty one is gone with its offsets."""
    topic, group = world.topic(), world.name("group")
    world.client.write(topic, *numbered(5))
    consumer = world.client.consumer(topic, group=group)
    consumer.take(5)
    consumer.commit()

    with refused(NON_EMPTY_GROUP):
        world.client.delete_group(group)
    consumer.close()
    world.client.delete_group(group)

    assert group not in world.client.groups()
    with refused(GROUP_ID_NOT_FOUND):
        world.client.delete_group(group)
    again = world.client.consumer(topic, group=group)
    assert_log(again.take(5), numbered(5))
    again.close()


@scenario("alter group offsets")
def setting_a_groups_offsets(world: World) -> None:
    """The admin client sets an empty group's offsets, and the next member starts there."""
    topic, group = world.topic(partitions=2), world.name("group")
    world.client.write(topic, *numbered(10, partition=0), *numbered(10, partition=1))

    world.client.alter_group_offsets(group, {(topic, 0): 7, (topic, 1): 9})
    consumer = world.client.consumer(topic, group=group)
    received = consumer.take(4)
    consumer.close()

    assert sorted((r.partition, r.offset) for r in received) == [(0, 7), (0, 8), (0, 9), (1, 9)]


@scenario("delete group offsets")
def deleting_a_groups_offsets(world: World) -> None:
    """An offset is deleted from a group that no longer reads the topic; one that does keeps it."""
    topic, group = world.topic(partitions=2), world.name("group")
    world.client.write(topic, *numbered(3, partition=0), *numbered(3, partition=1))
    consumer = world.client.consumer(topic, group=group)
    consumer.take(6)
    consumer.commit()

    with refused(GROUP_SUBSCRIBED_TO_TOPIC):
        world.client.delete_group_offsets(group, [(topic, 0)])
    consumer.close()
    world.client.delete_group_offsets(group, [(topic, 0)])

    assert world.client.group_offsets(group) == {(topic, 1): 3}


@scenario()
def subscribing_by_pattern(world: World) -> None:
    """A member that subscribed to a pattern reads all topics that match, and no other."""
    stem = world.name("pattern")
    for suffix in ("a", "b"):
        world.client.create_topic(f"{stem}-{suffix}", 1)
        world.await_partitions(f"{stem}-{suffix}", 1)
        world.client.write(f"{stem}-{suffix}", Record(value=suffix.encode(), partition=0))
    world.client.create_topic(f"other-{stem}", 1)
    consumer = world.client.consumer(pattern=f"{stem}-.*", group=world.name("group"), metadata_ms=500)

    received = consumer.take(2)
    held = consumer.assignment()
    consumer.close()

    assert {(r.topic, r.value) for r in received} == {(f"{stem}-a", b"a"), (f"{stem}-b", b"b")}
    assert held == {(f"{stem}-a", 0), (f"{stem}-b", 0)}


@scenario()
def a_group_over_two_topics(world: World) -> None:
    """One member subscribes to two topics and reads both, each in order."""
    one, two = world.topic(), world.topic(partitions=2)
    world.client.write(one, *numbered(10))
    world.client.write(two, *numbered(10, partition=1))
    consumer = world.client.consumer(one, two, group=world.name("group"))

    received = consumer.take(20)
    held = consumer.assignment()
    consumer.close()

    assert held == {(one, 0), (two, 0), (two, 1)}
    assert offsets([r for r in received if r.topic == one]) == list(range(10))
    assert offsets([r for r in received if r.topic == two]) == list(range(10))
