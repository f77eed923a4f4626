"""Quotas over the wire: set, described, in effect at once, durable; and what a client over its quota sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from gateway.network.connection import Connection
from gateway.quotas.quotas import decode_key, encode_key
from tests.gateway.apis.harness import NOW, Admin, admin_of, code_and_message
from tests.gateway.harness import FETCH, PRODUCE, Client, batch, fetch_body, produce_body, values

CLIENT_ID: Final = "test"  # of the harness


def change(entity: dict[str, str | None], key: str, value: float | None) -> dict[str, Any]:
    parts = [{"entity_type": kind, "entity_name": name} for kind, name in entity.items()]
    return {"entity": parts, "ops": [{"key": key, "value": value or 0.0, "remove": value is None}]}


def set_quota(admin: Admin, entity: dict[str, str | None], key: str, value: float | None, **more: Any) -> int:
    (done,) = admin.ask("AlterClientQuotas", 1, entries=[change(entity, key, value)], **more).entries
    return int(done.error_code)


def described(admin: Admin, *components: tuple[str, int, str | None], strict: bool = False) -> dict[Any, Any]:
    asked = [{"entity_type": kind, "match_type": way, "match": name} for kind, way, name in components]
    entries = admin.ask("DescribeClientQuotas", 1, components=asked, strict=strict).entries
    return {
        tuple((part.entity_type, part.entity_name) for part in entry.entity): {v.key: v.value for v in entry.values}
        for entry in entries
    }


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with admin_of(tmp_path_factory.mktemp("broker")) as admin:
        yield admin


def test_described(fresh: Admin) -> None:
    """Filters choose by name, default and presence; strict ones leave out entities with further parts."""
    alice, both, default = {"user": "alice"}, {"user": "alice", "client-id": "c"}, {"user": None}
    for number, entity in enumerate((alice, both, default)):
        assert set_quota(fresh, entity, "producer_byte_rate", 1_000.0 + number) == 0
    assert set_quota(fresh, alice, "consumer_byte_rate", 5.0) == 0
    assert set_quota(fresh, alice, "consumer_byte_rate", 9.0, validate_only=True) == 0

    assert described(fresh) == {
        (("user", "alice"),): {"producer_byte_rate": 1_000.0, "consumer_byte_rate": 5.0},
        (("client-id", "c"), ("user", "alice")): {"producer_byte_rate": 1_001.0},
        (("user", None),): {"producer_byte_rate": 1_002.0},
    }
    assert len(described(fresh, ("user", 0, "alice"))) == 2
    assert list(described(fresh, ("user", 0, "alice"), strict=True)) == [(("user", "alice"),)]
    assert list(described(fresh, ("user", 1, None))) == [(("user", None),)]
    assert len(described(fresh, ("user", 2, None))) == 3


def test_durable(fresh: Admin) -> None:
    """Quotas are there after a restart, and gone when they were removed."""
    set_quota(fresh, {"user": "a"}, "producer_byte_rate", 1_000.0)
    set_quota(fresh, {"user": "b"}, "producer_byte_rate", 1_000.0)
    set_quota(fresh, {"user": "b"}, "producer_byte_rate", None)
    fresh.restart()
    assert described(fresh) == {(("user", "a"),): {"producer_byte_rate": 1_000.0}}
    assert fresh.broker.services.quotas.is_on


def test_golden() -> None:
    """The row of a quota, byte for byte."""
    parts = frozenset({("user", None), ("client-id", 'c"')})
    key = b'\x01[[["client-id","c\\""],["user",null]],"producer_byte_rate"]'
    assert encode_key(parts, "producer_byte_rate") == key
    assert decode_key(key) == (parts, "producer_byte_rate")


def test_addresses(fresh: Admin) -> None:
    """A rate of connections belongs to an address or to all others; another spelling is the same address."""
    for entity, value in (({"ip": "10.0.0.7"}, 5.0), ({"ip": "0:0::1"}, 6.0), ({"ip": None}, 7.0)):
        assert set_quota(fresh, entity, "connection_creation_rate", value) == 0
    rate_of = fresh.broker.services.quotas.connections_per_s
    assert [rate_of(host) for host in ("10.0.0.7", "::1", "10.0.0.8")] == [5, 6, 7]
    fresh.restart()
    rate_of = fresh.broker.services.quotas.connections_per_s
    assert [rate_of(host) for host in ("10.0.0.7", "::1", "10.0.0.8")] == [5, 6, 7]

    (refused,) = fresh.ask(
        "AlterClientQuotas", 1, entries=[change({"ip": "no address"}, "connection_creation_rate", 5.0)]
    ).entries
    assert code_and_message(refused) == (42, "no address is not a valid IP or resolvable host.")


def muted(admin: Admin, client: Client) -> bool:
    """Is the next request of a client not even begun, while others are answered?"""
    client.send(18, 0, {})
    for _ in range(20):
        admin.ask("ApiVersions", 0)
    return "muted" in repr(connection_of(admin, client))


def connection_of(admin: Admin, client: Client) -> Connection:
    """The broker's side of it."""
    assert admin.broker._server is not None
    port = client._writer.get_extra_info("sockname")[1]
    (connection,) = [one for one in admin.broker._server.connections if one.peer_port == port]
    return connection


