"""Random histories of groups find mistakes: each of these is planted, and a history shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from kio.schema.errors import ErrorCode

from gateway.groups.consumer import reconciliation
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.owners import Owners
from gateway.groups.share.partition import Run, SharePartition, State
from gateway.groups.streams.group import StreamsGroup
from gateway.groups.streams.owners import Owners as TaskOwners
from tests.gateway.groups.consumer import test_group_machine as consumer
from tests.gateway.groups.share import test_partition_stateful as share
from tests.gateway.groups.streams import test_group_machine as streams

pytestmark = pytest.mark.slow

Plant: TypeAlias = Callable[[pytest.MonkeyPatch], None]

HISTORIES = settings(
    max_examples=2_000,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    print_blob=False,
)


def a_member_gets_what_another_has(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Owners, "free_for", lambda _owners, _member_id, _topic, partitions: list(partitions))


def nobody_is_waited_for_to_give_up(patch: pytest.MonkeyPatch) -> None:
    """A partition goes on while its owner may still read and commit."""
    patch.setattr(reconciliation.Bearings, "still_owns", lambda *_: False)


def any_epoch_may_commit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(consumer, "check_commit", lambda *_: ErrorCode.none)


def a_member_that_lacks_something_is_done(patch: pytest.MonkeyPatch) -> None:
    """What a member waits for is forgotten: the group never converges."""
    patch.setattr(reconciliation, "carried_out", lambda member, step: (member.surplus.clear(), member.lacking.clear()))
    patch.setattr("gateway.groups.consumer.holders.carried_out", reconciliation.carried_out)


def topics_that_grow_are_not_noticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ConsumerGroup, "topics_changed", lambda *_: None)


def a_task_goes_on_while_it_is_active(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TaskOwners, "taken", lambda *_: frozenset())


def any_epoch_may_commit_for_a_task(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(streams, "check_commit", lambda *_: ErrorCode.none)


def a_silent_streams_member_stays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StreamsGroup, "_expired", lambda *_: None)


def anybody_may_settle_a_record(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SharePartition, "_require_held", lambda *_: None)


def a_delivery_is_counted_twice(patch: pytest.MonkeyPatch) -> None:
    give_back = SharePartition._give_back

    def counted(self: SharePartition, run: Run, limits: Any) -> None:
        run.count += 1
        give_back(self, run, limits)

    patch.setattr(SharePartition, "_give_back", counted)


def a_record_is_never_archived(patch: pytest.MonkeyPatch) -> None:
    def always_again(self: SharePartition, run: Run, limits: Any) -> None:
        run.state, run.holder, run.until_s = State.AVAILABLE, "", float("inf")
        self.changed = True

    patch.setattr(SharePartition, "_give_back", always_again)


def a_session_that_ends_takes_all_back(patch: pytest.MonkeyPatch) -> None:
    """Also what its member got in a session of its own since: the mistake that `take_back` mended."""
    patch.setattr(SharePartition, "take_back", lambda self, member, _, limits: self.release(member, limits))


CONSUMER = (
    a_member_gets_what_another_has,
    nobody_is_waited_for_to_give_up,
    any_epoch_may_commit,
    a_member_that_lacks_something_is_done,
    topics_that_grow_are_not_noticed,
)
STREAMS = (a_task_goes_on_while_it_is_active, any_epoch_may_commit_for_a_task, a_silent_streams_member_stays)
SHARE = (
    anybody_may_settle_a_record,
    a_delivery_is_counted_twice,
    a_record_is_never_archived,
    a_session_that_ends_takes_all_back,
)
PLANTED: list[tuple[type[RuleBasedStateMachine], Plant]] = [
    *((consumer.GroupMachine, plant) for plant in CONSUMER),
    *((streams.GroupMachine, plant) for plant in STREAMS),
    *((share.Model, plant) for plant in SHARE),
]


@pytest.mark.parametrize(("machine", "plant"), PLANTED, ids=[plant.__name__ for _, plant in PLANTED])
def test_a_planted_mistake_is_found(
    machine: type[RuleBasedStateMachine], plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception, KeyError, StopIteration)):
        run_state_machine_as_test(machine, settings=HISTORIES)
