"""Fair turns at the event loop, and answers that are made only when there is room. Over real sockets."""

import asyncio
import logging

import pytest

from gateway.network.host import ServerLimits
from gateway.network.turns import PARTY_S, FairTurns
from tests.gateway.network.harness import (
    HEARTBEAT,
    PRODUCE,
    Client,
    Gate,
    heartbeat,
    produce,
    produced,
    run,
    serving,
    until,
)

pytestmark = pytest.mark.slow

HEADER_BYTES = 4 + 8 + 2 + len("someone") + 1
HOLDING = "hold015"
"""Handlers with this name keep the loop for 15 ms: each is more than a party's share of a round."""
assert PARTY_S < 0.015


async def overtaken_by(gate: Gate, honest: Client) -> int:
    """The number of the busy client's handlers that begin between an honest request and its handler."""
    await until(lambda: f"{HOLDING}-0" in gate.begun, "the busy client has begun")
    sent_at = len(gate.begun)
    honest.send(heartbeat("little", client_id="honest"))
    await honest.frame()
    return gate.begun.index("little") - sent_at


def test_little_before_much() -> None:
    """A client with few requests is served before the rest of a busy client's requests."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            busy, honest = await Client.connect(port), await Client.connect(port)
            honest.send(heartbeat("hello", client_id="honest"))
            await honest.frame()
            busy.send(*(produce(f"{HOLDING}-{n}", client_id="busy") for n in range(40)))

            assert await overtaken_by(gate, honest) <= 15

    run(test())


def test_many_connections_are_one_party() -> None:
    """A client that opens many connections gets no more turns by it."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            honest = await Client.connect(port)
            honest.send(heartbeat("hello", client_id="honest"))
            await honest.frame()
            for n in range(40):
                busy = await Client.connect(port)
                busy.send(produce(f"{HOLDING}-{n}", client_id="busy"))

            assert await overtaken_by(gate, honest) <= 15

    run(test())


def test_handlers_that_are_tasks_wait_too() -> None:
    """Tasks of a busy client wait for their turn like its other handlers."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            busy, honest = await Client.connect(port), await Client.connect(port)
            honest.send(heartbeat("hello", client_id="honest"))
            await honest.frame()
            busy.send(*(heartbeat(f"{HOLDING}-{n}", client_id="busy") for n in range(30)))

            assert await overtaken_by(gate, honest) <= 15

    run(test())


def test_order_out_of_turn() -> None:
    """Requests of one connection begin in their order, also when they wait for their turn, of both kinds alike."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            names = [f"{HOLDING}-{n}" for n in range(24)]
            client.send(*(produce(n) if i % 3 else heartbeat(n) for i, n in enumerate(names)))
            for _ in names:
                await client.frame()

            assert gate.begun == names

    run(test())


def test_order_around_a_large_request() -> None:
    """A request that is decoded in a thread begins before those behind it on its connection."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            client.send(heartbeat("a"), heartbeat("large", size=30_000), produce("b"), heartbeat("c"))
            for _ in range(4):
                await client.frame()

            assert gate.begun == ["a", "large", "b", "c"]

    run(test())


def test_a_large_request_is_alone() -> None:
    """Nothing behind a large request begins before it is answered: its handler may give way in the middle."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            client.send(heartbeat("wait-large", 1, size=30_000), heartbeat("b", 2), produce("c", 3))
            await until(lambda: gate.begun == ["wait-large"], "the large one has begun")
            other = await Client.connect(port)
            other.send(heartbeat("other", client_id="other"))
            await other.frame()
            assert gate.begun == ["wait-large", "other"]
            gate.released["wait-large"].set()

            assert [(await client.frame())[0] for _ in range(3)] == [1, 2, 3]

    run(test())