def test_a_producer_over_its_quota(fresh: Admin) -> None:
    """Its records are stored and acknowledged, with the time that it is muted for; others go on."""
    topic = fresh.create()
    set_quota(fresh, {"user": "ANONYMOUS", "client-id": CLIENT_ID}, "producer_byte_rate", 1_000.0)
    client = fresh.run(Client.connect(fresh.broker))
    answer = fresh.run(client.ask(PRODUCE, 8, produce_body(topic, [(0, batch(bytes(60_000)))])))

    assert answer.responses[0].partition_responses[0].error_code == 0
    assert 50_000 < answer.throttle_time < 51_000
    assert fresh.broker.quotas.pauses["producer_byte_rate"] == 1
    assert muted(fresh, client)
    assert fresh.slot(topic).end == 1
    set_quota(fresh, {"user": "ANONYMOUS", "client-id": CLIENT_ID}, "producer_byte_rate", None)
    fresh.produce(topic, NOW)  # another connection, without a quota


def test_a_consumer_over_its_quota(fresh: Admin) -> None:
    """Its answer is empty and names the pause; within the quota it gets everything, byte for byte."""
    topic = fresh.create()
    for number in range(30):
        answer = fresh.run(fresh._client.produce(topic, batch(b"%02d" % number + bytes(1_000))))
        assert answer.error_code == 0
    set_quota(fresh, {"client-id": None}, "consumer_byte_rate", 2_000.0)
    client = fresh.run(Client.connect(fresh.broker))
    first = fresh.run(client.ask(FETCH, 11, fetch_body([(topic, 0, 0)])))
    got = values(first.responses[0].partitions[0].records)
    assert first.throttle_time == 0
    assert 0 < len(got) < 30  # no more than fits into a window
    second = fresh.run(client.ask(FETCH, 11, fetch_body([(topic, 0, len(got))])))

    assert second.throttle_time > 0
    assert second.responses == []
    assert fresh.broker.quotas.pauses["consumer_byte_rate"] == 1
    assert muted(fresh, client)
    set_quota(fresh, {"client-id": None}, "consumer_byte_rate", None)
    other = fresh.run(Client.connect(fresh.broker))
    rest = fresh.run(other.ask(FETCH, 11, fetch_body([(topic, 0, len(got))])))
    offsets = [offset for offset, _ in got + values(rest.responses[0].partitions[0].records)]
    assert offsets == list(range(30))


def test_a_throttled_session_misses_nothing(fresh: Admin) -> None:
    """What a session was not told because of its quota is told by the next fetch within it."""
    topic = fresh.create()
    client = fresh.run(Client.connect(fresh.broker))
    first = fresh.run(client.ask(FETCH, 11, fetch_body([(topic, 0, 0)], session_epoch=0)))
    assert first.session_id
    set_quota(fresh, {"client-id": CLIENT_ID}, "consumer_byte_rate", 1.0)
    fresh.produce(topic, NOW)
    second = fresh.run(client.ask(FETCH, 11, fetch_body([], session_id=first.session_id, session_epoch=1)))
    assert (second.throttle_time > 0, second.responses) == (True, [])
    set_quota(fresh, {"client-id": CLIENT_ID}, "consumer_byte_rate", None)
    other = fresh.run(Client.connect(fresh.broker))
    third = fresh.run(other.ask(FETCH, 11, fetch_body([], session_id=first.session_id, session_epoch=2)))

    assert len(values(third.responses[0].partitions[0].records)) == 1
