"""Who leads a classic group, and what its members hold, whatever comes and goes, against the plainest bookkeeping."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from gateway.groups.classic.allowance import Allowance
from gateway.groups.classic.messages import MemberRecord, Protocol
from gateway.groups.classic.roster import Member, Roster

STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "remove", "rename", "ask"]), st.integers(0, 5), st.integers(1, 3)),
    max_size=30,
)


def a_member(member_id: str, protocols: int) -> Member:
    offered = tuple(Protocol(f"p{number}", b"x" * number) for number in range(protocols))
    return Member(member_id, MemberRecord(member_id, f"i-{member_id}", "c", "/h", 1, 1, offered, b"a"))


@given(STEPS)
def test_the_oldest_leads(steps: list[tuple[str, int, int]]) -> None:
    """When the leader goes, the oldest of the others leads, and keeps its lead under another id, asked for or not."""
    allowance = Allowance(1_000, 1_000)
    roster = Roster(allowance)
    ids: list[str] = []
    leader: str | None = None
    for number, (what, which, protocols) in enumerate(steps):
        chosen = ids[which % len(ids)] if ids else None
        match what:
            case "add":
                roster.add(a_member(f"m{number}", protocols))
                ids.append(f"m{number}")
                leader = leader or ids[0]
            case "remove" if chosen is not None:
                roster.remove(roster[chosen])
                ids.remove(chosen)
                if leader == chosen:
                    leader = ids[0] if ids else None
            case "rename" if chosen is not None:
                roster.rename_static(roster[chosen], f"m{number}")
                ids.remove(chosen)
                ids.append(f"m{number}")
                leader = f"m{number}" if leader == chosen else leader
            case "ask":
                assert roster.leader_id == leader
    assert roster.leader_id == leader
    assert [member.member_id for member in roster] == ids
    assert roster.protocol_count == sum(len(member.protocols) for member in roster)
    assert allowance.used == sum(member.size_bytes for member in roster)
    roster.disband()
    assert allowance.used == 0


@given(st.lists(st.permutations(["a", "b", "c"]), min_size=1, max_size=6), st.sampled_from(["", "a", "b", "c"]))
def test_the_protocol_that_most_prefer(preferred: list[list[str]], missing: str) -> None:
    """Among those that all support: the one that is the first choice of most; of equals the one that is seen first."""
    roster = Roster(Allowance(1_000, 1_000))
    offers = [[name for name in names if name != missing or not number] for number, names in enumerate(preferred)]
    for number, names in enumerate(offers):
        member = Member(f"m{number}", MemberRecord(f"m{number}", None, "c", "/h", 1, 1, (), b""))
        member.protocols = tuple(Protocol(name, b"") for name in names)
        roster.add(member)

    shared = set.intersection(*map(set, offers))
    firsts = [next(name for name in names if name in shared) for names in offers]
    assert roster.select_protocol() == max(dict.fromkeys(firsts), key=firsts.count)
