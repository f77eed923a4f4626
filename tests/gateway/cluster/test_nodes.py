"""Which node leads what, and where a client reaches it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.cluster.nodes import NOBODY, Address, Node, Nodes, owners_of
from tests.core.cluster.coordinator import Coordinator, Seat


@dataclass
class Came:
    """A listener that a client came by."""

    name: str
    advertised_host: str = "here"
    advertised_port: int = 9092


INSIDE, OUTSIDE = Came("INSIDE"), Came("OUTSIDE", "here.example", 19092)
OTHER = Node(
    id=101,
    listeners={"INSIDE": ("there", 9093), "OUTSIDE": ("there.example", 19093)},
    containers={1: 7, 3: 9},
    inner="/run/1.sock",
)


def nodes(*others: Node) -> Nodes:
    made = Nodes(100, lambda container_id: container_id in (0, 2))
    made.replace(others)
    return made


def test_alone() -> None:
    """Without others this node is all there is, at the address of the listener that was asked."""
    alone = nodes()
    assert alone.is_alone
    assert alone.addresses(OUTSIDE) == [Address(100, "here.example", 19092)]
    assert alone.leader(0) == 100
    assert alone.leader(1) == NOBODY


def test_others_by_the_same_listener() -> None:
    """A client gets the others' addresses for a listener of the name that it came by, and no others."""
    both = nodes(OTHER)
    assert both.addresses(INSIDE) == [Address(100, "here", 9092), Address(101, "there", 9093)]
    assert both.addresses(OUTSIDE)[1] == Address(101, "there.example", 19093)
    assert both.addresses(Came("THIRD")) == [Address(100, "here", 9092)]
    assert both.address(101, Came("THIRD")) is None


def test_leaders() -> None:
    """A container leads to its node, with that node's epoch; what is open here is this node's, whatever others say."""
    both = nodes(Node(id=101, listeners={}, containers={0: 5, 1: 7}, inner=""))
    assert both.leader(1) == 101
    assert both.epoch(1) == 7
    assert both.leader(0) == 100
    assert both.epoch(4) == -1
    both.replace([])
    assert both.leader(1) == NOBODY


def test_what_a_node_tells_of_itself() -> None:
    """A node reads back what another one wrote; this node's own row changes nothing."""
    assert Node.decode(101, OTHER.encode()) == OTHER
    me = Node(id=100, listeners={}, containers={1: 1}, inner="")
    assert nodes(me).is_alone


def test_a_node_that_ended() -> None:
    """It leads nothing and has no address, whatever else changes, until it tells of its next life."""
    third = Node(id=102, listeners={"INSIDE": ("third", 9094)}, containers={5: 2})
    all_three = nodes(OTHER, third)
    before = all_three.version
    all_three.went(101)
    assert all_three.version > before
    assert (all_three.leader(1), all_three.epoch(1), all_three.node_of(1)) == (NOBODY, -1, None)
    assert all_three.address(101, INSIDE) is None
    assert all_three.addresses(INSIDE) == [Address(100, "here", 9092), Address(102, "third", 9094)]
    all_three.replace([OTHER, replace(third, containers={5: 3})])
    assert (all_three.leader(1), all_three.leader(5)) == (NOBODY, 102)
    all_three.replace([replace(OTHER, containers={1: 8, 3: 10}), third])
    assert (all_three.leader(1), all_three.epoch(1)) == (101, 8)


def test_ended_before_it_told() -> None:
    """A node that nobody knew is none that is away: what it tells later counts."""
    alone = nodes()
    alone.went(101)
    alone.replace([OTHER])
    assert alone.leader(1) == 101


def test_a_node_that_cannot_be_read_hides_no_other() -> None:
    """It lives, and leads what the coordinator says; this node does not know where."""
    coordinator = Coordinator((0, 1))
    seats = {node: Seat(coordinator, node) for node in (100, 101, 102)}
    for node, container in ((101, 0), (102, 1)):
        claim = coordinator.claim(node, seats[node].life, container)
        assert claim is not None
        coordinator.confirm(claim, ())
    good = Node(id=101, listeners={"INSIDE": ("there", 9093)}, containers={}, pulse=("there", 1)).encode()
    for wrong in ({"release": 9}, {**good, "listeners": 3}, {**good, "listeners": {"INSIDE": ["there"]}}):
        (found,) = owners_of({101: good, 102: wrong}, seats[100])
        assert (found.id, found.listeners, found.containers) == (101, {"INSIDE": ("there", 9093)}, {0: 1})