def test_closed_while_in_line() -> None:
    """A client that goes while it waits for its turn leaves the line, and others go on."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (server, port):
            busy, other = await Client.connect(port), await Client.connect(port)
            busy.send(*(heartbeat(f"{HOLDING}-{n}", client_id="busy") for n in range(20)))
            await until(lambda: f"{HOLDING}-0" in gate.begun, "it has begun")
            busy.close()
            other.send(heartbeat("x", client_id="other"))
            await other.frame()

            await until(lambda: len(server.connections) == 1 and not server.host.turns.parties_waiting, "nobody waits")

    run(test())


def test_parties_are_forgotten() -> None:
    """Client ids that nobody uses any more cost nothing."""

    async def test() -> None:
        async with serving(Gate()) as (server, port):
            client = await Client.connect(port)
            client.send(*(heartbeat("x", client_id=f"made up {n}") for n in range(50)))
            for _ in range(50):
                await client.frame()
            (connection,) = server.connections
            assert list(connection.party.address.parties) == ["made up 49"]
            client.close()
            await until(lambda: not server.connections, "it is gone")

            assert repr(server.host.turns) == "<FairTurns 0 addresses, 0 parties in line>"

    run(test())


def test_a_party_alone_goes_on() -> None:
    """Work that a party gives way with comes back in the next round when nobody else wants the loop."""

    async def test() -> None:
        turns = FairTurns(asyncio.get_running_loop())
        party = turns.join("127.0.0.1", "alone")
        turns.spend(party, 2 * PARTY_S)
        assert party.over
        async with asyncio.timeout(5):
            await turns.turn(party)
            await turns.turn(party)

        assert not party.over

    run(test())


def test_little_by_little() -> None:
    """A party uses up its share of a round at once or in parts, and gets a new share in the next."""

    async def test() -> None:
        turns = FairTurns(asyncio.get_running_loop())
        party = turns.join("127.0.0.1", "busy")
        for _ in range(100):
            assert not party.over
            turns.spend(party, PARTY_S / 99)
        assert party.over
        async with asyncio.timeout(5):
            await turns.turn(party)

        assert not party.over
        assert not party.spent_s

    run(test())


def test_small_requests_cost_no_round() -> None:
    """While all parties together have had less than anybody's share, the loop is not asked for a round."""

    async def test() -> None:
        turns = FairTurns(asyncio.get_running_loop())
        rounds = 0
        for n in range(20):
            party = turns.join(f"127.0.0.{n}", "little")
            turns.spend(party, PARTY_S / 100)
            turns.leave(party)
            await asyncio.sleep(0)
            rounds += not turns.parties_in_round

        assert rounds == 1

    run(test())


