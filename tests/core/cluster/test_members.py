"""Which rows of nodes are due to be changed: one's own, those of nodes that have gone, and the oldest of many."""

from __future__ import annotations

from dataclasses import replace

from core.cluster.coordination import Life, Owner, Stage
from core.cluster.members import LEFT_MAX, Forget, Member, Note, View, due, last_servers

NOW_MS = 1_700_000_000_000
LIVES = {node: Life(node=node, life=f"life of {node}") for node in (1, 2)}


def owned(node: int, epoch: int, stage: Stage = Stage.SERVING) -> Owner:
    return Owner(node=node, life=f"life of {node}", epoch=epoch, stage=stage)


def member(node: int, *served: int, life: str = "") -> Member:
    """With epoch 7 of each container."""
    return Member(node=node, life=life or f"life of {node}", served=dict.fromkeys(served, 7), told={"host": f"h{node}"})


BOTH = View(
    node=1,
    life="life of 1",
    members={1: member(1, 0, 3), 2: member(2, 1)},
    lives=LIVES,
    owners={0: owned(1, 7), 1: owned(2, 7), 3: owned(1, 7)},
    told={1: {"host": "h1"}, 2: {"host": "h2"}},
)


def test_nothing_is_due_while_all_rows_are_right() -> None:
    assert due(BOTH, NOW_MS) == []


def test_a_node_keeps_its_own_row() -> None:
    """It has what is served under its life, and what the node tells; what is still opened is not served."""
    for view, row in (
        (replace(BOTH, members={2: member(2, 1)}), member(1, 0, 3)),
        (replace(BOTH, owners={0: owned(1, 7), 3: owned(1, 9, Stage.OPENING), 4: owned(2, 8)}), member(1, 0)),
        (replace(BOTH, told={1: {"host": "other"}}), replace(member(1, 0, 3), told={"host": "other"})),
        (replace(BOTH, members=BOTH.members | {1: member(1, 0, 3, life="former")}), member(1, 0, 3)),
        (replace(BOTH, members=BOTH.members | {1: replace(member(1, 0, 3), ended_ms=5)}), member(1, 0, 3)),
    ):
        assert due(view, NOW_MS) == [Note(row)]


def test_a_node_that_has_gone_is_noted_once() -> None:
    """With what it served, whoever has that now."""
    gone = replace(BOTH, lives={1: LIVES[1]}, owners={0: owned(1, 7), 1: owned(1, 9), 3: owned(1, 7)})
    ended = replace(member(2, 1), ended_ms=NOW_MS)
    assert due(gone, NOW_MS)[1:] == [Note(ended)]
    noted = replace(gone, members={1: due(gone, NOW_MS)[0].member, 2: ended})  # type: ignore[union-attr]
    assert due(noted, NOW_MS + 1) == []


def test_a_node_that_was_stopped_needs_no_note() -> None:
    left = replace(member(2), has_left=True, ended_ms=5)
    assert due(replace(BOTH, lives={1: LIVES[1]}, members={**BOTH.members, 2: left}), NOW_MS) == []


def test_those_that_left_first_are_forgotten_when_many_have() -> None:
    """And none that has gone without being stopped, however long ago."""
    left = {node: replace(member(node), has_left=True, ended_ms=1_000 - node) for node in range(10, 12 + LEFT_MAX)}
    gone = {5: replace(member(5, 3), ended_ms=1)}
    oldest = [max(left), max(left) - 1]
    assert due(replace(BOTH, members={**BOTH.members, **left, **gone}), NOW_MS) == [Forget(one) for one in oldest]


def test_a_node_that_does_not_live_changes_nothing() -> None:
    """Its lease has ended, or another life has begun: what it sees may be old."""
    for lives in ({2: LIVES[2]}, LIVES | {1: Life(node=1, life="another")}):
        assert due(replace(BOTH, lives=lives, members={}), NOW_MS) == []


def test_who_served_a_container_last() -> None:
    """By the epochs of the claims: a row may be older than the hand-over."""
    newer = replace(member(2), served={0: 9, 4: 3})
    assert last_servers({1: member(1, 0, 3), 2: newer}) == {0: 2, 3: 1, 4: 2}
    assert last_servers({2: newer, 1: member(1, 0, 3)}) == {0: 2, 3: 1, 4: 2}
