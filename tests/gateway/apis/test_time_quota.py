"""`request_percentage` over the wire: the share of the loop's time that a client's requests take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.gateway.apis.harness import KEYS, NOW, Admin, admin_of
from tests.gateway.apis.test_quotas import connection_of, muted, set_quota
from tests.gateway.harness import FETCH, PRODUCE, Client, batch, fetch_body, produce_body, values

SHARE: Final = "request_percentage"
BUSY: Final[dict[str, str | None]] = {"client-id": "busy"}
LITTLE: Final = 0.0001
"""Per cent: ten microseconds in ten seconds, less than any request takes."""


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with admin_of(tmp_path_factory.mktemp("broker")) as admin:
        yield admin


def busy(admin: Admin) -> Client:
    client = admin.run(Client.connect(admin.broker))
    client.client_id = "busy"
    return client


def list_groups(admin: Admin, client: Client) -> Any:
    return admin.run(client.ask(KEYS["ListGroups"], 4, {"states_filter": []}))


@pytest.mark.slow
def test_a_client_over_its_share(fresh: Admin) -> None:
    """It is answered, then muted; what it asks next is answered after a second, with the pause that follows."""
    assert set_quota(fresh, BUSY, SHARE, LITTLE) == 0
    client = busy(fresh)
    began_s = time.monotonic()
    assert list_groups(fresh, client).error_code == 0
    assert muted(fresh, client)
    fresh.run(client._reader.readexactly(4))  # the answer to what `muted` asked
    assert 0.9 < time.monotonic() - began_s < 4  # from before the pause began: a slow machine makes it no shorter

    set_quota(fresh, BUSY, SHARE, None)
    other = busy(fresh)
    assert list_groups(fresh, other).throttle_time == 0
    assert not muted(fresh, other)


def test_answers_name_the_pause(fresh: Admin) -> None:
    """Produce, Fetch and the others tell how long their client must pause; records are given all the same."""
    topic = fresh.create()
    fresh.produce(topic, NOW)
    set_quota(fresh, BUSY, SHARE, LITTLE)
    list_groups(fresh, busy(fresh))

    assert list_groups(fresh, busy(fresh)).throttle_time == 1_000
    produced = fresh.run(busy(fresh).ask(PRODUCE, 8, produce_body(topic, [(0, batch(b"v"))])))
    assert (produced.responses[0].partition_responses[0].error_code, produced.throttle_time) == (0, 1_000)
    fetched = fresh.run(busy(fresh).ask(FETCH, 11, fetch_body([(topic, 0, 0)])))
    assert fetched.throttle_time == 1_000
    assert len(values(fetched.responses[0].partitions[0].records)) == 2


def test_an_answer_names_the_pause_for_its_own_request(fresh: Admin) -> None:
    """As Kafka's do: a client that has done nothing before hears of it in its first answer."""
    topic = fresh.create()
    set_quota(fresh, BUSY, SHARE, LITTLE)
    fetched = fresh.run(busy(fresh).ask(FETCH, 11, fetch_body([(topic, 0, 0)])))
    assert fetched.throttle_time == 1_000


def test_a_client_is_muted_for_as_long_as_it_was_told(fresh: Admin) -> None:
    """What its request takes after the answer was made counts for its next pause, and does not make this one longer."""
    quotas = fresh.broker.services.quotas
    set_quota(fresh, BUSY, SHARE, 1.0)
    client = busy(fresh)
    for seconds in (0.102, 0.002, 0.002):  # a tenth of a second in ten is its share
        quotas.spend("ANONYMOUS", "busy", seconds)
        told = list_groups(fresh, client).throttle_time
        handle = connection_of(fresh, client)._mute_handle
        assert 0 < told <= 1_000
        assert handle is not None
        assert handle.when() - fresh.run(loop_time()) <= (told + 1) / 1_000  # either is rounded


async def loop_time() -> float:
    return asyncio.get_running_loop().time()


def test_within_its_share(fresh: Admin) -> None:
    """A client with the whole loop's time never pauses, nor does one that the quota is not about."""
    set_quota(fresh, BUSY, SHARE, 100.0)
    set_quota(fresh, {"client-id": "idle"}, SHARE, LITTLE)
    client = busy(fresh)
    assert [list_groups(fresh, client).throttle_time for _ in range(50)] == [0] * 50
    assert not muted(fresh, client)
    assert fresh.ask("ListGroups", 4, states_filter=[]).throttle_time == 0


def test_per_cent_of_the_loop(fresh: Admin) -> None:
    """Ten per cent are a second in ten: what is more costs a pause, of a second at most."""
    quotas = fresh.broker.services.quotas
    set_quota(fresh, BUSY, SHARE, 10.0)
    assert quotas.spend("u", "busy", 0.9) == 0
    assert 0 < quotas.spend("u", "busy", 0.15) <= 600
    assert quotas.spend("u", "busy", 60.0) == 1_000