def test_turns_are_measured() -> None:
    """The longest time that a request kept the loop is known by API, for handlers of both kinds."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (server, port):
            client = await Client.connect(port)
            client.send(produce("hold099", client_id="someone"), heartbeat("hold099", client_id="someone"))
            client.send(heartbeat("quick", client_id="someone"))
            for _ in range(3):
                await client.frame()

            turns = server.host.metrics.turns
            assert 0.099 <= turns[PRODUCE].longest_s < 60
            assert 0.099 <= turns[HEARTBEAT].longest_s < 60

    run(test())


def test_one_large_answer_at_a_time() -> None:
    """A client that does not read makes one answer of an API with large ones, not thirty."""

    async def test() -> None:
        gate = Gate()
        limits = ServerLimits(connection_output_bytes_max=1000)
        async with serving(gate, limits, large_answer=True) as (_, port):
            client = await Client.connect(port)
            client.send(*(heartbeat(f"wait-{n}", n) for n in range(8)))
            await until(lambda: gate.begun == ["wait-0"], "the first has begun")
            client.send(produce("fill", 8))
            await until(lambda: "fill" in gate.begun, "others go on meanwhile")
            assert gate.begun == ["wait-0", "fill"]
            for n in range(8):
                await until(lambda n=n: f"wait-{n}" in gate.released, "its turn has come")  # type: ignore[misc]
                gate.released[f"wait-{n}"].set()

            assert [(await client.frame())[0] for _ in range(9)] == list(range(9))

    run(test())


def test_an_answer_never_waits_for_those_behind_it() -> None:
    """Later answers of the connection use all of its room, and cannot leave before one that is still to be made."""

    async def test() -> None:
        gate = Gate()
        gate.answer_bytes = 2_000
        limits = ServerLimits(connection_output_bytes_max=1_000)
        async with serving(gate, limits, large_answer=True) as (_, port):
            client = await Client.connect(port)
            client.send(heartbeat("wait-first", 1), heartbeat("second", 2))
            await until(lambda: gate.begun == ["wait-first"], "the first has begun")
            client.send(produce("behind", 3))
            await until(lambda: "behind" in gate.begun, "one behind both is answered")
            gate.released["wait-first"].set()

            assert [(await client.frame())[0] for _ in range(3)] == [1, 2, 3]

    run(test())


def test_an_answer_that_waits_for_others_goes_before_those_behind_it() -> None:
    """It waits as others use all the room. Once one behind it is made, that is kept until this one has left."""

    async def test() -> None:
        gate = Gate()
        limits = ServerLimits(queued_response_bytes_max=1_000)
        async with serving(gate, limits, large_answer=True) as (server, port):
            server.host.output_budget.charge(1_000)
            client = await Client.connect(port)
            client.send(heartbeat("first", 1), produce("wait-behind", 2))
            await until(lambda: "wait-behind" in gate.waiting, "both have come")
            (connection,) = server.connections
            await until(lambda: "waits-for-room-for-an-answer" in connection.reasons, "the first waits for room")
            gate.waiting["wait-behind"].send((produced("wait-behind"),))

            assert [(await client.frame())[0] for _ in range(2)] == [1, 2]
            assert server.host.output_budget.used == 1_000

    run(test())


def test_an_answer_that_becomes_the_first_goes_before_those_behind_it() -> None:
    """The same when the one before it leaves only after those behind are made."""

    async def test() -> None:
        gate = Gate()
        limits = ServerLimits(queued_response_bytes_max=1_000)
        async with serving(gate, limits, large_answer=True) as (server, port):
            server.host.output_budget.charge(1_000)
            client = await Client.connect(port)
            client.send(produce("wait-head", 1), heartbeat("second", 2), produce("wait-behind", 3))
            await until(lambda: "wait-behind" in gate.waiting, "all have come")
            (connection,) = server.connections
            await until(lambda: "waits-for-room-for-an-answer" in connection.reasons, "the second waits for room")
            gate.waiting["wait-behind"].send((produced("wait-behind"),))
            gate.waiting["wait-head"].send((produced("wait-head"),))

            assert [(await client.frame())[0] for _ in range(3)] == [1, 2, 3]

    run(test())


def test_who_waits_for_room_learns_that_its_client_has_gone() -> None:
    """Though others still use all the room."""

    async def test() -> None:
        gate = Gate()
        limits = ServerLimits(queued_response_bytes_max=1_000)
        async with serving(gate, limits) as (server, port):
            server.host.output_budget.charge(1_000)
            client = await Client.connect(port)
            client.send(produce("wait"))
            await until(lambda: "wait" in gate.waiting, "it has come")
            told: list[str] = []
            slot = gate.waiting["wait"]
            (connection,) = server.connections
            connection.when_output_room(slot, lambda: told.append("gone"))
            connection.close()

            await until(lambda: told == ["gone"], "told")
            server.host.output_budget.release(1_000)
            await until(lambda: not server.host.output_budget.waiters, "the line is served")
            assert told == ["gone"]

    run(test())


def test_a_large_answer_out_of_its_turn_waits_for_room() -> None:
    """It would be kept until those before it are made, whenever that is; then it leaves with them."""

    async def test() -> None:
        gate = Gate()
        gate.answer_bytes = 2_000
        limits = ServerLimits(connection_output_bytes_max=1_000)
        async with serving(gate, limits, large_answer=True) as (_, port):
            client, other = await Client.connect(port), await Client.connect(port)
            client.send(produce("wait-head", 1), heartbeat("wait-first", 2), heartbeat("second", 3))
            await until(lambda: gate.begun == ["wait-head", "wait-first"], "the first large one has begun")
            client.send(produce("behind", 4))
            await until(lambda: "behind" in gate.begun, "one behind all is answered")
            gate.released["wait-first"].set()
            for number in range(3):
                other.send(heartbeat(f"other-{number}", client_id="other"))
                await other.frame()
            assert "second" not in gate.begun
            gate.waiting["wait-head"].send((produced("wait-head"),))

            assert [(await client.frame())[0] for _ in range(4)] == [1, 2, 3, 4]

    run(test())


def test_nothing_begins_behind_one_that_waits_for_room() -> None:
    """Answers of later requests cannot take the room that an earlier one of the connection waits for."""

    async def test() -> None:
        gate = Gate()
        limits = ServerLimits(queued_response_bytes_max=1_000)
        async with serving(gate, limits) as (server, port):
            client, other = await Client.connect(port), await Client.connect(port)
            server.host.output_budget.charge(1_000)
            client.send(produce("room-first", 1))
            await until(lambda: gate.begun == ["room-first"], "the first waits for room")
            client.send(produce("second", 2))
            other.send(heartbeat("other", client_id="other"))
            await other.frame()
            assert gate.begun == ["room-first", "other"]
            server.host.output_budget.release(1_000)

            assert [(await client.frame())[0] for _ in range(2)] == [1, 2]

    run(test())


def test_no_large_answer_for_who_has_gone() -> None:
    """A large answer that waits for room is not made when its peer is gone."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate, large_answer=True) as (server, port):
            client = await Client.connect(port)
            client.send(heartbeat("wait-first"), heartbeat("second"))
            await until(lambda: gate.begun == ["wait-first"], "the first has begun")
            client.close()
            await until(lambda: not server.connections, "the connection is gone")
            gate.released["wait-first"].set()
            await until(lambda: "0 running" in repr(server.dispatcher), "all have ended")

            assert gate.begun == ["wait-first"]

    run(test())


def test_held_loop_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One request that keeps everybody waiting is counted, and logged with API, client and size."""
    caplog.set_level(logging.WARNING, "gateway")

    async def test() -> None:
        async with serving(Gate()) as (server, port):
            client = await Client.connect(port)
            client.send(heartbeat("hold120", client_id="someone"))
            await client.frame()

            assert server.host.metrics.turns[HEARTBEAT].held == 1

    run(test())
    (held,) = [vars(r) for r in caplog.records if r.getMessage() == "one request held the event loop"]
    assert (held["api"], held["client"]) == ("Heartbeat v4", "someone")
    assert held["ms"] >= 120
    assert held["request_bytes"] == len(heartbeat("hold120", client_id="someone")) - HEADER_BYTES
