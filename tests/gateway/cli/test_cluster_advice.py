"""What `penstock cluster status` says of each state, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.cluster.coordination import Life, Owner, Stage
from core.cluster.members import Member
from gateway.cli.cluster_advice import Seen, advice

LIVES = {node: Life(node=node, life=f"life of {node}") for node in (1, 2)}


def owned(node: int, stage: Stage = Stage.SERVING) -> Owner:
    return Owner(node=node, life=f"life of {node}", epoch=7, stage=stage)


WELL = Seen(range(3), {0: owned(1), 1: owned(2), 2: owned(1)}, LIVES, {1: (1, 4), 2: (0, 4)}, {})
GONE = {2: Member(node=2, life="former", served={1: 7}, told={}, ended_ms=1_700_000_000_000)}
ALONE = replace(WELL, lives={1: LIVES[1]}, owners=dict.fromkeys(range(3), owned(1)), members=GONE)
LEFT = {2: replace(GONE[2], served={}, has_left=True)}
APART = {2: replace(LIVES[2], reaches_store=False)}
DRAINING = {2: replace(LIVES[2], is_draining=True)}


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (WELL, []),
        (replace(WELL, lives={}, owners={}), ["no node lives"]),
        (replace(WELL, owners={0: owned(1)}), ["containers 1, 2 are nobody's, and not served"]),
        (
            replace(WELL, containers=range(20), owners={}),
            ["containers 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 10 more are nobody's"],
        ),
        (replace(WELL, owners={**WELL.owners, 1: owned(2, Stage.OPENING)}), ["container 1 is being opened"]),
        (replace(WELL, renewed_s={1: (3, 4), 2: (2, 4)}), ["node 1 has not renewed its lease for 3 s of 4 s"]),
        (replace(WELL, lives=LIVES | DRAINING), ["node 2 gives its 1 containers away"]),
        (
            replace(WELL, lives=LIVES | DRAINING, owners={one: owned(1) for one in range(3)}),
            ["node 2 has no containers any more: stop it"],
        ),
        (
            replace(WELL, lives=DRAINING, owners={one: owned(2) for one in range(3)}),
            ["no other node is there to take them: start one"],
        ),
        (
            replace(WELL, lives=LIVES | APART),
            ["node 2 does not reach the bucket: acknowledgements of its 1 containers wait, and it is given no others"],
        ),
        (
            replace(WELL, lives={1: replace(LIVES[1], is_draining=True), **APART}),
            ["node 1 should give 2 containers away, and no other node is there", "node 2 does not reach the bucket"],
        ),
        (
            ALONE,
            [
                "node 2 has gone, since 2023-11-14T22:13:20.000Z, without being stopped: it had container 1. Start it "
                "again, or have it forgotten with `penstock cluster forget 2`"
            ],
        ),
        (
            replace(ALONE, owners={0: owned(1), 2: owned(1)}),
            [
                "container 1 is nobody's, and not served (last at node 2): a node that lives takes each",
                "it had container 1, of which 1 is nobody's. Start it again",
            ],
        ),
        (
            replace(ALONE, members={2: replace(GONE[2], served={}, ended_ms=None)}),
            ["node 2 has gone, nobody has heard since when, without being stopped: it had no container. Start it"],
        ),
        (replace(ALONE, members=LEFT), []),
        (replace(WELL, members=GONE), []),
        (replace(ALONE, lives={}, owners={}), ["no node lives", "node 2 has gone"]),
        (replace(WELL, troubles={2: ["the store does not answer"]}), ["node 2 says: the store does not answer"]),
    ],
)
def test_each_state_has_its_words(seen: Seen, words: list[str]) -> None:
    told = advice(seen)
    assert len(told) == len(words), told
    for one, wanted in zip(told, words, strict=True):
        assert wanted in one
